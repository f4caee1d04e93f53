"""The hot side: what was accepted and is not yet in the sink."""
