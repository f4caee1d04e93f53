"""COPY of a batch's rows into the checkpoint tables, in PostgreSQL's binary format.

Ordinary rows go through psycopg's row writer. A row with a large value is written by hand, piece by
piece, so that the value isn't copied once more on its way to the socket (PostgreSQL documentation,
COPY, "Binary Format").
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, LiteralString

from psycopg import Cursor

LARGE = 1024**2  # bytes of a value from which on it is written in pieces
_SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_INTEGERS = {
    "int2": struct.Struct("!ih"),
    "int4": struct.Struct("!ii"),
    "int8": struct.Struct("!iq"),
}
_LENGTH = struct.Struct("!i")
_NULL = _LENGTH.pack(-1)

# jsonb is given as the bytes of its binary form, see `jsonb`.
CHECKPOINTS = ("int8", "text", "text", "int2", "bytea", "bytea", "bytea", "bytea")
BLOBS = ("int8", "int4", "int4", "int4", "int2", "int2", "text", "text", "text", "bytea")
WRITES = ("int8", "int4", "int2", "text", "text", "text", "text", "text", "bytea", "bytea")


def copy_rows(
    cursor: Cursor[Any],
    statement: LiteralString,
    types: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
) -> None:
    """COPY rows; the last column of each is its value, as bytes or a view of bytes."""
    large: list[tuple[Any, ...]] = []
    with cursor.copy(statement) as copy:
        copy.set_types(types)
        write = copy.write_row
        for row in rows:
            if len(row[-1]) < LARGE:
                write(row)
            else:
                large.append(row)
    if large:
        _copy_large(cursor, statement, types, large)


def _copy_large(
    cursor: Cursor[Any], statement: LiteralString, types: Sequence[str], rows: list[tuple[Any, ...]]
) -> None:
    with cursor.copy(statement) as copy:
        copy.write(_SIGNATURE)
        for row in rows:
            fields = [_field(type_, part) for type_, part in zip(types, row[:-1], strict=False)]
            copy.write(struct.pack("!h", len(row)) + b"".join(fields) + _LENGTH.pack(len(row[-1])))
            copy.write(memoryview(row[-1]))  # psycopg cuts it, and pieces of a view are no copies
        copy.write(_TRAILER)


def _field(type_: str, value: Any) -> bytes:
    if value is None:
        return _NULL
    if type_ in _INTEGERS:
        integer = _INTEGERS[type_]
        return integer.pack(integer.size - _LENGTH.size, value)
    data = value.encode() if type_ == "text" else bytes(value)
    return _LENGTH.pack(len(data)) + data


def jsonb(text: bytes) -> bytes:
    """JSON text as jsonb's binary form: a version byte, then the text."""
    return b"\x01" + text
