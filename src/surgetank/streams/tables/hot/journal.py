"""The row table of a table as Arrow. SQLite joins the heads of many rows to one value, and each column's texts to
another: these are Arrow's buffers, so that nothing is done for a single row."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from surgetank.exceptions import BufferCorrupt
from surgetank.streams.tables.definition import SEQ, USER, Column, Table
from surgetank.streams.tables.hot.columns import constant, list_array
from surgetank.streams.tables.hot.covering import uncovered
from surgetank.streams.tables.hot.definitions import definition_of
from surgetank.streams.tables.hot.protocol import OP, VERSION, Op, Progress
from surgetank.streams.tables.hot.schema import columns_of, rows_of
from surgetank.streams.tables.hot.segments import Range
from surgetank.streams.tables.hot.slots import LENGTH, columns_at, null_bytes, slot_of

_AT_ONCE = 10_000  # rows of one statement: more are slower, their texts grow by being copied
_Array = np.ndarray[Any, np.dtype[Any]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]
_KINDS = ("max(op)", "count(seq)", "min(schema)", "max(schema)")
_ALIKE = ("0", "0", "1", "1")  # of inserted rows, before the table was ever changed
_EVERY = ("CAST(group_concat(user, '') AS BLOB)", "CAST(group_concat(head, '') AS BLOB)")
_NUMBERS = ("group_concat(version)", "group_concat(op, '')", "group_concat(coalesce(seq, version))")


@dataclass(frozen=True, slots=True)
class _Source:
    """A row table, and which of its rows."""

    connection: sqlite3.Connection
    table: Table
    up_to: int
    where: str
    values: list[Any]
    listed: Numbers | None  # the versions that may be among them
    alike: bool = False  # all that there are, are inserted rows of the first version of the schema

    def window(self, after: int, most: int) -> tuple[int, int] | None:
        """After and up to which version the next rows are, at most so many; None without any."""
        if self.listed is not None:
            start = int(np.searchsorted(self.listed, after, "right"))
            some = self.listed[start : start + most]
            return (after, int(some[-1])) if len(some) and some[0] <= self.up_to else None
        found = self.connection.execute(
            f"SELECT version FROM {rows_of(self.table.id)} WHERE version > ? AND version <= ? LIMIT 1",
            (after, self.up_to),
        ).fetchone()
        return None if found is None else (found[0] - 1, min(found[0] - 1 + most, self.up_to))

    def ask(self, shown: Sequence[str], window: tuple[int, int], schema: int | None = None) -> Any:
        """Aggregates over the rows of a window, or those of one version of the schema: in the order
        of their versions."""
        only = "" if schema is None else f" AND schema = {int(schema)}"
        within, values = "version > ? AND version <= ?", list[Any](window)
        if self.listed is not None:
            start, end = np.searchsorted(self.listed, window, "right")
            within = "version IN (SELECT value FROM json_each(?)) AND +version <= ?"
            values = [json.dumps(self.listed[start:end].tolist()), self.up_to]
        return self.connection.execute(
            f"SELECT {', '.join(shown)} FROM {rows_of(self.table.id)} NOT INDEXED"
            f" WHERE {within} AND {self.where}{only}",
            (*values, *self.values),
        ).fetchone()


def journal_rows(
    connection: sqlite3.Connection,
    table: Table,
    columns: Sequence[Column],
    chosen: Range,
    *,
    progress: Mapping[int, Progress],
    since: float | None = None,
    listed: Numbers | None = None,
) -> Iterator[pa.Table]:
    """The changes of a range that `progress` does not cover, in the order of their versions, some ten
    thousand at a time. Accepted after `since`. Only `listed` versions are looked at, where it is known
    which they may be."""
    known = columns_of(connection, table.id)
    if not known:
        return
    where, values = _where(chosen, progress, since)
    source = _Source(
        connection, table, up_to=chosen.up_to, where=where, values=values, listed=listed,
        alike=_all_alike(connection, table),
    )  # fmt: skip
    texts = [f"c_{column.id}" for column in columns if f"c_{column.id}" in known]
    after, most = chosen.after, _AT_ONCE
    while (window := source.window(after, most)) is not None:
        try:
            parts = _parts(source, columns, texts, window)
        except (sqlite3.DataError, MemoryError):  # more than a value of SQLite's may have
            if most == 1:
                raise
            most = max(1, most // 16)
            continue
        yield from parts
        after = window[1]


def _all_alike(connection: sqlite3.Connection, table: Table) -> bool:
    """Known without reading rows: they need not be asked one by one then, which takes a third of the
    time."""
    row = connection.execute(
        f"SELECT schema_version, EXISTS (SELECT 1 FROM {rows_of(table.id)} WHERE seq IS NOT NULL)"
        " FROM hot_tables WHERE table_id = ?",
        (table.id,),
    ).fetchone()
    return row is not None and tuple(row) == (1, 0)


def _parts(
    source: _Source, columns: Sequence[Column], texts: Sequence[str], window: tuple[int, int]
) -> list[pa.Table]:
    kinds = _ALIKE if source.alike else _KINDS
    shown = ["count(*)", *kinds, *_EVERY]
    shown += [f"CAST(group_concat({name}, '') AS BLOB)" for name in texts]
    if source.listed is not None:
        shown.append(_NUMBERS[0])
    found = source.ask(shown, window)
    if not found[0]:
        return []
    if found[3] == found[4]:
        return [_arrow(source, columns, found, texts, window)]
    parts = []
    for schema in range(found[3], found[4] + 1):
        some = source.ask(shown, window, schema)
        if some[0]:
            parts.append(_arrow(source, columns, some, texts, window, schema))
    mixed = pa.concat_tables(parts)
    return [mixed.take(pa.array(np.argsort(mixed.column(VERSION).to_numpy(), kind="stable")))]


def _where(
    chosen: Range, progress: Mapping[int, Progress], since: float | None
) -> tuple[str, list[Any]]:
    where, values = uncovered(progress)
    where += " AND bytes IS NOT NULL"
    if chosen.user is not None:
        where += " AND user = ?"
        values.append(chosen.user)
    if chosen.without:
        where += " AND user NOT IN (SELECT value FROM json_each(?))"
        values.append(json.dumps(sorted(chosen.without)))
    if since is not None:
        where += " AND at > ?"
        values.append(since)
    return where, values


def _arrow(
    source: _Source, columns: Sequence[Column], found: Sequence[Any], texts: Sequence[str],
    window: tuple[int, int], schema: int | None = None,
) -> pa.Table:  # fmt: skip
    count, op, seqs, of_schema, _, users, heads, *data = found
    heads_of = _heads(source, of_schema, heads or b"", count)
    ops: _Array | None = None
    if op or seqs:
        listed, done, of = source.ask(_NUMBERS, window, schema)
        versions, numbers = _numbers(listed), _numbers(of)
        ops = np.frombuffer(done.encode(), np.int8) - ord("0")
    elif count == window[1] - window[0] and source.listed is None:
        versions = numbers = np.arange(window[0] + 1, window[1] + 1)
    else:
        listed = (
            data.pop() if source.listed is not None else source.ask(_NUMBERS[:1], window, schema)[0]
        )
        versions = numbers = _numbers(listed)
    if ops is None:
        ops = np.full(count, int(Op.INSERT), np.int8)
    made: dict[str, Any] = {}
    if source.table.by_user:
        made[USER] = _texts(pa.string(), heads_of["user"], users or b"", None)
    made[SEQ], made[VERSION], made[OP] = pa.array(numbers), pa.array(versions), pa.array(ops)
    joined = dict(zip(texts, data, strict=False))  # versions may follow
    absent = np.unpackbits(heads_of["nulls"].reshape(count, -1), axis=1, bitorder="little")
    bits = {column.id: at for at, column in enumerate(_packed(source, of_schema))}
    for column in columns:
        if column.id not in bits:
            made[column.name] = constant(column.type, column.initial, count)
            continue
        nulls = absent[:, bits[column.id]].astype(bool)
        mask = nulls if nulls.any() else None
        name = f"c_{column.id}"
        made[column.name] = _column(column, heads_of[name], joined.get(name) or b"", mask)
    return pa.table(made)


def _packed(source: _Source, schema: int) -> tuple[Column, ...]:
    """The columns that a row of that version of the schema has."""
    table = source.table
    if schema > table.schema_version:  # another process knows of a newer one
        (text,) = source.connection.execute(
            "SELECT definition FROM hot_tables WHERE table_id = ?", (table.id,)
        ).fetchone()
        table = definition_of(text)
    return columns_at(table, schema)


def _heads(source: _Source, schema: int, heads: bytes, count: int) -> _Array:
    columns = _packed(source, schema)
    form: list[Any] = [("user", LENGTH.numpy), ("nulls", "u1", (null_bytes(len(columns)),))]
    slots = [(f"c_{column.id}", slot_of(column.type)) for column in columns]
    form += [(name, slot.numpy) for name, slot in slots if slot is not None]
    form += [(name, LENGTH.numpy) for name, slot in slots if slot is None]
    kind = np.dtype(form)
    if len(heads) != count * kind.itemsize:
        raise BufferCorrupt(
            f"Rows of {source.table.full_name} have heads of {len(heads)} bytes instead of"
            f" {count * kind.itemsize}. They were left as they are.",
            remedy="put the file back from a copy of the home.",
        )
    return np.frombuffer(heads, kind)


def _numbers(text: str) -> _Array:
    return np.fromstring(text, np.int64, sep=",")


def _column(column: Column, head: _Array, data: bytes, mask: _Array | None) -> pa.Array:
    type_ = column.type
    if type_.is_list:
        return list_array(type_, _texts(pa.string(), head, data, mask).to_pylist())
    match type_.name:
        case "TEXT" | "BYTES":
            return _texts(type_.arrow, head, data, mask)
        case "JSON":
            texts = _texts(pa.string(), head, data, mask)
            return pa.ExtensionArray.from_storage(type_.arrow, texts)
        case "DECIMAL":
            return _texts(pa.string(), head, data, mask).cast(type_.arrow)
        case "UUID":
            buffers = [_bits(mask), pa.py_buffer(np.ascontiguousarray(head))]
            ids = pa.Array.from_buffers(pa.binary(16), len(head), buffers)
            return pa.ExtensionArray.from_storage(type_.arrow, ids)
        case "DATE" | "TIME" | "TIMESTAMP" | "TIMESTAMPTZ":
            return pa.array(np.ascontiguousarray(head), mask=mask).cast(type_.arrow)
        case "REAL":
            return pa.array(head.astype(np.float32), type_.arrow, mask=mask)
    return pa.array(np.ascontiguousarray(head), type_.arrow, mask=mask)


def _texts(kind: pa.DataType, lengths: _Array, data: bytes, mask: _Array | None) -> pa.Array:
    ends = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=ends[1:])
    buffers = [_bits(mask), pa.py_buffer(ends), pa.py_buffer(data)]
    return pa.Array.from_buffers(kind, len(lengths), buffers)


def _bits(mask: _Array | None) -> pa.Buffer | None:
    return None if mask is None else pa.py_buffer(np.packbits(~mask, bitorder="little"))
