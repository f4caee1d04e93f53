"""Thread logs: their lines, sink and store."""
