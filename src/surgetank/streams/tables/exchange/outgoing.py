"""Rows of a table on their way into files: Parquet, CSV, lines of JSON, a Delta table. Some thousand at a time.

What CSV and JSON have no form for is text, as everywhere: what `reading` reads back is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from surgetank.encode import jsontext
from surgetank.exceptions import MissingExtra
from surgetank.streams.tables.cold.files import cast
from surgetank.streams.tables.definition import USER, Table
from surgetank.streams.tables.types import ColumnType
from surgetank.streams.tables.values import Convert, writer

FORMS = ("parquet", "csv", "ndjson", "delta")
_TEXT = ColumnType("TEXT")
_ROW_GROUP = 128 * 1024
# What Delta has no type for is text there.
_NOT_IN_DELTA = frozenset({"UUID", "JSON", "TIME"})


def columns_of(table: Table) -> tuple[tuple[str, ColumnType], ...]:
    """What a file has of a table: names and types."""
    user = [(USER, _TEXT)] if table.by_user else []
    return (*user, *((each.name, each.type) for each in table.columns))


def schema_of(table: Table) -> pa.Schema:
    """As Arrow has it."""
    return pa.schema([pa.field(name, kind.arrow) for name, kind in columns_of(table)])


def write_parquet(table: Table, rows: Iterable[pa.RecordBatch], target: Path) -> None:
    """One Parquet file."""
    schema = schema_of(table)
    with pq.ParquetWriter(target, schema, compression="zstd") as file:
        waiting: list[pa.RecordBatch] = []
        for batch in rows:
            waiting.append(batch)
            if sum(each.num_rows for each in waiting) >= _ROW_GROUP or _bytes(waiting) > 64 << 20:
                file.write_table(pa.Table.from_batches(waiting, schema))
                waiting.clear()
        if waiting:
            file.write_table(pa.Table.from_batches(waiting, schema))


def _bytes(batches: Sequence[pa.RecordBatch]) -> int:
    return sum(each.nbytes for each in batches)


def write_ndjson(table: Table, rows: Iterable[pa.RecordBatch], target: Path) -> None:
    """One object in each line."""
    names = [name for name, _ in columns_of(table)]
    with target.open("wb") as file:
        for row in _plain(table, rows):
            file.write(jsontext.dumps_clean(dict(zip(names, row, strict=True))) + b"\n")


def write_csv(table: Table, rows: Iterable[pa.RecordBatch], target: Path) -> None:
    """As RFC 4180 has it, with a line of names. NULL is nothing, an empty text is `""`."""
    with target.open("w", encoding="utf-8", newline="") as file:
        file.write(_line([name for name, _ in columns_of(table)]))
        for row in _plain(table, rows, null="null"):
            file.write(_line(row))


def write_delta(table: Table, rows: Iterable[pa.RecordBatch], target: Path) -> None:
    """A Delta table in an empty folder. Raises `MissingExtra`."""
    if find_spec("deltalake") is None:
        raise MissingExtra("deltalake", "delta", "A Delta table")
    write: Callable[..., None] = import_module("deltalake").write_deltalake
    columns = columns_of(table)
    schema = pa.schema([pa.field(name, _delta_type(kind)) for name, kind in columns])

    failed: list[BaseException] = []

    def made() -> Iterator[pa.RecordBatch]:
        try:
            for batch in rows:
                values = [
                    _for_delta(kind, batch.column(name), schema.field(name).type)
                    for name, kind in columns
                ]
                yield pa.RecordBatch.from_arrays(values, schema=schema)
        except BaseException as error:  # it would come out as text in an error of Delta's
            failed.append(error)
            raise

    try:
        with closing(pa.RecordBatchReader.from_batches(schema, made())) as reader:
            write(str(target), reader, mode="overwrite", name=table.name)
    except Exception as error:
        raise (failed[0] if failed else OSError(str(error)[:300])) from error


def _delta_type(kind: ColumnType) -> pa.DataType:
    if kind.name not in _NOT_IN_DELTA:
        return kind.arrow
    return pa.list_(pa.string()) if kind.is_list else pa.string()


def _for_delta(kind: ColumnType, values: pa.Array, wanted: pa.DataType) -> pa.Array:
    if kind.name not in _NOT_IN_DELTA:
        return values
    if kind.name == "JSON":
        if not kind.is_list:
            return values.storage
        return cast(pa.chunked_array([values]), wanted).combine_chunks()
    form = writer(kind)
    return pa.array([None if v is None else form(v) for v in values.to_pylist()], wanted)


def _plain(
    table: Table, rows: Iterable[pa.RecordBatch], *, null: str | None = None
) -> Iterator[list[Any]]:
    """Values as JSON has them; `null` for the null of a JSON column, which is no NULL."""
    forms: list[Convert] = [writer(kind) for _, kind in columns_of(table)]
    for batch in rows:
        columns = [column.to_pylist() for column in batch.columns]
        for row in zip(*columns, strict=True):
            yield [
                None if value is None else null if (shown := form(value)) is None else shown
                for form, value in zip(forms, row, strict=True)
            ]


def _line(row: Sequence[Any]) -> str:
    return ",".join(map(_field, row)) + "\r\n"


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value if isinstance(value, str) else jsontext.dumps_clean(value).decode()
    if not text or any(each in text for each in '",\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def chosen(rows: pa.RecordBatch, table: Table) -> pa.RecordBatch:
    """What a file has of rows as they are read."""
    schema = schema_of(table)
    return pa.RecordBatch.from_arrays([rows.column(name) for name in schema.names], schema=schema)


WRITERS: dict[str, Callable[[Table, Iterable[pa.RecordBatch], Path], None]] = {
    "parquet": write_parquet,
    "csv": write_csv,
    "ndjson": write_ndjson,
    "delta": write_delta,
}
