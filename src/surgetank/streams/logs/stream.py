"""The stream of thread logs: one line about a run is one entry."""

from __future__ import annotations

from surgetank.streams.logs.line import STREAM
from surgetank.streams.logs.sink import log_sink
from surgetank.streams.stream import THREAD, Stream

LOGS = Stream(
    name=STREAM,
    subject=THREAD,
    entries="log lines",
    make_sink=lambda at: log_sink(at.database),
    relations=("thread_logs",),
)
