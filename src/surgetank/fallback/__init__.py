"""Spilled entries outside the buffer: the form of their files, and the places that these may lie
in."""
