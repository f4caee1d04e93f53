"""Which database the SQLite buffer belongs to."""

from __future__ import annotations

import sqlite3

from surgetank.buffer.binding import Binding
from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.kept import KeptEntries


class SQLiteBinding:
    """The role `Bindable`."""

    def __init__(self, file: BufferFile, kept: KeptEntries) -> None:
        self._file = file
        self._kept = kept

    def binding(self) -> Binding | None:
        with self._file.read() as connection:
            row = connection.execute(
                "SELECT address, database_id, system_id, database_oid FROM binding"
            ).fetchone()
        return Binding(*row) if row else None

    def bind(self, binding: Binding, *, forget_marks: bool = False) -> None:
        with self._file.write() as connection:
            connection.execute(
                "INSERT INTO binding (id, address, database_id, system_id, database_oid, bound_at)"
                " VALUES (1, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET address = "
                "excluded.address,"
                " database_id = excluded.database_id, system_id = excluded.system_id,"
                " database_oid = excluded.database_oid, bound_at = excluded.bound_at",
                (*binding, self._file.clock()),
            )
            if forget_marks:
                connection.execute(
                    "UPDATE partitions SET mark_epoch = 0, mark_seq = 0, mark_digest = 0, "
                    "gone_epoch = 0, gone_seq = 0"
                )
        if forget_marks:
            self._kept.forget_kept(all_=True)


def note_destination(
    connection: sqlite3.Connection, destination: str, new: int, now: float
) -> None:
    """Remember where a buffer's entries are meant to go, if nothing is known of it yet. One that
    never met its database and holds nothing but `new` entries may go elsewhere.
    """
    connection.execute(
        "INSERT INTO binding (id, address, bound_at) VALUES (1, ?, ?) ON CONFLICT (id) DO UPDATE"
        " SET address = excluded.address, bound_at = excluded.bound_at"
        " WHERE database_id IS NULL AND (SELECT entries FROM totals) <= ?",
        (destination, now, new),
    )
