"""Value in, bytes out: pure functions without I/O."""
