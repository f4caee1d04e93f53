"""A Redis or Valkey server under the buffer: its address, its scripts, its errors by name."""
