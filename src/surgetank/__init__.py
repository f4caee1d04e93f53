"""Surgetank: a write-behind store for agent state."""
