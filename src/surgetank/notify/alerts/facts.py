"""Gathers what the alert rules look at, from the buffer and, while it can be asked, from the
database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from psycopg.rows import dict_row

from surgetank.buffer.coordination import Backlog, Parking
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.events.types import Severity
from surgetank.exceptions import SurgetankError
from surgetank.notify.alerts.rules import CRITICAL_WINDOW_S, THREAD_WINDOW_S, Facts, TroubledThread
from surgetank.notify.incidents import Facts as Failing
from surgetank.notify.incidents import Trouble, judge
from surgetank.streams.errors.answers import ErrorFilter, HotGroup
from surgetank.streams.errors.groups import ErrorGroup
from surgetank.streams.errors.store import SystemErrors
from surgetank.streams.stream import Streams

SQL = queries("notify/alerts/alerts.sql")
_MOST = 500


_Answer = tuple[tuple[ErrorGroup, ...], tuple[TroubledThread, ...], str | None]


def _wanted(now: float) -> ErrorFilter:
    return ErrorFilter(
        severity=Severity.CRITICAL.value, resolved=False, since=now - CRITICAL_WINDOW_S
    )


class Waiting(Backlog, Parking, Protocol):
    """What the rules look at in the buffer."""


class FactFinder:
    """Looks around, from one thread. Remembers who was snoozed, for the time when the database
    can't be asked.

    The database is asked on a thread of its own: one that hangs (a lock, a failover) must not
    silence the alerts.
    """

    patience_s = 10.0

    def __init__(
        self,
        buffer: Waiting,
        database: Database,
        errors: SystemErrors,
        *,
        clock: Callable[[], float],
        sinks: Mapping[str, str],
        thread_errors: int,
        streams: Streams,
        critical_after_s: float,
    ) -> None:
        self._buffer = buffer
        self._database = database
        self._errors = errors
        self._clock = clock
        self._sinks = sinks
        self._thread_errors = thread_errors
        self._streams = streams
        self._critical_after_s = critical_after_s
        self._snoozed: dict[str, float] = {}
        self._asking: threading.Thread | None = None
        self._answered: _Answer | Exception | None = None

    def gather(self) -> Facts:
        """How things are now. Waits for the database for `patience_s` at most; raises for the
        buffer only."""
        now = self._clock()
        errors, threads, problem = self._answer(now)
        depth = self._buffer.depth()
        return Facts(
            now=now,
            depth=depth,
            errors=errors,
            threads=threads,
            troubles=self._troubles(now),
            failing=sum(stream.failing for stream in depth.streams),
            parked=len(self._buffer.parked()),
            snoozed=dict(self._snoozed),
            sinks=self._sinks,
            problem=problem,
        )

    def _troubles(self, now: float) -> tuple[Trouble, ...]:
        """What fails, by the judgement that notifier and status use."""
        groups = self._buffer.failures()
        if not groups:
            return ()
        facts = Failing(
            now=now,
            critical_after_s=self._critical_after_s,
            groups=groups,
            states=self._buffer.states(failing=True, limit=_MOST),
        )
        return tuple(judge(facts, self._streams))

    def _answer(self, now: float) -> _Answer:
        """What the database and the buffer know of errors, or the buffer alone when the database
        takes too long."""
        if self._asking is None or not self._asking.is_alive():
            self._answered = None
            self._asking = threading.Thread(
                target=self._fetch, args=(now,), name="surgetank-alerts-ask", daemon=True
            )
            self._asking.start()
        self._asking.join(self.patience_s)
        if isinstance(self._answered, Exception):
            raise self._answered
        if self._answered is not None:
            return self._answered
        hot, _ = self._errors.hot_groups(ask=False)
        return self._of_hot(now, hot, f"it has not answered for {self.patience_s:.0f} s")

    def _fetch(self, now: float) -> None:
        try:
            try:
                self._answered = self._errors_now(now)
            except SurgetankError as error:  # told in the message: the picture is incomplete
                hot, _ = self._errors.hot_groups(ask=False)
                self._answered = self._of_hot(now, hot, str(error))
        except Exception as error:  # noqa: BLE001 - raised again by `gather`
            self._answered = error

    @property
    def hanging(self) -> bool:
        """Whether the database has not answered yet."""
        return self._asking is not None and self._asking.is_alive()

    def _errors_now(self, now: float) -> _Answer:
        hot, problem = self._errors.hot_groups()
        if problem is not None:
            return self._of_hot(now, hot, problem)
        page = self._errors.find(_wanted(now), limit=_MOST)
        rows = self._ask(now, hot) if page.problem is None else []
        return page.errors, self._threads(now, hot, rows), page.problem

    def _of_hot(self, now: float, hot: list[HotGroup], problem: str) -> _Answer:
        wanted = _wanted(now)
        errors = [h.group for h in hot if h.group is not None and wanted.takes(h.group, set())]
        return tuple(errors), self._threads(now, hot, []), problem

    def _ask(self, now: float, hot: list[HotGroup]) -> list[dict[str, Any]]:
        closed = [found.id for found in hot if not self._alerting(found.group, now)]
        touched = {thread for found in hot for thread in found.threads}
        with (
            self._database.asking() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            snoozed = cursor.execute(SQL["snoozed"], {"now": now, "limit": _MOST}).fetchall()
            self._snoozed = {row["id"]: row["until"] for row in snoozed}
            return cursor.execute(
                SQL["threads_with_errors"],
                {
                    "now": now,
                    "since": now - THREAD_WINDOW_S,
                    "except_ids": closed,
                    "threads": sorted(touched),
                    "at_least": self._thread_errors,
                    "limit": _MOST + len(touched),
                },
            ).fetchall()

    def _threads(
        self, now: float, hot: list[HotGroup], rows: list[dict[str, Any]]
    ) -> tuple[TroubledThread, ...]:
        """Threads with their errors: the database's, and what is hot."""
        errors = {row["thread_id"]: set(row["errors"]) for row in rows}
        last = {row["thread_id"]: float(row["last"]) for row in rows}
        for found in hot:
            if not self._alerting(found.group, now):
                continue
            for thread, at in found.threads.items():
                errors.setdefault(thread, set()).add(found.id)
                last[thread] = max(last.get(thread, 0.0), at)
        worst = sorted(errors, key=lambda thread: (-len(errors[thread]), -last[thread]))
        return tuple(
            TroubledThread(thread, len(errors[thread]), last[thread]) for thread in worst[:_MOST]
        )

    def _alerting(self, group: ErrorGroup | None, now: float) -> bool:
        """Whether somebody should still hear of this group."""
        if group is None or group.resolved:
            return False
        return max(group.snoozed_until or 0.0, self._snoozed.get(group.id, 0.0)) <= now
