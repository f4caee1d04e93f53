"""What machines read about an engine: metrics."""
