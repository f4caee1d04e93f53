"""The HTTP server: who may see what, and the engine's answers as JSON."""
