"""What of threads goes by age, count and size, and who uses the space."""
