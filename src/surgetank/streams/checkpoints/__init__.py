"""LangGraph checkpoints: the saver on the buffer, the sink and the reader of the database."""
