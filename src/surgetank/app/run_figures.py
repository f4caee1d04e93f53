"""Figures of runs, approvals and webhooks for the metrics. They are asked for at most every ten seconds,
whoever scrapes how often, and a database that didn't answer is left alone for as long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.exceptions import DatabaseUnavailable, SurgetankError
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.status import Status
from surgetank.workflows.webhooks.log import WebhookLog

SQL = queries("app/run_figures.sql")
_FRESH_S = 10.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One moment. `runs` and `approvals` count by status, approvals that ended only of the last
    day; `decision_s` by quantile."""

    runs: Mapping[str, int] = field(default_factory=dict)
    queue_oldest_s: float = 0.0
    webhooks_waiting: int = 0
    webhooks_oldest_s: float = 0.0
    approvals: Mapping[str, int] = field(default_factory=dict)
    decision_s: Mapping[str, float] = field(default_factory=dict)


class RunFigures:
    """Asks for figures, and remembers them, or why there are none. Safe to use from several
    threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._at = float("-inf")
        self._found: Figures | SurgetankError = Figures()

    def read(self, database: Database) -> Figures:
        """The figures, ten seconds old at most. Raises `DatabaseUnavailable`."""
        with self._lock:
            if self._clock() - self._at >= _FRESH_S:
                try:
                    self._found = _ask(database)
                except DatabaseUnavailable as error:
                    self._found = error
                self._at = self._clock()
            if isinstance(self._found, SurgetankError):
                raise DatabaseUnavailable(self._found.what, remedy=self._found.remedy)
            return self._found


def _ask(database: Database) -> Figures:
    approvals: dict[str, int] = {}
    decision_s: dict[str, float] = {}
    runs = RunQueue(database).counts()
    waiting, oldest_s = WebhookLog(database).waiting()
    with database.reading() as connection:
        has_approvals = connection.execute(SQL["has_approvals"]).fetchone()
        if has_approvals is not None and has_approvals[0]:
            approvals = dict(connection.execute(SQL["approvals"]).fetchall())
            decided = connection.execute(SQL["decisions"]).fetchone() or ()
            decision_s = {
                quantile: float(seconds)
                for quantile, seconds in zip(("0.5", "0.95"), decided, strict=False)
                if seconds is not None
            }
    return Figures(
        runs={status.value: count for status, (count, _) in runs.items()},
        queue_oldest_s=max(0.0, runs.get(Status.PENDING, (0, 0.0))[1]),
        webhooks_waiting=waiting,
        webhooks_oldest_s=oldest_s,
        approvals=approvals,
        decision_s=decision_s,
    )
