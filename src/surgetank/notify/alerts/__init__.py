"""Alerts: rules, the book of what was told, and the way out to people."""
