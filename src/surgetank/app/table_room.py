"""The tables of one engine: their stores, who flushes them, who reads them.

Made with the engine; opened when tables are first used, or when their file is there already, so that what waits in it
is flushed and shown whoever made it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from surgetank.app.backends import open_table_file, open_table_location, tables_exist
from surgetank.exceptions import BufferProblem, MissingExtra, SurgetankError
from surgetank.flush.breaker import CircuitBreaker
from surgetank.flush.job import Clockwork
from surgetank.flush.policy import RetryPolicy
from surgetank.streams.tables.definition import Kind, Table

if TYPE_CHECKING:
    from surgetank.app.assembly import Parts
    from surgetank.streams.tables.catalog.catalog import Catalog
    from surgetank.streams.tables.cold.protocol import ColdTables
    from surgetank.streams.tables.flusher import TableFlusher
    from surgetank.streams.tables.hot.protocol import HotTables
    from surgetank.streams.tables.ingest import TableIngest
    from surgetank.streams.tables.query.changes import TableChanges
    from surgetank.streams.tables.query.queries import Queries
    from surgetank.streams.tables.reader import TableReader
    from surgetank.streams.tables.sql.statements import CreateTable
    from surgetank.streams.tables.upkeep import TableUpkeep

_NEEDS = ("duckdb", "pyarrow", "sqlglot")
_ERASURES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTables:
    """What tables consist of."""

    hot: HotTables
    cold: ColdTables
    catalog: Catalog
    reader: TableReader
    queries: Queries
    changes: TableChanges
    flusher: TableFlusher
    ingest: TableIngest
    upkeep: TableUpkeep

    def erase_user(self, user: str) -> tuple[int, int]:
        """Remove all rows of a user, hot ones and those in files: how many there were, and how many
        files are kept until nobody can be reading them. Raises `DatabaseUnavailable`,
        `BufferUnavailable`."""
        rows, pending = 0, 0
        self.upkeep.finish_drops()
        for _ in range(_ERASURES):  # what a flush took before may be in files only now
            hot = self.hot.erase_user(user)
            done = self.cold.erase_user(self.catalog.tables(), user)
            rows, pending = rows + hot + done.rows, len(done.pending)
            if not hot and not done.rows:
                break
        self.hot.erase_user(user)  # no byte is left of what was copied of files meanwhile
        return rows, pending

    def create(self, wanted: CreateTable, *, actor: str, owner: str | None = None) -> Table:
        """Make a table. Raises `InvalidRequest`, `Conflict`, `NotFound`, `DatabaseUnavailable`."""
        made = self.catalog.create(wanted, actor=actor, owner=owner)
        if made.kind is not Kind.STREAM:
            with suppress(SurgetankError):  # what is copied now is known in an outage
                self.cold.live(made, stores=())
        return made

    def drop(self, table: Table, *, actor: str) -> bool:
        """Drop a table, for all at once, and its rows after that; whether it was there. Raises
        `DatabaseUnavailable`."""
        dropped = self.catalog.drop(table, actor=actor)
        self.hot.forget_table(table.id)
        if table.kind is not Kind.STREAM:
            self.cold.forget_table(table.id)
        return dropped

    def close(self) -> None:
        """Close all of it. Idempotent."""
        self.queries.close()
        self.cold.close()
        self.catalog.close()
        self.hot.close()


class TableRoom:
    """The tables of an engine, opened when they are needed. `on_open` is called with them, once."""

    def __init__(self, parts: Parts, on_open: Callable[[OpenTables], None]) -> None:
        self._parts = parts
        self._on_open = on_open
        self._lock = threading.Lock()
        self._open: OpenTables | None = None
        self._reported = False

    def open(self) -> OpenTables:
        """The tables. Raises `MissingExtra`, `BufferUnavailable`, `BufferCorrupt`."""
        with self._lock:
            if self._open is None:
                for package in _NEEDS:
                    if find_spec(package) is None:
                        raise MissingExtra(package, "tables", "A table")
                self._open = self._made()
                self._on_open(self._open)
            return self._open

    def if_there(self) -> OpenTables | None:
        """The tables, if there are any here. Where they can't be opened, operators are told."""
        if self._open is not None:
            return self._open
        if not tables_exist(self._parts.settings):
            return None
        try:
            return self.open()
        except (MissingExtra, BufferProblem) as error:  # all else goes on, and is told of
            if not self._reported:
                self._reported = True
                self._parts.tell_of_tables(error)
            return None

    def hot(self) -> HotTables | None:
        """The hot rows, if there are tables."""
        tables = self.if_there()
        return tables.hot if tables is not None else None

    def location(self) -> str:
        """Where files are stored; a bucket is asked. Raises `ColdStateUnavailable`."""
        location = open_table_location(self._parts.settings)
        location.identity()
        return location.address

    def close(self) -> None:
        """Close what was opened. Idempotent."""
        with self._lock:
            opened, self._open = self._open, None
        if opened is not None:
            opened.close()

    def _made(self) -> OpenTables:
        # an extra: nothing of it is loaded before there is a table
        from surgetank.streams.tables.catalog.catalog import Catalog  # noqa: PLC0415
        from surgetank.streams.tables.catalog.mirror import Mirror  # noqa: PLC0415
        from surgetank.streams.tables.cold.tables import FileTables  # noqa: PLC0415
        from surgetank.streams.tables.flusher import (  # noqa: PLC0415
            FlushDefaults,
            TableFlusher,
            TablesSink,
        )
        from surgetank.streams.tables.ingest import TableIngest  # noqa: PLC0415
        from surgetank.streams.tables.query.changes import TableChanges  # noqa: PLC0415
        from surgetank.streams.tables.query.queries import Queries, pool_of  # noqa: PLC0415
        from surgetank.streams.tables.query.trusted import TrustedQueries  # noqa: PLC0415
        from surgetank.streams.tables.reader import TableReader  # noqa: PLC0415
        from surgetank.streams.tables.upkeep import TableUpkeep  # noqa: PLC0415

        parts, settings = self._parts, self._parts.settings
        location = open_table_location(settings)
        hot, copies = open_table_file(
            settings, parts.clock, parts.buffer, location, parts.tell_of_tables
        )
        cold = FileTables(
            parts.database,
            location,
            file=copies,
            on_problem=parts.tell_of_tables,
        )
        reader = TableReader(hot, cold)
        queries = Queries(reader, pool_of(settings), TrustedQueries(cold))
        flusher = TableFlusher(
            hot,
            cold,
            parts.buffer,
            sink=TablesSink(parts.database),
            retry=RetryPolicy(base_s=settings.retry_base, max_s=settings.retry_max),
            breaker=CircuitBreaker(parts.clock, max_s=settings.breaker_max),
            listener=parts.listeners,
            clockwork=Clockwork(parts.clock),
            node=settings.node,
            defaults=FlushDefaults(settings.tables_flush_rows, settings.tables_flush_interval),
            lease_ttl_s=settings.lease_ttl,
            on_recovered=parts.sink_recovered,
        )
        catalog = Catalog(parts.database, Mirror(copies))
        return OpenTables(
            hot=hot,
            cold=cold,
            catalog=catalog,
            reader=reader,
            queries=queries,
            changes=TableChanges(hot, cold, queries),
            flusher=flusher,
            ingest=TableIngest(hot, cold),
            upkeep=TableUpkeep(
                cold, catalog.tables, parts.clock, hot=hot, on_problem=parts.tell_of_tables
            ),
        )
