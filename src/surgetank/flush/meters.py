"""Counts what flushing did since this engine was opened, for the metrics. Needs nothing but memory.

Labels are streams, kinds and states: there are few of them. Threads and ids are never labels.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import assert_never

from surgetank.flush.events import (
    EntryParked,
    FlushEvent,
    JobFinished,
    PartitionFailed,
    PartitionForked,
    PartitionRecovered,
    ValuesReplaced,
)
from surgetank.model import FlushJob, JobStatus

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TRANSPORTS: tuple[str, ...] = ("websocket", "sse")


class Durations:
    """A histogram: how many took up to each of `bounds` (the last: longer), and their sum."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total_s += seconds

    def copy(self) -> Durations:
        """What it holds now."""
        made = Durations(self.bounds)
        made.counts, made.total_s = list(self.counts), self.total_s
        return made


class Meters:
    """Counts flush events. Safe to use from several threads; `snapshot` gives one moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._durations: dict[str, Durations] = {}
        self._subscribers = dict.fromkeys(TRANSPORTS, 0)

    def on_flush(self, event: FlushEvent) -> None:
        """Count one event."""
        with self._lock:
            match event:
                case PartitionFailed(outcome=outcome, failure=failure):
                    self._counts["failures", outcome.stream, failure.kind.value] += 1
                    if outcome.attempts > 1:
                        self._counts["retries", outcome.stream, "failed"] += 1
                case PartitionRecovered(outcome=outcome):
                    self._counts["retries", outcome.stream, "succeeded"] += 1
                case EntryParked(entry=entry):
                    self._counts["parked", entry.stream] += 1
                case ValuesReplaced(outcome=outcome):
                    self._counts["replaced", outcome.stream] += outcome.values_replaced
                case JobFinished(job=job):
                    self._job_finished(job)
                case PartitionForked():
                    pass  # rare, and told: not counted
                case _:
                    assert_never(event)

    def _job_finished(self, job: FlushJob) -> None:
        result, stream = job.result, job.stream
        status = (
            "warnings" if job.warnings and job.status is JobStatus.COMPLETED else job.status.value
        )
        self._counts["jobs", stream, status] += 1
        self._counts["entries", stream] += result.entries_flushed or 0
        self._counts["rows", stream] += result.rows_flushed or 0
        self._counts["bytes", stream] += result.bytes or 0
        self._durations.setdefault(stream, Durations()).add(result.seconds or 0.0)

    def subscribers(self, transport: str, change: int) -> None:
        """Somebody began (+1) or ended (-1) following live events; `transport` is one of
        `TRANSPORTS`."""
        with self._lock:
            self._subscribers[transport] += change

    def snapshot(self) -> tuple[dict[tuple[str, ...], int], dict[str, Durations], dict[str, int]]:
        """Counts by what and labels, durations by stream, subscribers by transport."""
        with self._lock:
            durations = {stream: taken.copy() for stream, taken in self._durations.items()}
            return dict(self._counts), durations, dict(self._subscribers)
