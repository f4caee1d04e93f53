"""What the tests stand on: real servers that can be started, stopped and killed, and waiting on
conditions."""
