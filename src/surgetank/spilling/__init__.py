"""What fails for long or fills the buffer moves to the fallback location, and comes back."""
