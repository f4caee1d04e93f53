"""A sink that writes the rows of one stream into the database, all slices in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from psycopg.rows import dict_row

from surgetank.database.pool import Database
from surgetank.model import Record
from surgetank.sinks.fence import Rows
from surgetank.sinks.probe import probe_name, probe_slice, rolled_back
from surgetank.sinks.protocol import Slice, Written

# Cursor, slices, the buffer's id and that of the database (None: not yet known).
Write = Callable[[Rows, Sequence[Slice], str, str | None], list[Written]]


class TableSink:
    """`write` writes slices with a cursor, under the fence. `probe_record` makes a record of the
    stream for a partition of the given name, which is written and taken back."""

    def __init__(
        self,
        database: Database,
        stream: str,
        *,
        write: Write,
        probe_record: Callable[[str], Record],
    ) -> None:
        self._database = database
        self._stream = stream
        self._write = write
        self._probe_record = probe_record

    @property
    def name(self) -> str:
        return "postgresql"

    def ping(self) -> str:
        return self._database.ping()

    def close(self) -> None:
        """The database belongs to whoever made it."""

    def probe(self, *, buffer_id: str) -> None:
        name = probe_name()
        part = probe_slice(self._stream, name, self._probe_record(name))
        with rolled_back(self._database) as cursor:
            self._write(cursor, [part], buffer_id, self._database.claim(cursor.connection))

    def write(self, slices: Sequence[Slice], *, buffer_id: str) -> list[Written]:
        size = sum(entry.size for part in slices for entry in part.entries)
        with (
            self._database.connection(size=size) as connection,
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            return self._write(cursor, slices, buffer_id, self._database.claim(cursor.connection))
