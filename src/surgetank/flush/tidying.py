"""Keeping the buffer tidy between flushes: what can be forgotten goes, and jobs whose worker went
silent are ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from surgetank.buffer.jobs import JobLog
from surgetank.buffer.upkeep import Upkeep
from surgetank.job_result import JobResult
from surgetank.model import FlushJob, JobStatus

_EVERY_S = 2.0
_THOROUGH_S = 30.0  # what can be forgotten is found by reading all partitions


class Tidied(JobLog, Upkeep, Protocol):
    """What is kept tidy."""


class Tidying:
    """A step of housekeeping. Belongs to one thread."""

    def __init__(
        self, buffer: Tidied, *, clock: Callable[[], float], on_lost: Callable[[FlushJob], None]
    ) -> None:
        self._buffer = buffer
        self._clock = clock
        self._on_lost = on_lost
        self._done_at = self._thorough_at = float("-inf")

    def step(self, _: threading.Event) -> None:
        """Do what is due. Raises what the buffer raises."""
        now = self._clock()
        if 0 <= now - self._done_at < _EVERY_S:
            return
        thorough = not 0 <= now - self._thorough_at < _THOROUGH_S
        self._buffer.maintain(thorough=thorough)
        for lost in reap(self._buffer, now):
            self._on_lost(lost)
        self._done_at = now
        self._thorough_at = now if thorough else self._thorough_at


def reap(buffer: JobLog, now: float, *, silent_s: float = 120.0) -> list[FlushJob]:
    """Mark jobs whose worker went silent as failed; their entries were never acknowledged and are
    retried."""
    reaped: list[FlushJob] = []
    for job in buffer.jobs(status=JobStatus.RUNNING.value, limit=200):
        heartbeat = job.result.heartbeat_at
        heartbeat = heartbeat if heartbeat is not None else job.created_at
        if abs(now - heartbeat) < silent_s:  # a clock may be set back a little
            continue
        message = (
            f"The worker {job.node} stopped without finishing this job (killed?). "
            "Its entries stayed in the buffer and are flushed by another job."
        )
        ended = {"message": message, "errors": [], "warnings": [], "rows_flushed": 0}
        result = JobResult.of({**job.result, **ended})
        lost = job.finished(JobStatus.FAILED, now, result)
        buffer.save_job(lost)
        reaped.append(lost)
    return reaped
