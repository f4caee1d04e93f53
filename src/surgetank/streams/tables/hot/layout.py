"""How rows of one table at one version of its schema go into its row table: compiled once (`HotFile.prepare`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.hot.columns import keeper
from surgetank.streams.tables.hot.schema import keys_of, rows_of
from surgetank.streams.tables.keys import row_key

_ROW = 64  # bytes of a row beside its values


class Layout:
    """The statements for a table, and what is kept of its values."""

    def __init__(self, table: Table) -> None:
        self.table = table
        columns = "".join(f", c_{int(column.id)}" for column in table.columns)
        marks = ", ?" * len(table.columns)
        self.insert = (
            f"INSERT INTO {rows_of(table.id)} (user, version, seq, op, at, bytes, schema{columns})"
            f" VALUES (?, ?, ?, ?, ?, ?, ?{marks})"
        )
        keys = keys_of(table.id)
        self.key = row_key(table)
        # A key is free where its newest change deleted its row, or for the row that has it.
        self.put_key = (
            f"INSERT INTO {keys} (user, key, version, seq, op) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (user, key) DO UPDATE SET version = excluded.version, seq = excluded.seq,"
            f" op = excluded.op WHERE {keys}.op = 2 OR {keys}.seq = excluded.seq"
        )
        self._keepers = [
            (at, keep)
            for at, column in enumerate(table.columns)
            if (keep := keeper(column.type)) is not None
        ]
        self._fixed = _ROW + 9 * len(table.columns)

    def kept(self, values: Sequence[Any]) -> list[Any]:
        """The values as SQLite keeps them."""
        made = list(values)
        for at, keep in self._keepers:
            if made[at] is not None:
                made[at] = keep(made[at])
        return made

    def size(self, kept: Sequence[Any]) -> int:
        """About how many bytes the row takes."""
        size = self._fixed
        for value in kept:
            if value.__class__ is str:
                size += len(value) if value.isascii() else len(value.encode())
            elif value.__class__ is bytes:
                size += len(value)
        return size
