"""Threads moved between Surgetank and LangGraph's own savers."""
