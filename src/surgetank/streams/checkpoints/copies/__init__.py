"""Copies of recently used threads beside the buffer: they are read while the database is away."""
