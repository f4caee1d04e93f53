"""A table for a file: the columns that its schema, or its first rows, ask for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from itertools import islice
from typing import Any

import pyarrow as pa

from surgetank.exceptions import InvalidRequest
from surgetank.streams.tables.arrows import Unreadable
from surgetank.streams.tables.definition import USER, Kind, Table, checked_name
from surgetank.streams.tables.exchange.reading import RowsFile
from surgetank.streams.tables.sql.statements import NewColumn
from surgetank.streams.tables.types import MOST_DIGITS, ColumnType

_LOOKED_AT = 1000  # rows of a file without types
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})")
# What exports write for a DOUBLE that is no finite number; as words in a column of texts they are texts.
_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})
_ARROW: Sequence[tuple[Callable[[pa.DataType], bool], str]] = (
    (pa.types.is_boolean, "BOOLEAN"),
    (lambda kind: kind in (pa.int8(), pa.int16(), pa.uint8()), "SMALLINT"),
    (lambda kind: kind in (pa.int32(), pa.uint16()), "INT"),
    (lambda kind: kind in (pa.int64(), pa.uint32()), "BIGINT"),
    (lambda kind: kind == pa.uint64(), "DECIMAL(20, 0)"),
    (lambda kind: kind in (pa.float16(), pa.float32()), "REAL"),
    (pa.types.is_float64, "DOUBLE"),
    (pa.types.is_date, "DATE"),
    (pa.types.is_time, "TIME"),
    (lambda kind: pa.types.is_timestamp(kind) and kind.tz is not None, "TIMESTAMPTZ"),
    (pa.types.is_timestamp, "TIMESTAMP"),
    (pa.types.is_string, "TEXT"),
    (pa.types.is_large_string, "TEXT"),
    (pa.types.is_string_view, "TEXT"),
    (pa.types.is_null, "TEXT"),
    (pa.types.is_binary, "BYTES"),
    (pa.types.is_large_binary, "BYTES"),
    (pa.types.is_binary_view, "BYTES"),
    (pa.types.is_fixed_size_binary, "BYTES"),
    (pa.types.is_struct, "JSON"),
    (pa.types.is_map, "JSON"),
)


def columns_for(file: RowsFile, *, without: str) -> tuple[NewColumn, ...]:
    """The columns for a table of this file, but the one with users. Raises `InvalidRequest`."""
    if file.form == "parquet":
        found = {field.name: sql_type(field.type) for field in file.schema()}
    else:
        found = _seen(file, Table(id=0, namespace="", name="", kind=Kind.SHARED, columns=()))
    return tuple(
        NewColumn(checked_name(name, "column"), ColumnType.parse(kind))
        for name, kind in found.items()
        if name not in (without, USER)
    )


def sql_type(kind: pa.DataType) -> str:
    """The type of a column for values of Arrow."""
    if isinstance(kind, pa.BaseExtensionType):
        known: Mapping[str, str] = {"arrow.uuid": "UUID", "arrow.json": "JSON"}
        return known.get(kind.extension_name) or sql_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return sql_type(kind.value_type)
    if pa.types.is_decimal(kind):
        return f"DECIMAL({min(kind.precision, MOST_DIGITS)}, {kind.scale})"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        item = sql_type(kind.value_type)
        return "JSON" if item.endswith("[]") or item == "JSON" else f"{item}[]"
    found = next((name for known, name in _ARROW if known(kind)), None)
    if found is None:
        raise InvalidRequest(
            f"There is no type for {str(kind)[:80]}.", remedy="make the table first."
        )
    return found


def _seen(file: RowsFile, no_table: Table) -> dict[str, str]:
    """What the first rows of a file without types have."""
    found: dict[str, set[str]] = {name: set() for name in file.names()}
    text = file.form == "csv"
    rows = (row for batch in file.batches(no_table) for row in batch.rows)
    for row in islice(rows, _LOOKED_AT):
        if isinstance(row, Unreadable):
            continue
        for name, value in row.items():
            kinds = found.setdefault(name, set())
            if value is not None:
                kinds.add(_of_text(value) if text else _of_value(value))
    if not found:
        raise InvalidRequest("The file has no columns.", remedy="make the table first.")
    return {name: _widest(kinds) for name, kinds in found.items()}


def _of_value(value: Any) -> str:
    match value:
        case bool():
            return "BOOLEAN"
        case int():
            return "BIGINT" if abs(value) < 1 << 63 else "DECIMAL(38, 0)"
        case float():
            return "DOUBLE"
        case str():
            return "not finite" if value in _NOT_FINITE else "TEXT"
    return "JSON"


def _of_text(text: str) -> str:
    if text in ("true", "false"):
        return "BOOLEAN"
    if text in _NOT_FINITE:
        return "not finite"
    if _NUMBER.fullmatch(text):
        return "BIGINT"
    for read in (_number, _day, _moment):
        try:
            return read(text)
        except ValueError:
            continue
    return "TEXT"


def _number(text: str) -> str:
    if not math.isfinite(float(text)) or "_" in text or re.match(r"-?0\d", text):
        raise ValueError
    return "DOUBLE"


def _day(text: str) -> str:
    date.fromisoformat(text)
    return "DATE"


def _moment(text: str) -> str:
    return "TIMESTAMP" if datetime.fromisoformat(text).tzinfo is None else "TIMESTAMPTZ"


def _widest(kinds: Iterable[str]) -> str:
    found = set(kinds)
    if "not finite" in found:
        numbers = found <= {"not finite", "BIGINT", "DECIMAL(38, 0)", "DOUBLE"}
        found = (found - {"not finite"}) | {"DOUBLE" if numbers else "TEXT"}
    if found >= {"DOUBLE"} and found <= {"BIGINT", "DECIMAL(38, 0)", "DOUBLE"}:
        return "DOUBLE"
    if found == {"BIGINT", "DECIMAL(38, 0)"}:
        return "DECIMAL(38, 0)"
    if found == {"DATE", "TIMESTAMP"}:
        return "TIMESTAMP"
    if len(found) == 1:
        return found.pop()
    return "JSON" if "JSON" in found else "TEXT"
