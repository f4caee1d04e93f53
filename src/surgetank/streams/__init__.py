"""The streams: each kind of data with its codec, sink, reader and SQL. What all of them share knows
none by name."""
