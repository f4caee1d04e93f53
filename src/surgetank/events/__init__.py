"""Run events: what happened to a thread, told live and kept for replay."""
