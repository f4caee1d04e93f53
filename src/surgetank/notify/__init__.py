"""Telling people: thread logs, run events, system errors, alerts."""
