"""Live events for many followers."""
