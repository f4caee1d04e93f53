"""Rows that strangers send: JSON, lines of JSON, or an Arrow stream, read within bounds.

A body of some megabytes must not become gigabytes: of Arrow, compressed buffers, dictionaries, views and columns of
nothing but NULL can be much longer than they are sent, so their length is known before anything is made of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from surgetank.encode import jsontext
from surgetank.exceptions import InvalidRequest
from surgetank.streams.tables.ingest import ndjson

pc: Any = pyarrow.compute  # its functions are made when it is imported
MOST_ROWS = 250_000  # in one batch of JSON
MOST_ARROW_ROWS = 2_000_000
_FACTOR = 8  # how much longer rows of Arrow may be than their stream
_LEAST = 16 * 1024**2  # and this long in any case
# Fields of Message, DictionaryBatch and RecordBatch in Arrow's format/Message.fbs.
_HEADER, _BATCH_OF_DICTIONARY, _COMPRESSION = 2, 1, 3
_IN_BATCHES = ("record batch", "dictionary")


class RowsForm(StrEnum):
    """How rows are sent, by their media type."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"
    ARROW = "application/vnd.apache.arrow.stream"


def rows_of(data: bytes, form: RowsForm) -> Any:
    """The rows of a body, as `TableIngest.insert` takes them. Raises `InvalidRequest`."""
    match form:
        case RowsForm.JSON:
            return _of_json(data)
        case RowsForm.NDJSON:
            return _bounded(ndjson(data))
        case RowsForm.ARROW:
            return _of_arrow(data)


def _of_json(data: bytes) -> list[Any]:
    try:
        rows = jsontext.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"The rows are no JSON ({str(error)[:200]}).", remedy="send a list of objects."
        ) from error
    if not isinstance(rows, list):
        raise InvalidRequest("The rows are no list.", remedy="send a list of objects.")
    return _bounded(iter(rows))


def _bounded(rows: Iterator[Any]) -> list[Any]:
    found: list[Any] = []
    for row in rows:
        if len(found) == MOST_ROWS:
            raise _too_many(MOST_ROWS)
        found.append(row)
    return found


def _too_many(most: int) -> InvalidRequest:
    return InvalidRequest(f"A batch has at most {most:,} rows.", remedy="send several batches.")


def _of_arrow(data: bytes) -> pa.Table:
    try:
        _refuse_compressed(data)
        with pa.ipc.open_stream(pa.BufferReader(data)) as stream:
            batches, rows = [], 0
            for batch in stream:
                rows += batch.num_rows
                if rows > MOST_ARROW_ROWS:  # of columns of NULL they cost the sender nothing
                    raise _too_many(MOST_ARROW_ROWS)
                batches.append(batch)
            table = pa.Table.from_batches(batches, stream.schema)
        table.validate(full=True)
        _refuse_long(table, len(data))
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(
            f"This is no Arrow IPC stream ({str(error)[:200]}).",
            remedy="send what pyarrow.ipc.new_stream writes.",
        ) from error
    return table


def _refuse_long(table: pa.Table, sent: int) -> None:
    most, length = max(_FACTOR * sent, _LEAST), 0
    for name, column in zip(table.column_names, table.columns, strict=True):
        length += sum(_length(name, chunk) for chunk in column.chunks)
        if length > most:
            raise InvalidRequest(
                f"With the column {name[:80]!r} the rows are more than {_FACTOR} times as long as the stream.",
                remedy="send smaller batches, without dictionaries.",
            )


def _refuse_compressed(data: bytes) -> None:
    """What compressed buffers become is written in them, and believed when they are read."""
    for message in pa.ipc.MessageReader.open_stream(pa.BufferReader(data)):
        if message.type not in _IN_BATCHES:
            continue
        metadata = message.metadata.to_pybytes()
        batch = _table_at(metadata, _table_at(metadata, 0), _HEADER)
        if message.type == "dictionary":
            batch = _table_at(metadata, batch, _BATCH_OF_DICTIONARY)
        if _field(metadata, batch, _COMPRESSION):
            raise InvalidRequest(
                "The Arrow stream is compressed.", remedy="write it without compression."
            )


def _table_at(data: bytes, table: int, field: int | None = None) -> int:
    """Where the table is that an offset points to: at the beginning, or in a field of another
    (FlatBuffers)."""
    at = table if field is None else _field(data, table, field)
    (offset,) = struct.unpack_from("<I", data, at)
    return int(at + offset)


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a FlatBuffers table is; 0 where it has none."""
    (back,) = struct.unpack_from("<i", data, table)
    directory = table - back
    (size,) = struct.unpack_from("<H", data, directory)
    if size < 6 + 2 * number:
        return 0
    (offset,) = struct.unpack_from("<H", data, directory + 4 + 2 * number)
    return table + int(offset) if offset else 0


def _length(name: str, values: pa.Array) -> int:
    """How many bytes values have when nothing of them is shared. Raises `InvalidRequest` for types
    that no column takes."""
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return _length(name, values.storage)
    if pa.types.is_null(kind):
        return 8 * len(values)
    if pa.types.is_primitive(kind) or pa.types.is_fixed_size_binary(kind) or _is_decimal(kind):
        return len(values) * max(1, int(kind.bit_width) // 8)
    if _is_text(kind):
        return int(pc.sum(_lengths(values)).as_py() or 0)
    if pa.types.is_dictionary(kind):
        each = values.dictionary
        if _is_text(each.type):
            lengths = pc.take(_lengths(each), values.indices)
            return int(pc.sum(lengths).as_py() or 0)
        if pa.types.is_primitive(each.type) or _is_decimal(each.type):
            return len(values) * 16
    elif (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        return 8 * len(values) + _length(name, values.flatten())
    elif pa.types.is_struct(kind):
        return len(values) + sum(_length(name, each) for each in values.flatten())
    raise InvalidRequest(
        f"The column {name[:80]!r} is sent as {str(kind)[:80]}, which no column takes.",
        remedy="cast it: numbers, texts, times, bytes, lists of them; JSON as text.",
    )


def _is_text(kind: pa.DataType) -> bool:
    return any(
        known(kind)
        for known in (
            pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
            pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view,
        )
    )  # fmt: skip


def _is_decimal(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(kind))


def _lengths(values: pa.Array) -> pa.Array:
    if not pa.types.is_string_view(values.type) and not pa.types.is_binary_view(values.type):
        return pc.binary_length(values)
    # A view begins with its length, of 16 bytes; several may show the same text.
    views = np.frombuffer(values.buffers()[1], np.int32, 4 * (values.offset + len(values)))[::4]
    mine = pa.array(views[values.offset : values.offset + len(values)])
    return pc.if_else(pc.is_valid(values), mine, 0)
