"""LangGraph checkpoints on the buffer and the database."""
