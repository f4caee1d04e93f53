"""Runs and workflows: accepted, claimed and ended in the database, so that nothing of them is only in
memory."""
