"""The stream of user tables. Its rows wait in a store of their own (`hot/`), and a flusher of its own brings them into
files and their manifest: a table's rows are flushed together, not partition by partition."""

from __future__ import annotations

from surgetank.streams.stream import Stream
from surgetank.streams.tables.definition import STREAM

TABLES = Stream(name=STREAM, subject="table", entries="rows", make_sink=None)
