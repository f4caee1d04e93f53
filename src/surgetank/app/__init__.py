"""An open engine: what it consists of, and the faces that applications hold."""
