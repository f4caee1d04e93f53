"""Hot rows of tables that several hosts share: see `store.py`."""
