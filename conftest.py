"""Loads the fixtures of `tests/support`, which every folder of tests shares."""

pytest_plugins = ["support.tanks", "support.projects", "support.analysts"]
