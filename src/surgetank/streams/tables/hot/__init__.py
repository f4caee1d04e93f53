"""The hot rows of tables: typed rows and Arrow segments, in one SQLite file beside the buffer."""
