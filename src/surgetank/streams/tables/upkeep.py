"""What tables need besides flushing: small files are merged, and files that are over are removed.

`TableUpkeep.round` is a step of housekeeping: it does what is due, table after table, until it is to end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from surgetank.exceptions import DatabaseUnavailable, StateCorrupt, SurgetankError
from surgetank.streams.tables.cold.protocol import ColdTables
from surgetank.streams.tables.definition import Kind, Table
from surgetank.streams.tables.hot.protocol import HotTables

_MERGES = 4  # of one table in a round


class TableUpkeep:
    """Keeps the tables of an engine in order. `tables` gives those that there are now."""

    def __init__(
        self,
        cold: ColdTables,
        tables: Callable[[], Iterable[Table]],
        clock: Callable[[], float],
        *,
        on_problem: Callable[[SurgetankError], None] = lambda _: None,
        hot: HotTables | None = None,
        every_s: float = 60.0,
        sweep_every_s: float = 600.0,
    ) -> None:
        self._cold = cold
        self._tables = tables
        self._clock = clock
        self._on_problem = on_problem
        self._hot = hot
        self._every_s = every_s
        self._sweep_every_s = sweep_every_s
        self._due_at = 0.0
        self._sweep_at = 0.0

    def round(self, stop: threading.Event) -> None:
        """Do what is due. What fails is told, keeps nothing else from being done, and is done next
        time. Raises `DatabaseUnavailable`."""
        now = self._clock()
        if now < self._due_at:
            return
        self._due_at = now + self._every_s
        self.finish_drops()
        for table in self._tables():
            for _ in range(_MERGES if table.kind is not Kind.STREAM else 0):
                if stop.is_set():
                    return
                with self._telling():
                    if self._cold.compact(table).inputs:
                        continue
                break
        if now >= self._sweep_at and not stop.is_set():
            with self._telling():
                self._cold.sweep()
                self._tell_of_strays(self._cold.strays())
            self._sweep_at = now + self._sweep_every_s

    def finish_drops(self) -> None:
        """Remove what is left of tables that were dropped: by who was killed on the way, or from
        another home. Raises `DatabaseUnavailable`."""
        with self._telling():
            here = self._hot.tables() if self._hot is not None else []
            for table_id in self._cold.dropped(here):
                if self._hot is not None:
                    self._hot.forget_table(table_id)
                self._cold.forget_table(table_id)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except DatabaseUnavailable:
            raise
        except SurgetankError as error:
            self._on_problem(error)

    def _tell_of_strays(self, paths: Sequence[str]) -> None:
        if paths:
            named = ", ".join(paths[:5]) + (", ..." if len(paths) > 5 else "")
            self._on_problem(
                StateCorrupt(
                    f"{len(paths)} files of tables in {self._cold.address} are named by no manifest: {named}.",
                    remedy="if the database was set back to a backup, their rows are nowhere else: read "
                    "them as Parquet and insert them again; then remove the files.",
                )
            )
