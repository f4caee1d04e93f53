"""A database that is asked once in a while only, after it could not be reached.

A request that would wait seconds for a dead database, and the ones behind it, get their answer at
once instead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from psycopg import Connection

from surgetank.database.pool import Database
from surgetank.exceptions import DatabaseUnavailable


class Connections(Protocol):
    """Whatever gives connections as `surgetank.database.pool.Database` does."""

    def connection(self) -> Any:
        """A context manager with a connection in a transaction."""
        ...


class PatientDatabase(Database):
    """Passes on another pool's connections; for `pause_s` after one could not be had, it refuses
    without trying."""

    def __init__(
        self,
        database: Database,
        *,
        pause_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self.address = database.address
        self._pause_s = pause_s
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: tuple[float, DatabaseUnavailable] | None = None

    @contextmanager
    def asking(self, *, patient: bool = False) -> Iterator[Connection[Any]]:  # noqa: ARG002 - a request always waits
        """The same as `connection`."""
        with self.connection() as connection:
            yield connection

    @contextmanager
    def connection(self, *, size: int = 0) -> Iterator[Connection[Any]]:  # noqa: ARG002 - requests write little
        """A connection in a transaction. Raises like the database, and what it raised a moment
        ago."""
        with self._unless_away(self._database.asking) as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection[Any]]:
        """The same without a transaction around its statements."""
        with self._unless_away(self._database.reading) as connection:
            yield connection

    @contextmanager
    def _unless_away(
        self, use: Callable[[], AbstractContextManager[Connection[Any]]]
    ) -> Iterator[Connection[Any]]:
        with self._lock:
            failed = self._failed
        if failed is not None and self._clock() - failed[0] < self._pause_s:
            raise DatabaseUnavailable(failed[1].what, remedy=failed[1].remedy)
        try:
            with use() as connection:
                yield connection
        except DatabaseUnavailable as error:
            with self._lock:
                self._failed = (self._clock(), error)
            raise
        with self._lock:
            self._failed = None

    def reset(self) -> None:
        """Close the other pool's idle connections."""
        self._database.reset()

    def close(self) -> None:
        """Nothing: the other pool is closed by whoever made it."""
