"""`tank.storage`: who uses the space, and the format in which rows are stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from surgetank.buffer.coordination import Backlog
from surgetank.buffer.log import Log
from surgetank.database.pool import Database
from surgetank.encode.limits import check_names
from surgetank.settings import Settings
from surgetank.streams.checkpoints.retention.plan import Limits
from surgetank.streams.checkpoints.retention.storage import StorageReport, raise_format, storage


class Measured(Log, Backlog, Protocol):
    """What is measured of a buffer."""


class Storage:
    """What buffer and database hold: `tank.storage()`."""

    def __init__(
        self, buffer: Measured, database: Database, limits: Limits, *, clock: Callable[[], float]
    ) -> None:
        self._buffer = buffer
        self._database = database
        self._limits = limits
        self._clock = clock

    def __call__(self, *, thread: str | None = None, top: int = 10) -> StorageReport:
        """Bytes by kind, channel and thread, the growth of the `top` largest threads (or of one),
        what pruning would free, and what retention did last. Never raises for a database that is
        down: the report says so.
        """
        if thread is not None:
            check_names(thread, [("$.thread_id", thread)])
        return storage(
            self._buffer,
            self._database,
            limits=self._limits,
            now=self._clock(),
            thread=thread,
            top=top,
        )

    def raise_format(self) -> bool:
        """Write rows in the newest storage format from now on; False when that is so already.

        Call it once after an upgrade, when no process of the version before runs any more: that one
        can't read what is written then. A database made by this version needs no call. Raises
        `DatabaseUnavailable`.
        """
        return raise_format(self._database)


def limits_of(settings: Settings) -> Limits:
    """The limits of retention; all off by default."""
    return Limits(settings.retain_age, settings.retain_keep, settings.retain_bytes)
