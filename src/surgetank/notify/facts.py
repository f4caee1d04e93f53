"""Gathers what the alert rules look at, from the buffer and, while it can be asked, from the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from psycopg.rows import dict_row

from surgetank.buffer.protocol import Buffer
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode.errors import ErrorGroup
from surgetank.events import Severity
from surgetank.exceptions import SurgetankError
from surgetank.notify.alerts import CRITICAL_WINDOW_S, THREAD_WINDOW_S, Facts, TroubledThread
from surgetank.notify.errors import ErrorFilter, HotGroup, SystemErrors

SQL = queries("alerts")
_MOST = 500


class FactFinder:
    """Looks around. Remembers who was snoozed, for the time when the database can't be asked."""

    def __init__(
        self,
        buffer: Buffer,
        database: Database,
        errors: SystemErrors,
        *,
        clock: Callable[[], float],
        sinks: Mapping[str, str],
        thread_errors: int,
    ) -> None:
        self._buffer = buffer
        self._database = database
        self._errors = errors
        self._clock = clock
        self._sinks = sinks
        self._thread_errors = thread_errors
        self._snoozed: dict[str, float] = {}

    def look(self) -> Facts:
        """How things are now. May take as long as a database takes to be found dead; raises for the buffer only."""
        now = self._clock()
        hot, problem = self._errors.hot_groups()
        wanted = ErrorFilter(severity=Severity.CRITICAL.value, resolved=False, since=now - CRITICAL_WINDOW_S)
        errors = [g.group for g in hot if g.group is not None and wanted.takes(g.group, set())]
        rows: list[dict[str, Any]] = []
        if problem is None:
            try:
                page = self._errors.find(wanted, limit=_MOST)
                errors, problem = list(page.errors), page.problem
                rows = self._ask(now, hot) if problem is None else []
            except SurgetankError as error:
                problem = error.what
        return Facts(
            now,
            self._buffer.depth(),
            tuple(errors),
            self._threads(now, hot, rows),
            tuple(self._buffer.states(failing=True)),
            len(self._buffer.parked()),
            dict(self._snoozed),
            self._sinks,
            problem,
        )

    def _ask(self, now: float, hot: list[HotGroup]) -> list[dict[str, Any]]:
        closed = [found.id for found in hot if not self._alerting(found.group, now)]
        touched = {thread for found in hot for thread in found.threads}
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            snoozed = cursor.execute(SQL["snoozed"], {"now": now, "limit": _MOST}).fetchall()
            self._snoozed = {row["id"]: row["until"] for row in snoozed}
            return cursor.execute(
                SQL["threads_with_errors"],
                {
                    "now": now, "since": now - THREAD_WINDOW_S, "except_ids": closed, "threads": sorted(touched),
                    "at_least": self._thread_errors, "limit": _MOST + len(touched),
                },
            ).fetchall()  # fmt: skip

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
        return tuple(TroubledThread(thread, len(errors[thread]), last[thread]) for thread in worst[:_MOST])

    def _alerting(self, group: ErrorGroup | None, now: float) -> bool:
        """Whether somebody should still hear of this group."""
        if group is None or group.resolved:
            return False
        return max(group.snoozed_until or 0.0, self._snoozed.get(group.id, 0.0)) <= now
