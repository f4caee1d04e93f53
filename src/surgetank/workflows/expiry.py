"""Threads whose time to live is over are deleted, or lose all states but the newest.

Each is dealt with in a transaction that holds its row: so no run can be accepted meanwhile, and one
process only has it. What its checkpoints lose is accepted by the buffer before the row goes: killed
between them, the row is still there, and it is done again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from psycopg import Connection
from psycopg.types.json import Jsonb

from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.exceptions import DatabaseUnavailable, SurgetankError
from surgetank.telemetry import log
from surgetank.workflows.lifetime import Lifetimes

SQL = queries("workflows/expiry.sql")
ACTOR = "ttl"
_PIECE = 100
_STEP_S = 1.0  # others are called by the same thread


class Saver(Protocol):
    """What deletes states: a checkpointer."""

    def delete_thread(self, thread_id: str) -> None:
        """All of a thread."""
        ...

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """All states but the newest."""
        ...


class ThreadExpiry:
    """`step` is called about once a second. `lifetimes` says how often threads are looked for."""

    def __init__(
        self,
        database: Database,
        saver: Callable[[], Saver],
        lifetimes: Callable[[], Lifetimes],
        *,
        node: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._saver = saver
        self._lifetimes = lifetimes
        self._node = node
        self._clock = clock
        self._next_at = float("-inf")
        self._left = 0  # of the threads that may be dealt with this time

    def step(self) -> None:
        """Deal with some of the threads whose time is over, if it is time to look. Raises
        `DatabaseUnavailable`, and what the buffer raises."""
        if self._clock() < self._next_at:
            return
        rule = self._lifetimes()
        self._left = self._left or rule.most
        done = self._some(self._clock() + _STEP_S)
        self._left -= done
        if done == 0 or self._left <= 0:  # else the next second goes on
            self._left = 0
            self._next_at = self._clock() + rule.every_s

    def sweep(self) -> int:
        """All of them, now; how many there were. Raises what `step` raises."""
        total = 0
        while done := self._some(float("inf")):
            total += done
        return total

    def _some(self, until: float) -> int:
        with self._database.reading() as connection:
            limit = min(_PIECE, self._left or _PIECE)
            rows = connection.execute(SQL["due"], {"limit": limit}).fetchall()
        done = 0
        for (thread_id,) in rows:
            try:
                done += self._deal_with(thread_id)
            except DatabaseUnavailable:
                raise
            except SurgetankError as error:  # the others must not wait for it
                log.warning("thread_not_expired", thread_id=thread_id, error=error.what)
            if self._clock() >= until:
                break
        return done

    def _deal_with(self, thread_id: str) -> bool:
        with self._database.asking(patient=True) as connection:
            row = connection.execute(SQL["take"], {"thread_id": thread_id}).fetchone()
            if row is None:
                return False
            strategy, minutes = row
            if strategy == "keep_latest":
                self._saver().prune([thread_id], strategy="keep_latest")
                self._record(connection, "pruned", thread_id, minutes)
            else:
                self._saver().delete_thread(thread_id)
                self._record(connection, "delete", thread_id, minutes)
        log.info("thread_expired", thread_id=thread_id, strategy=strategy, ttl_minutes=minutes)
        return True

    def _record(
        self, connection: Connection[Any], name: str, thread_id: str, minutes: float
    ) -> None:
        why = Jsonb({"ttl_minutes": minutes})
        arguments = {"thread_id": thread_id, "actor": ACTOR, "origin": self._node, "why": why}
        connection.execute(SQL[name], arguments)
