"""The streams that there are: one line each, in the order in which they are flushed."""

from __future__ import annotations

from surgetank.streams.checkpoints.stream import CHECKPOINTS
from surgetank.streams.errors.stream import ERRORS
from surgetank.streams.logs.stream import LOGS
from surgetank.streams.stream import Stream
from surgetank.streams.tables.stream import TABLES

STREAMS: tuple[Stream, ...] = (
    CHECKPOINTS,
    LOGS,
    ERRORS,
    TABLES,
)
