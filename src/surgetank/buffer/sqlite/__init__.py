"""The buffer in one SQLite file: a family of parts around one connection that writes."""
