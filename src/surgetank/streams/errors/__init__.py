"""System errors: their groups, sink and store."""
