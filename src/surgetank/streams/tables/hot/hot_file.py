"""The file that holds hot rows: its tables, its numbers and its limits, for all who write or read them."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from surgetank.exceptions import BufferFull, BufferProblem, NotFound
from surgetank.sqlite.identity import FileIdentity
from surgetank.sqlite.shared import SharedFile
from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.file import TABLES
from surgetank.streams.tables.hot import schema
from surgetank.streams.tables.hot.counting import newest, tally, total_bytes
from surgetank.streams.tables.hot.definitions import definition_json, definition_of
from surgetank.streams.tables.hot.layout import Layout
from surgetank.streams.tables.hot.mapped import MappedSegments
from surgetank.streams.tables.hot.protocol import ORIGIN_SHIFT
from surgetank.streams.tables.hot.segment_files import SegmentFiles
from surgetank.streams.tables.hot.whose import Whose

_MASK = (1 << ORIGIN_SHIFT) - 1
_LEFT = 1 << 12  # of an origin's numbers, for handles that insert rows while it comes to its end
MOST = _MASK - 1 - _LEFT  # rows of one call: they have one origin
_UNTALLIED = 1024  # rows of this handle, until they are added to what is counted
_ORIGINS = 1 << (63 - ORIGIN_SHIFT)


class HotFile:
    """One open file. Safe for several threads; several processes share the file."""

    def __init__(
        self,
        path: Path,
        segments: SegmentFiles,
        *,
        max_bytes: int,
        durability: str,
        before_write: Callable[[], None],
        clock: Callable[[], float],
        rng: random.Random,
        more: str = "",
    ) -> None:
        self.path, self.segments, self.max_bytes = path, segments, max_bytes
        self._clock = clock
        self._rng = rng
        self.mapped = MappedSegments(segments)
        self.whose = Whose()
        self._shared = SharedFile(
            path, kind=TABLES, name="table store", script=schema.SCRIPT + more, before_write=before_write,
            durability=durability,
        )  # fmt: skip
        self._identity = FileIdentity(path)
        self._drawn: set[int] = set()  # tables in which this handle began an origin
        self._known: dict[int, Layout] = {}  # as this handle wrote or read them
        self._untallied: dict[int, int] = {}  # rows of tables that this handle inserted
        self._room = 0  # bytes that may be added before what is there is counted again
        self._origins: set[tuple[int, int]] = set()  # tables and origins that the file has

    def clock(self) -> float:
        """Seconds since the epoch."""
        return self._clock()

    def read(self) -> AbstractContextManager[sqlite3.Connection]:
        """A connection that sees one moment."""
        return self._shared.read()

    def write(self) -> AbstractContextManager[sqlite3.Connection]:
        """One write transaction."""
        return self._shared.write()

    def tidy(self) -> bool:
        """Move the log into the file. False where somebody reads an older state, or writes."""
        return self._shared.tidy()

    def close(self) -> None:
        """Close all connections."""
        self._shared.close()
        self.mapped.forget()

    # -- tables

    def prepare(self, table: Table) -> Layout:
        """See that the file has the tables and columns of this one. Raises `NotFound` for one that
        was dropped."""
        known = self._known.get(table.id)
        if known is not None and (known.table is table or known.table == table):
            return known
        with self.write() as connection:
            self._create(connection, table)
        layout = self._known[table.id] = Layout(table)
        return layout

    def _create(self, connection: sqlite3.Connection, table: Table) -> None:
        row = connection.execute(
            "SELECT schema_version, dropped, definition FROM hot_tables WHERE table_id = ?",
            (table.id,),
        ).fetchone()
        if row is not None and row[1]:
            raise _dropped(table)
        text = definition_json(table)
        if row is not None and (row[2] == text or row[0] > table.schema_version):
            return
        for statement in schema.created(table):
            connection.execute(statement)
        for statement in schema.added(table, schema.columns_of(connection, table.id)):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO hot_tables (table_id, definition, schema_version) VALUES (?, ?, ?)"
            " ON CONFLICT (table_id) DO UPDATE SET definition = excluded.definition,"
            " schema_version = excluded.schema_version",
            (table.id, text, table.schema_version),
        )

    def tables(self, connection: sqlite3.Connection) -> list[Table]:
        """All that have or had rows here, but dropped ones."""
        return [
            definition_of(text)
            for (text,) in connection.execute(
                "SELECT definition FROM hot_tables WHERE dropped = 0 ORDER BY table_id"
            )
        ]

    # -- numbers

    def admit(self, size: int) -> None:
        """See that so many bytes may be added. Raises `BufferFull`, and `BufferUnavailable` where the
        file was deleted or replaced."""
        gone_away = self._identity.problem()
        if gone_away is not None:
            raise gone_away  # it would be accepted into a file that ends with this process
        self._room -= size
        if self._room >= 0 or not size:
            return
        with self.read() as connection:
            there = total_bytes(connection)
        left = self.max_bytes - there - size
        if left < 0:
            raise BufferFull(
                f"The hot rows of tables have {there} bytes, and {self.max_bytes} is their limit.",
                remedy="see why nothing is flushed (`surgetank status`), or raise SURGETANK_TABLES_HOT_MAX_BYTES.",
            )
        # Other processes fill it too: it is counted again after a part of what is left.
        self._room = min(left, self.max_bytes >> 6)

    def insert(self, layout: Layout, size: int, row: tuple[Any, ...]) -> int | None:
        """Insert one row, without a transaction around it: its version. None where it is the first of
        this handle in its table, or in an origin: that takes a transaction. Raises what `admit`
        raises, and `NotFound` for a dropped table."""
        id_ = layout.table.id
        if id_ not in self._drawn:
            return None
        self.admit(size)
        try:
            version = self._shared.insert(layout.insert, row)
        except BufferProblem as error:
            if "no such table" in str(error.__cause__):
                self._refuse_dropped(layout.table)
            raise
        if (version & _MASK) > _MASK - _LEFT:
            self._drawn.discard(id_)
        waiting = self._untallied[id_] = self._untallied.get(id_, 0) + 1
        if waiting >= _UNTALLIED:
            self._untallied[id_] = 0
            # The row is accepted: whoever counts next counts these, too.
            with suppress(BufferProblem), self.write() as connection:
                tally(connection, id_)
        return version

    def _refuse_dropped(self, table: Table) -> None:
        with self.read() as connection:
            row = connection.execute(
                "SELECT dropped FROM hot_tables WHERE table_id = ?", (table.id,)
            ).fetchone()
        if row is not None and row[0]:
            raise _dropped(table)

    def take_versions(self, connection: sqlite3.Connection, table: Table, count: int) -> int:
        """The first of so many versions; who asks puts rows or a mark there. Raises `NotFound` for a
        dropped table."""
        self.refuse_dropped(connection, table)
        first = newest(connection, table.id) + 1
        if (
            self._begins(connection, table.id)
            or not first & _MASK
            or (first & _MASK) + count > _MASK - _LEFT
        ):
            first = self._draw(first >> ORIGIN_SHIFT)
        self._register(connection, table.id, first >> ORIGIN_SHIFT)
        return first

    @staticmethod
    def refuse_dropped(connection: sqlite3.Connection, table: Table) -> None:
        """Raise `NotFound` for a table that is not here any more."""
        row = connection.execute(
            "SELECT dropped FROM hot_tables WHERE table_id = ?", (table.id,)
        ).fetchone()
        if row is None or row[0]:
            raise _dropped(table)

    def _begins(self, connection: sqlite3.Connection, table_id: int) -> bool:  # noqa: ARG002
        """Whether another origin is to begin, since this handle has none in the table."""
        return table_id not in self._drawn

    def _chance(self) -> random.Random:
        return self._rng

    def _draw(self, last: int) -> int:
        """Begin another origin, larger than all before. Two files begin far from each other, and copies
        of one go on with other steps."""
        if last == 0:
            origin = 1 + self._chance().randrange(_ORIGINS // 2)
        else:
            left = _ORIGINS - last - 1
            origin = last + 1 + self._chance().randrange(max(1, min(1 << 20, left >> 18)))
        return (origin << ORIGIN_SHIFT) + 1

    def _register(self, connection: sqlite3.Connection, table_id: int, origin: int) -> None:
        # An origin is forgotten only after the file has a newer one, so this is never stale.
        if (table_id, origin) not in self._origins:
            connection.execute(
                "INSERT OR IGNORE INTO hot_progress (table_id, origin) VALUES (?, ?)",
                (table_id, origin),
            )

    def committed(self, table_id: int, first: int) -> None:
        """The versions that were taken last are in the file."""
        self._drawn.add(table_id)
        self._origins.add((table_id, first >> ORIGIN_SHIFT))


def _dropped(table: Table) -> NotFound:
    return NotFound(f"The table {table.full_name} was dropped.", remedy="create it again.")
