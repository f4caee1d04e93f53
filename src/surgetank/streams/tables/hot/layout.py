"""How rows of one table at one version of its schema go into its row table: compiled once (`HotFile.prepare`).

The head of a row: the length of its user's name, a bit for each value that is NULL, the values of fixed size, and
the lengths of the others.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.hot.columns import keeper
from surgetank.streams.tables.hot.protocol import ORIGIN_SHIFT
from surgetank.streams.tables.hot.schema import keys_of, rows_of
from surgetank.streams.tables.hot.slots import LENGTH, columns_at, null_bytes, slot_of
from surgetank.streams.tables.keys import row_key

_ROW = 64  # bytes of a row beside its values


class Layout:
    """The statements for a table, and how its values are packed."""

    def __init__(self, table: Table) -> None:
        self.table = table
        columns = columns_at(table, table.schema_version)
        self._fixed: list[tuple[int, Any, Any]] = []
        self._texts: list[tuple[int, Any]] = []
        form = f"<{LENGTH.packed}{null_bytes(len(columns))}s"
        named = ""
        for at, column in enumerate(columns):
            slot = slot_of(column.type)
            keep = None if slot is not None and slot.packed in "?d" else keeper(column.type)
            if slot is None:
                self._texts.append((at, keep))
                named += f", c_{int(column.id)}"
            else:
                self._fixed.append((at, keep, slot.empty))
                form += slot.packed
        self._pack = struct.Struct(form + LENGTH.packed * len(self._texts)).pack
        self._nulls = null_bytes(len(columns))
        self._no_nulls = bytes(self._nulls)
        self._size = _ROW + 9 * len(columns)
        marks, rows = ", ?" * len(self._texts), rows_of(table.id)
        # The version is the next rowid.
        self.insert = (
            f"INSERT INTO {rows} (user, at, schema, bytes, head{named})"
            f" VALUES (?, ?, ?, ?, ?{marks})"
        )
        self.put = (
            f"INSERT INTO {rows} (version, op, seq, user, at, schema, bytes, head{named})"
            f" VALUES (?, ?, ?, ?, ?, ?, ?, ?{marks})"
        )
        keys = keys_of(table.id)
        self.key = row_key(table)
        # A key is free for the row that has it, and where its newest change deleted its row: one that is
        # parked (its number is of no origin) did not.
        self.put_key = (
            f"INSERT INTO {keys} (user, key, version, seq, op) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (user, key) DO UPDATE SET version = excluded.version, seq = excluded.seq,"
            f" op = excluded.op WHERE ({keys}.op = 2 AND {keys}.version >> {ORIGIN_SHIFT} > 0)"
            f" OR {keys}.seq = excluded.seq"
        )

    def may_have(self, most: int, user: str, values: Sequence[Any]) -> bool:
        """Whether a row may take more than so many bytes: without packing it, where that is
        certain."""
        left = most - self._size - 4 * len(user)
        for at, _ in self._texts:
            value = values[at]
            if value.__class__ is str:
                left -= 4 * len(value)
            elif value.__class__ is bytes:
                left -= len(value)
            elif value is not None:
                return True
        return left < 0

    def packed(self, user: str, values: Sequence[Any]) -> tuple[Any, ...]:
        """About how many bytes the row takes, its head, and the values that are not in it."""
        length = len(user) if user.isascii() else len(user.encode())
        size, nulls = self._size + length, 0
        fixed: list[Any] = []
        for at, keep, empty in self._fixed:
            value = values[at]
            if value is None:
                nulls |= 1 << at
                value = empty
            elif keep is not None:
                value = keep(value)
            fixed.append(value)
        texts: list[Any] = []
        for at, keep in self._texts:
            value = values[at]
            if value is None:
                nulls |= 1 << at
                fixed.append(0)
            else:
                if keep is not None:
                    value = keep(value)
                plain = value.__class__ is bytes or value.isascii()
                taken = len(value) if plain else len(value.encode())
                size += taken
                fixed.append(taken)
            texts.append(value)
        absent = nulls.to_bytes(self._nulls, "little") if nulls else self._no_nulls
        return (size, self._pack(length, absent, *fixed), *texts)
