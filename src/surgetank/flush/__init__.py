"""From buffer to sink: decide what is due, write it, and tell what became of it."""
