"""The children that run SQL: so many as there are cores, one query of a user at a time, and a queue with an end.

A child is kept for further queries, and replaced after many of them, when it has grown, and when one of them had to
be killed. Waiting is first come, first served among users who have none under way; nobody can fill the queue alone.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from surgetank.exceptions import EngineClosed, QuotaExceeded
from surgetank.streams.tables.query.cancelling import Cancellation
from surgetank.streams.tables.query.names import Reference
from surgetank.streams.tables.query.parameters import Parameters
from surgetank.streams.tables.query.process import (
    Answer,
    ChildEnded,
    ChildProcess,
    KnownNames,
    Limits,
)

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_QUERIES = 200
_ATTEMPTS = 3  # of a query whose child was gone before it did anything


@dataclass(slots=True)
class _Ticket:
    """One caller who waits."""

    user: str
    granted: bool = False
    since: float = field(default=0.0)


class QueryPool:
    """Children for confined SQL. For any number of threads. `size` children at most, `waiting`
    callers at most for `wait_s`, of one user `waiting_per_user`."""

    def __init__(
        self,
        size: int | None = None,
        *,
        limits: Limits | None = None,
        waiting: int = 64,
        waiting_per_user: int = 8,
        wait_s: float = 30.0,
    ) -> None:
        self.limits = limits or Limits()
        self._size = size or os.cpu_count() or 1
        self._waiting = waiting
        self._waiting_per_user = waiting_per_user
        self._wait_s = wait_s
        self._closed = False
        self._names = KnownNames()
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._change = threading.Condition()
        self._queue: list[_Ticket] = []
        self._users: set[str] = set()
        self._idle: list[ChildProcess] = []
        self._busy: set[ChildProcess] = set()
        self._running = 0

    def run(
        self,
        text: str,
        *,
        user: str,
        tables: Callable[[Reference], pa.RecordBatchReader | None],
        parameters: Parameters | None = None,
        limits: Limits | None = None,
        cancellation: Cancellation | None = None,
    ) -> Answer:
        """Run one SELECT for a user, over the tables that `tables` gives: only those rows exist for
        it. Raises `InvalidRequest` (`StatementRefused` with the position), `QuotaExceeded`
        where the queue is full, or the query takes more than it may, and `Conflict` when it was cancelled.

            answer = pool.run("SELECT count(*) FROM app.notes", user="ada", tables=reader)
        """
        if self._pid != os.getpid():
            self._reset()  # after a fork: the children are those of the parent
        cancellation = cancellation or Cancellation()
        self._enter(user, cancellation)
        try:
            for _ in range(_ATTEMPTS):
                child = self._child(user)
                try:
                    with cancellation.ended_by(child.kill):
                        return child.run(
                            text,
                            user=user,
                            parameters=parameters,
                            limits=limits or self.limits,
                            tables=tables,
                            names=self._names,
                        )
                except ChildEnded:
                    continue
                except QuotaExceeded:
                    self._open()  # else it was ended because the engine was closed
                    raise
                finally:
                    self._give_back(child)
            raise QuotaExceeded(
                "The processes that run SQL end before they answer.",
                remedy="ask an operator: the machine may have too little memory.",
            )
        finally:
            self._leave(user)

    def start(self) -> None:
        """Start a child, so that the first query doesn't wait for one. Returns at once."""
        with self._change:
            if not self._closed and not self._idle and not self._busy:
                self._idle.append(ChildProcess(self.limits.memory_bytes))

    def close(self) -> None:
        """End all children. Queries under way fail with `EngineClosed`. Idempotent."""
        with self._change:
            self._closed = True
            ending = [] if self._pid != os.getpid() else self._idle
            self._idle = []
            if self._pid == os.getpid():
                for child in self._busy:
                    child.kill()
            self._change.notify_all()
        for child in ending:
            child.close()

    def children(self) -> list[int]:
        """The process ids of all children."""
        with self._change:
            return [each.pid for each in (*self._idle, *self._busy)]

    # -- who runs, and who waits

    def _enter(self, user: str, cancellation: Cancellation) -> None:
        ticket = _Ticket(user, since=time.monotonic())
        with cancellation.ended_by(self._wake), self._change:
            self._open()
            mine = Counter(each.user for each in self._queue)[user]
            if len(self._queue) >= self._waiting or mine >= self._waiting_per_user:
                raise QuotaExceeded(
                    "Too many queries wait already.", remedy="try again in a few seconds."
                )
            self._queue.append(ticket)
            self._grant()
            try:
                self._change.wait_for(
                    lambda: ticket.granted or self._closed or cancellation.cancelled, self._wait_s
                )
            finally:
                if not ticket.granted:
                    self._queue.remove(ticket)
            if not ticket.granted:
                self._open()
                raise QuotaExceeded(
                    f"Others' queries took longer than {self._wait_s:g} seconds.",
                    remedy="try again in a few seconds.",
                )

    def _wake(self) -> None:
        with self._change:
            self._change.notify_all()

    def _grant(self) -> None:
        for ticket in list(self._queue):
            if self._running >= self._size:
                return
            if ticket.user not in self._users:
                ticket.granted = True
                self._queue.remove(ticket)
                self._users.add(ticket.user)
                self._running += 1
                self._change.notify_all()

    def _leave(self, user: str) -> None:
        with self._change:
            self._end(user)

    def _end(self, user: str) -> None:
        self._users.discard(user)
        self._running -= 1
        self._grant()

    def _open(self) -> None:
        if self._closed:
            raise EngineClosed("The engine was closed.", remedy="open it again.")

    # -- children

    def _child(self, user: str) -> ChildProcess:
        """A child: that of the user's last query, whose database is ready for him, or a new one. That
        of somebody else only when there are as many as may be: who comes back to it must not wait
        until a process has started."""
        with self._change:
            self._open()
            for ended in [each for each in self._idle if not each.alive]:
                self._idle.remove(ended)
                ended.close()
            own = next((each for each in self._idle if each.user == user), None)
            unused = next((each for each in self._idle if each.user is None), None)
            child = own or unused
            if child is None and len(self._idle) + len(self._busy) < self._size:
                child = ChildProcess(self.limits.memory_bytes)
            elif child is None:
                child = self._idle[0]  # it was used longest ago
            if child in self._idle:
                self._idle.remove(child)
            self._busy.add(child)
            return child

    def _give_back(self, child: ChildProcess) -> None:
        used = child.queries >= _MOST_QUERIES or child.worn
        with self._change:
            self._busy.discard(child)
            ended = used or self._closed or not child.alive
            if not ended:
                self._idle.append(child)
            elif not self._closed and len(self._idle) + len(self._busy) < self._size:
                # Begun now, so that the next query doesn't wait for all of it.
                self._idle.insert(0, ChildProcess(self.limits.memory_bytes))
        if ended:
            child.close()
