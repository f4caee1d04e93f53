"""A column's values in SQLite and in Arrow: from what Python has to what the file keeps, and from that to Arrow.

SQLite has no NaN and no -0.0, so these are kept as their eight bytes; a DECIMAL as its text, times as counts of
days or microseconds, a UUID as bytes, and a list as the JSON of its items. (A row's head, `slots.py`, has both as they
are.)
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from surgetank.streams.tables.definition import Column
from surgetank.streams.tables.types import ColumnType
from surgetank.streams.tables.values import Source, reader, writer

Keep = Callable[[Any], Any]
SIZED = frozenset({"TEXT", "JSON", "BYTES", "DECIMAL"})  # whose bytes depend on the value
_EIGHT = struct.Struct("<d")
_MICROSECOND = timedelta(microseconds=1)
_EPOCH, _EPOCH_UTC = datetime(1970, 1, 1), datetime(1970, 1, 1, tzinfo=UTC)  # noqa: DTZ001 - naive as TIMESTAMP is
_EPOCH_DAY = date(1970, 1, 1).toordinal()


def keeper(type_: ColumnType) -> Keep | None:
    """From a value (not None) to what SQLite keeps; None where that is the same."""
    if type_.is_list:
        # Items of JSON stay texts: JSON's own null is a value among them.
        plain = list if type_.name == "JSON" else writer(type_)
        return lambda values: json.dumps(plain(values), ensure_ascii=False, separators=(",", ":"))
    return _KEEPERS.get(type_.name)


def array_of(type_: ColumnType, kept: Sequence[Any]) -> pa.Array:
    """What SQLite kept of a column, as Arrow."""
    if type_.is_list:
        return list_array(type_, kept)
    match type_.name:
        case "BOOLEAN":
            return pa.array(kept, pa.int8()).cast(pa.bool_())
        case "DATE":
            return pa.array(kept, pa.int32()).cast(type_.arrow)
        case "TIME" | "TIMESTAMP" | "TIMESTAMPTZ":
            return pa.array(kept, pa.int64()).cast(type_.arrow)
        case "DECIMAL":
            return pa.array(kept, pa.string()).cast(type_.arrow)
        case "REAL" | "DOUBLE":
            return _floats(type_, kept)
        case "JSON":
            return pa.ExtensionArray.from_storage(type_.arrow, pa.array(kept, pa.string()))
        case "UUID":
            return pa.ExtensionArray.from_storage(type_.arrow, pa.array(kept, pa.binary(16)))
    return pa.array(kept, type_.arrow)


def constant(type_: ColumnType, value: Any, count: int) -> pa.Array:
    """A column that has one value (as Python has it) in so many rows."""
    if value is None:
        return nulls(type_, count)
    keep = keeper(type_)
    one = array_of(type_, [value if keep is None else keep(value)])
    return one.take(pa.array([0] * count, pa.int32()))


def nulls(type_: ColumnType, count: int) -> pa.Array:
    """A column without values."""
    return array_of(type_, [None] * count)


def row_json(columns: Sequence[Column], values: Sequence[Any]) -> str:
    """One row as JSON, by the ids of its columns: what SQLite keeps, bytes in base64."""
    kept = []
    for column, value in zip(columns, values, strict=True):
        keep = keeper(column.type)
        kept.append(value if value is None or keep is None else keep(value))
    return json.dumps(
        {
            column.id: [base64.b64encode(value).decode()] if isinstance(value, bytes) else value
            for column, value in zip(columns, kept, strict=True)
        },
        ensure_ascii=False,
    )


def kept_of(column: Column, row: Mapping[str, Any]) -> Any:
    """What SQLite keeps of a column, of a row that was JSON."""
    if str(column.id) not in row:
        keep, initial = keeper(column.type), column.initial
        return initial if initial is None or keep is None else keep(initial)
    value = row[str(column.id)]
    return base64.b64decode(value[0]) if isinstance(value, list) else value


def _floats(type_: ColumnType, kept: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(kept, type_.arrow)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # some are NaN or -0.0
        plain = [_EIGHT.unpack(each)[0] if isinstance(each, bytes) else each for each in kept]
        return pa.array(plain, type_.arrow)


def list_array(type_: ColumnType, kept: Sequence[Any]) -> pa.Array:
    """Lists, each of which SQLite kept as the JSON of its items."""
    item = type_.item
    read = list if type_.name == "JSON" else reader(type_, Source.JSON)
    keep = keeper(item)
    offsets: list[int | None] = []
    items: list[Any] = []
    for text in kept:
        offsets.append(None if text is None else len(items))
        if text is not None:
            items += [
                None if each is None else each if keep is None else keep(each)
                for each in read(json.loads(text))
            ]
    offsets.append(len(items))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), array_of(item, items))


def _boolean(value: bool) -> int:
    return 1 if value else 0


def _float(value: float) -> float | bytes:
    if value != value or (value == 0.0 and math.copysign(1.0, value) < 0):  # noqa: PLR0124 - NaN
        return _EIGHT.pack(value)
    return value


def _decimal(value: Decimal) -> str:
    return format(value, "f")


def _date(value: date) -> int:
    return value.toordinal() - _EPOCH_DAY


def _time(value: time) -> int:
    seconds = value.hour * 3600 + value.minute * 60 + value.second
    return seconds * 1_000_000 + value.microsecond


def _timestamp(value: datetime) -> int:
    return (value - _EPOCH) // _MICROSECOND


def _timestamptz(value: datetime) -> int:
    return (value - _EPOCH_UTC) // _MICROSECOND


_KEEPERS: Mapping[str, Keep] = MappingProxyType(
    {
        "BOOLEAN": _boolean,
        "REAL": _float,
        "DOUBLE": _float,
        "DECIMAL": _decimal,
        "DATE": _date,
        "TIME": _time,
        "TIMESTAMP": _timestamp,
        "TIMESTAMPTZ": _timestamptz,
        "UUID": attrgetter("bytes"),
    }
)
