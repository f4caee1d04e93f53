"""Counts what the workers and senders of this process did since the engine was opened, for the
metrics. Needs nothing but memory. No label is a thread or an id."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from uuid import UUID

from surgetank.bounded import BoundedMap
from surgetank.flush.meters import Durations
from surgetank.workflows.runs import Run
from surgetank.workflows.status import Status

WAIT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0, 120.0)
RUN_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
WEBHOOK_OUTCOMES = ("delivered", "retried", "failed")
_UNDER_WAY = 20_000


class RunMeters:
    """What a worker tells of its runs. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # Of runs that were lost to others no end is told.
        self._began = BoundedMap[UUID, float](_UNDER_WAY)
        self._waited = Durations(bounds=WAIT_SECONDS)
        self._ran: dict[str, Durations] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def started(self, run: Run) -> None:
        """A run was claimed: how long it waited since it could have begun, at its first attempt."""
        with self._lock:
            self._began[run.run_id] = self._clock()
            if run.attempts == 1:
                since = max(run.created_at, run.due_at)
                self._waited.add(max(0.0, (run.updated_at - since).total_seconds()))

    def ended(self, run: Run, status: Status) -> None:
        """An attempt of a run came to its end, or was given back (`pending`)."""
        with self._lock:
            self._counts["ended", status.value] += 1
            began = self._began.pop(run.run_id, None)
            if began is not None:
                of_status = self._ran.setdefault(status.value, Durations(bounds=RUN_SECONDS))
                of_status.add(self._clock() - began)

    def taken_over(self, runs: int) -> None:
        """So many runs were taken from workers that went silent."""
        with self._lock:
            self._counts["taken_over", ""] += runs

    def webhook(self, outcome: str) -> None:
        """An attempt to send a webhook came to one of `WEBHOOK_OUTCOMES`."""
        with self._lock:
            self._counts["webhooks", outcome] += 1

    def report(self) -> dict[str, int]:
        """How many attempts of runs have ended."""
        with self._lock:
            return {"ended": sum(n for (what, _), n in self._counts.items() if what == "ended")}

    def snapshot(self) -> tuple[dict[tuple[str, str], int], Durations, dict[str, Durations]]:
        """Counts by what and label, how long runs waited, how long they took by how they ended."""
        with self._lock:
            ran = {status: taken.copy() for status, taken in self._ran.items()}
            return dict(self._counts), self._waited.copy(), ran
