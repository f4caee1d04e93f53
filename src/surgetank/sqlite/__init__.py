"""One SQLite file, as buffer, event log and alert book open it."""
