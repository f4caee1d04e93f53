"""Telling people: thread logs, run events, system errors, alerts (DESIGN.md section 7)."""
