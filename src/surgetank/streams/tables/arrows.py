"""Rows that come as Arrow, column by column: nothing is done for each value, but where a value has to be understood.

A column that has the type of the table's, or one that is turned into it exactly, goes as it is. Any other goes
through the same functions as a row of Python (`values.reader`), so that both ways refuse the same.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute

from surgetank.exceptions import EntryRejected, InvalidRequest
from surgetank.streams.tables.definition import NOBODY, USER, Column, DefaultKind, Table
from surgetank.streams.tables.hot.columns import array_of, constant, keeper, nulls
from surgetank.streams.tables.rows import clocked
from surgetank.streams.tables.types import ColumnType
from surgetank.streams.tables.unfit import Unfit
from surgetank.streams.tables.values import Source, reader

pc: Any = pyarrow.compute  # its functions are made when it is imported
_DAY_US = 86_400_000_000
_RANGES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {  # what Python has too: the years 1 to 9999
        "DATE": (-719_162, 2_932_896),
        "TIME": (0, _DAY_US - 1),
        "TIMESTAMP": (-719_162 * _DAY_US, 2_932_897 * _DAY_US - 1),
        "TIMESTAMPTZ": (-719_162 * _DAY_US, 2_932_897 * _DAY_US - 1),
    }
)


class Unreadable:
    """A row that can't even be read: it is refused where it stands in its batch."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def is_arrow(rows: Any) -> bool:
    """Whether rows are Arrow, or can say so themselves (pandas, polars, DuckDB)."""
    return hasattr(rows, "__arrow_c_stream__") or hasattr(rows, "__arrow_c_array__")


