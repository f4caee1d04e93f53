"""What tables need besides flushing: small files are merged, and files that are over are removed.

`TableUpkeep.round` is a step of housekeeping: it does what is due, table after table, until it is to end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from surgetank.streams.tables.cold.protocol import ColdTables
from surgetank.streams.tables.definition import Kind, Table

_MERGES = 4  # of one table in a round


class TableUpkeep:
    """Keeps the tables of an engine in order. `tables` gives those that there are now."""

    def __init__(
        self,
        cold: ColdTables,
        tables: Callable[[], Iterable[Table]],
        clock: Callable[[], float],
        *,
        every_s: float = 60.0,
        sweep_every_s: float = 600.0,
    ) -> None:
        self._cold = cold
        self._tables = tables
        self._clock = clock
        self._every_s = every_s
        self._sweep_every_s = sweep_every_s
        self._due_at = 0.0
        self._sweep_at = 0.0

    def round(self, stop: threading.Event) -> None:
        """Do what is due. Raises what the stores raise; what was not done is done next time."""
        now = self._clock()
        if now < self._due_at:
            return
        self._due_at = now + self._every_s
        for table in self._tables():
            for _ in range(_MERGES if table.kind is not Kind.STREAM else 0):
                if stop.is_set():
                    return
                if not self._cold.compact(table).inputs:
                    break
        if now >= self._sweep_at and not stop.is_set():
            self._cold.sweep()
            self._sweep_at = now + self._sweep_every_s
