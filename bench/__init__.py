"""Measurements side by side with LangGraph's own savers, in one run on one machine."""
