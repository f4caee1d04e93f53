"""The stream of system errors: what an operator has to see, also while everything else is away."""

from __future__ import annotations

from surgetank.streams.errors.groups import STREAM
from surgetank.streams.errors.sink import error_sink
from surgetank.streams.stream import Stream

ERRORS = Stream(
    name=STREAM,
    subject="error",
    by_partition=False,  # a partition is a fingerprint
    urgent=True,
    make_sink=lambda at: error_sink(at.database),
    relations=("system_errors", "system_error_threads", "system_error_hours", "system_error_audit"),
)
