"""The stream of thread logs: one line about a run is one entry."""

from __future__ import annotations

from surgetank.streams.logs.line import STREAM
from surgetank.streams.logs.sink import PostgresLogSink
from surgetank.streams.stream import THREAD, Stream

LOGS = Stream(
    name=STREAM,
    subject=THREAD,
    entries="log lines",
    make_sink=lambda at: PostgresLogSink(at.database),
    relations=("thread_logs",),
)