def as_table(rows: Any) -> pa.Table:
    """Rows as a table, whatever Arrow they are. Raises `InvalidRequest`."""
    try:
        if isinstance(rows, pa.Table):
            return rows
        if isinstance(rows, pa.RecordBatch):
            return pa.Table.from_batches([rows])
        if isinstance(rows, pa.RecordBatchReader):
            return rows.read_all()
        if hasattr(rows, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(rows).read_all()
        return pa.Table.from_batches([pa.record_batch(rows)])
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidRequest(f"These rows are no Arrow table ({error}).") from error


def of_stream(data: bytes) -> pa.Table:
    """Rows of an Arrow IPC stream or file. Raises `InvalidRequest`."""
    try:
        if data[:6] == b"ARROW1":
            return pa.ipc.open_file(pa.BufferReader(data)).read_all()
        return pa.ipc.open_stream(pa.BufferReader(data)).read_all()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidRequest(
            f"This is no Arrow IPC stream ({error}).",
            remedy="send what pyarrow.ipc.new_stream writes.",
        ) from error


def single(rows: pa.Table) -> Iterator[Any]:
    """Each row as Python has it."""
    for at in range(rows.num_rows):
        try:
            yield {
                name: values[at].as_py()
                for name, values in zip(rows.column_names, rows.columns, strict=True)
            }
        except (ValueError, OverflowError) as error:  # what Python has no value for
            yield Unreadable(str(error)[:200])


def shaped(
    table: Table,
    rows: pa.Table,
    user: str | None,
    now: Callable[[], datetime],
    source: Source = Source.PYTHON,
) -> pa.Table:
    """The rows with all columns of the table, in its types, and `_user`. Raises `EntryRejected` with
    index, column and reason."""
    partition = table.partition(user or NOBODY)
    try:
        rows.validate(full=True)
    except pa.ArrowInvalid as error:
        raise EntryRejected(
            partition=partition, path="$", reason=f"no valid Arrow: {error}"
        ) from error
    given = _by_name(table, rows, partition, user)
    made: dict[str, Any] = {}
    if table.by_user:
        made[USER] = _users(rows, given, user, partition)
    for column in table.columns:
        at = given.get(column.name)
        if at is None:
            made[column.name] = _default(column, rows.num_rows, partition, now)
            continue
        values = _converted(column, rows.column(at), partition, source)
        if values.null_count and not column.nullable:
            index = pc.index(pc.is_null(values), value=True).as_py()
            raise _refused(column, partition, index, Unfit("NULL where the column is NOT NULL"))
        made[column.name] = values
    return pa.table(made)


def _by_name(table: Table, rows: pa.Table, partition: str, user: str | None) -> dict[str, int]:
    given: dict[str, int] = {}
    for at, name in enumerate(rows.column_names):
        column = table.column(name)
        known = column.name if column is not None else None
        if known is None and name == USER and table.by_user and user is None:
            known = USER
        if known is None or known in given:
            raise EntryRejected(
                partition=partition,
                path=f"$[0].{name[:80]}",
                reason="it is there twice" if known is not None
                else f"{table.full_name} has no such column",
                remedy=f"its columns are {', '.join(each.name for each in table.columns)[:400]}.",
            )  # fmt: skip
        given[known] = at
    return given


def _users(rows: pa.Table, given: dict[str, int], user: str | None, partition: str) -> Any:
    if user is not None:
        return pa.repeat(pa.scalar(user, pa.string()), rows.num_rows)
    if USER not in given:
        raise EntryRejected(
            partition=partition, path=f"$[0].{USER}", reason="nobody is named whose row it is"
        )
    users = rows.column(given[USER])
    if not pa.types.is_string(users.type):
        try:
            users = users.cast(pa.string())
        except pa.ArrowException as error:
            raise EntryRejected(
                partition=partition, path=f"$.{USER}", reason=f"users are texts ({error})"
            ) from error
    if users.null_count or pc.any(pc.equal(pc.binary_length(users), 0)).as_py():
        at = pc.index(pc.fill_null(pc.equal(users, ""), fill_value=True), value=True).as_py()
        raise EntryRejected(
            partition=partition, path=f"$[{at}].{USER}", reason="nobody is named whose row it is"
        )
    return users


def _converted(column: Column, given: pa.ChunkedArray, partition: str, source: Source) -> Any:
    wanted = column.type.arrow
    if pa.types.is_null(given.type):
        return nulls(column.type, len(given))
    if column.type.name != "JSON" and (given.type == wanted or _exact(given.type, column.type)):
        try:
            values = given if given.type == wanted else _cast(given, column.type)
            if _in_range(values, column.type):
                return values
        except pa.ArrowInvalid:
            pass  # which one it is, and why, is found value by value
    return _understood(column, given, partition, source)


def _cast(given: pa.ChunkedArray, type_: ColumnType) -> Any:
    if type_.name == "UUID":
        return pa.chunked_array(
            [pa.ExtensionArray.from_storage(type_.arrow, chunk) for chunk in given.chunks],
            type_.arrow,
        )
    return given.cast(type_.arrow, safe=True)


def _exact(given: pa.DataType, type_: ColumnType) -> bool:
    """Whether Arrow's own conversion is exact, or refuses."""
    if type_.is_list:
        return False
    if pa.types.is_dictionary(given):
        given = given.value_type
    if type_.name in ("TIMESTAMP", "TIMESTAMPTZ"):
        return pa.types.is_timestamp(given) and (given.tz is None) == (type_.name == "TIMESTAMP")
    if type_.name == "UUID":
        return bool(given == pa.binary(16))
    return any(known(given) for known in _EXACT.get(type_.name, ()))


_EXACT: Mapping[str, tuple[Callable[[pa.DataType], bool], ...]] = MappingProxyType(
    {
        **dict.fromkeys(("SMALLINT", "INT", "BIGINT"), (pa.types.is_integer,)),
        "DOUBLE": (pa.types.is_float32, pa.types.is_float16),
        "DECIMAL": (pa.types.is_decimal,),
        "TEXT": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        "BYTES": (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
        "DATE": (pa.types.is_date,),
        "TIME": (pa.types.is_time,),
    }
)


def _in_range(values: pa.ChunkedArray, type_: ColumnType) -> bool:
    bounds = _RANGES.get(type_.name)
    if bounds is None or type_.is_list:
        return bounds is None
    number = pa.int32() if type_.name == "DATE" else pa.int64()
    found = pc.min_max(values.cast(number)).as_py()
    return found["min"] is None or (bounds[0] <= found["min"] and found["max"] <= bounds[1])


def _understood(column: Column, given: pa.ChunkedArray, partition: str, source: Source) -> pa.Array:
    """Each value as Python has it, read as that of a row."""
    read, keep = reader(column.type, source), keeper(column.type)
    kept: list[Any] = []
    for index, scalar in enumerate(given):
        try:
            value = scalar.as_py()
            value = None if value is None else read(value)
        except Unfit as error:
            raise _refused(column, partition, index, error) from None
        except (ValueError, OverflowError) as error:  # what Python has no value for
            raise _refused(column, partition, index, Unfit(str(error)[:200])) from None
        kept.append(value if value is None or keep is None else keep(value))
    return array_of(column.type, kept)


def _default(column: Column, count: int, partition: str, now: Callable[[], datetime]) -> Any:
    default = column.default
    if default is None:
        if not column.nullable:
            reason = "it is missing, and the column is NOT NULL without a DEFAULT"
            raise _refused(column, partition, 0, Unfit(reason))
        return nulls(column.type, count)
    if default.kind is DefaultKind.NOW:
        return constant(column.type, clocked(column.type.name, now), count)
    if default.kind is DefaultKind.UUID:
        ids = [uuid.uuid4() for _ in range(count)]
        kept = [id_.bytes if column.type.name == "UUID" else str(id_) for id_ in ids]
        return array_of(column.type, kept)
    return constant(column.type, default.value, count)


def _refused(column: Column, partition: str, index: int, error: Unfit) -> EntryRejected:
    return EntryRejected(
        partition=partition,
        path=f"$[{index}].{column.name}",
        reason=error.reason,
        remedy=error.remedy,
    )
