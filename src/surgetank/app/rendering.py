"""Rows of SQL as JSON, CSV and files have them. Pure, but for writing to what is given.

What JSON has no form for is text: decimals (exact), dates and times (ISO 8601), UUIDs, bytes (base64), NaN and
infinities. JSON columns are values, not text in text.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Protocol
from uuid import UUID

from surgetank.encode import jsontext
from surgetank.exceptions import InvalidRequest

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 1000
_NUMBER = re.compile(r"[-+]?(\d+(\.\d+)?(e[-+]?\d+)?|Infinity)", re.IGNORECASE)
_WIDE = frozenset({"HUGEINT", "UHUGEINT"})  # sum() of BIGINT is one; Arrow has them as decimals


def plain_rows(table: pa.Table, types: Sequence[str]) -> Iterator[list[Any]]:
    """The rows, each value as JSON has it. `types` are those of SQL, by column."""
    forms = [_form(kind) for kind in types]
    for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        columns = [values_of(column) for column in batch.columns]
        for row in zip(*columns, strict=True):
            yield [
                None if value is None else form(value)
                for form, value in zip(forms, row, strict=True)
            ]


def objects(table: pa.Table, types: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows as objects. Of columns with the same name the last one counts."""
    names = table.column_names
    for row in plain_rows(table, types):
        yield dict(zip(names, row, strict=True))


def values_of(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values of a column. Times that Python has not (before the year 1, after 9999, of parts of a
    microsecond) are text, as Arrow writes them."""
    import pyarrow as pa  # noqa: PLC0415 - an extra

    if pa.types.is_interval(column.type):
        return [None if value is None else _interval(value) for value in column.to_pylist()]
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.opaque":
        storage = column.cast(kind.storage_type)
        return [None if value is None else bytes(value) for value in storage.to_pylist()]
    try:
        return list(column.to_pylist())
    except (OverflowError, ValueError):
        return [_value(each) for each in column]


def _value(scalar: Any) -> Any:
    """A value of a column in which Python has not all."""
    import pyarrow as pa  # noqa: PLC0415 - an extra

    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        if pa.types.is_temporal(scalar.type):
            return scalar.cast(pa.string()).as_py()
        if pa.types.is_struct(scalar.type):
            return {name: _value(each) for name, each in scalar.items()}
        return [_value(each) for each in scalar.values]


def _form(kind: str) -> Callable[[Any], Any]:
    if kind == "JSON":
        return _parsed
    return int if kind in _WIDE else plain


def _parsed(value: Any) -> Any:
    try:
        return jsontext.loads(value)
    except (TypeError, ValueError, RecursionError):
        return plain(value)


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    match value:
        case bool() | int() | str() | None:
            return value
        case float():
            return value if math.isfinite(value) else _NOT_FINITE[repr(value)]
        case Decimal():
            return format(value, "f")
        case UUID():
            return str(value)
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case dt.timedelta():
            return value.total_seconds()
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return str(value)


_NOT_FINITE: Mapping[str, str] = MappingProxyType(
    {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
)


def _interval(value: Any) -> str:
    """As ISO 8601 has it: P1M2DT3.5S."""
    months, days, nanoseconds = value
    seconds = f"T{nanoseconds / 1e9:.9f}".rstrip("0").rstrip(".") + "S" if nanoseconds else ""
    parts = f"{months}M" * bool(months) + f"{days}D" * bool(days) + seconds
    return f"P{parts or 'T0S'}"


def shown(value: Any) -> str:
    """A value of `plain_rows` as text, for people and CSV."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else jsontext.dumps_exact(value).decode()


def size(count: float) -> str:
    """Bytes, in the unit that suits them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


class Stored(Protocol):
    """What is known of the space that a buffer takes."""

    @property
    def file_bytes(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def memory_max(self) -> int: ...


def stored_in(depth: Stored) -> str:
    """What the buffer takes where it is: on a disk, or in a server's memory."""
    if not depth.memory_bytes:
        return f"file {size(depth.file_bytes)}"
    most = f" of {size(depth.memory_max)}" if depth.memory_max else ""
    return f"memory of the server {size(depth.memory_bytes)}{most}"


def write_csv(
    table: pa.Table, types: Sequence[str], target: IO[str], *, for_spreadsheets: bool = False
) -> None:
    """As RFC 4180 has it, with a line of names. NULL is nothing, an empty text is `""`. With
    `for_spreadsheets` a text that one would take for a formula begins with an apostrophe."""
    safe = _no_formula if for_spreadsheets else _as_it_is
    target.write(_line(list(map(safe, table.column_names))))
    for row in plain_rows(table, types):
        target.write(_line(list(map(safe, row))))


def _as_it_is(value: Any) -> Any:
    return value


def _no_formula(value: Any) -> Any:
    """Spreadsheets run what begins like a formula, also behind white space. A number is none."""
    is_formula = isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@"))
    return f"'{value}" if is_formula and not _NUMBER.fullmatch(value) else value


def _line(row: Sequence[Any]) -> str:
    return ",".join(map(_field, row)) + "\r\n"


def _field(value: Any) -> str:
    text = shown(value)
    if value is not None and (not text or any(each in text for each in '",\r\n')):
        return '"' + text.replace('"', '""') + '"'
    return text


def write_json(table: pa.Table, types: Sequence[str], target: IO[str]) -> None:
    """A list of objects, one in each line."""
    target.write("[")
    for number, row in enumerate(objects(table, types)):
        target.write((",\n " if number else "\n ") + jsontext.dumps_exact(row).decode())
    target.write("\n]\n" if table.num_rows else "]\n")


def write_ndjson(table: pa.Table, types: Sequence[str], target: IO[str]) -> None:
    """One object in each line."""
    for row in objects(table, types):
        target.write(jsontext.dumps_exact(row).decode() + "\n")


def write_arrow(table: pa.Table, target: IO[bytes]) -> None:
    """As an Arrow IPC stream."""
    import pyarrow as pa  # noqa: PLC0415 - an extra

    with pa.ipc.new_stream(target, table.schema) as writer:
        writer.write_table(table, max_chunksize=65_536)


def write_parquet(table: pa.Table, target: IO[bytes]) -> None:
    """As a Parquet file. Raises `InvalidRequest` for types that it hasn't."""
    import pyarrow as pa  # noqa: PLC0415 - an extra
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        pq.write_table(table, target)
    except pa.ArrowException as error:
        raise InvalidRequest(
            f"These rows can't be written as Parquet: {str(error)[:200]}.",
            remedy="write them as CSV, or cast the column to TEXT.",
        ) from error
