"""Checkpoints in PostgreSQL: the sink that writes them and the reader."""
