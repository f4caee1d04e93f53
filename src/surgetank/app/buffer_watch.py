"""Whether the server that the buffer is in answers. While it does not, all that needs it fails with the same cause:
that is told once, as one system error, which is written into the database itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from surgetank.buffer.upkeep import Upkeep
from surgetank.database.pool import Database
from surgetank.events.types import Severity
from surgetank.exceptions import BufferUnavailable, FallbackUnavailable, SurgetankError
from surgetank.notify import wording
from surgetank.streams.errors.groups import HEALED_BY, ErrorAction, ErrorReport, fingerprint
from surgetank.streams.errors.sink import write_through
from surgetank.telemetry import log


class BufferWatch:
    """A step of housekeeping. `server` says which one it is (host and port); none for a file. Safe to use
    from several threads."""

    def __init__(
        self,
        buffer: Upkeep,
        database: Database,
        server: Mapping[str, Any],
        *,
        node: str,
        clock: Callable[[], float],
    ) -> None:
        self._buffer = buffer
        self._database = database
        self._server = dict(server)
        self._node = node
        self._clock = clock
        self._lock = threading.Lock()
        self._since: float | None = None
        self._pending: list[ErrorReport | ErrorAction] = []  # what the database was not told yet
        where = [str(value) for value in self._server.values()]
        self._fingerprint = fingerprint("redis_connection_error", "", key=where)

    @property
    def since(self) -> float | None:
        """Since when the server does not answer, as far as this process noticed."""
        return self._since

    def is_cause_of(self, error: BaseException) -> bool:
        """Whether an error is no more than that the server does not answer."""
        if not self._server or not isinstance(error, BufferUnavailable):
            return False
        if isinstance(error, FallbackUnavailable):
            return False
        return self._since is not None or self._buffer.taken_away() is not None

    def step(self) -> BufferUnavailable | None:
        """Ask the server, and tell what has changed; why a buffer in a file is of no use, if it is not."""
        lost = self._buffer.taken_away()
        if not self._server:
            return lost
        with self._lock:
            if lost is not None and self._since is None:
                self._begin(lost)
            elif lost is None and self._since is not None:
                self._end(self._since)
            self._write()
        return None

    def _begin(self, lost: BufferUnavailable) -> None:
        self._since = self._clock()
        log.error("redis_connection_error", **self._server, error=lost.what, remedy=lost.remedy)
        self._pending.append(
            ErrorReport(
                error_type="redis_connection_error",
                message=wording.buffer_lost(lost.what),
                severity=Severity.CRITICAL,
                context={**self._server, "node": self._node, "remedy": lost.remedy},
                fingerprint=self._fingerprint,
                at=self._since,
            )
        )

    def _end(self, since: float) -> None:
        now = self._clock()
        self._since = None
        log.info("redis_connection_restored", **self._server, after_s=round(now - since, 1))
        notes = "healed by itself: the server answers again"
        self._pending.append(ErrorAction("resolve", HEALED_BY, now, notes))

    def _write(self) -> None:
        if not self._pending:
            return
        try:
            write_through(self._database, self._fingerprint, self._pending)
        except (SurgetankError, psycopg.Error) as error:  # the next step tries again
            log.info("error_not_written_yet", error=str(error))
        else:
            self._pending.clear()
