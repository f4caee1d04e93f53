"""Any LangGraph saver as the durable store of checkpoints."""
