"""A buffer in Redis or Valkey."""
