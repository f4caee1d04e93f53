"""What a data file says of its columns: how many values and nulls, the least and the greatest.

Least and greatest are text, as a DuckLake catalogue has them; None where they don't help to leave files
out (lists, bytes, very long text).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

import pyarrow.parquet as pq

from surgetank.streams.tables.definition import SEQ, SEQ_ID, USER, USER_ID, Table

_LONGEST = 256  # characters of a least or greatest value
_WITHOUT_BOUNDS = frozenset({"BYTES", "JSON"})


@dataclass(frozen=True, slots=True)
class ColumnStats:
    """One column of one file. `nan` is whether a value may be NaN: such have no greatest value."""

    column_id: int
    bytes: int
    values: int
    nulls: int
    least: str | None = None
    greatest: str | None = None
    nan: bool | None = None

    def described(self) -> dict[str, Any]:
        """As it goes to the database."""
        return {
            "column_id": self.column_id, "bytes": self.bytes, "values": self.values,
            "nulls": self.nulls, "least": self.least, "greatest": self.greatest, "nan": self.nan,
        }  # fmt: skip


def stats_of(table: Table, metadata: pq.FileMetaData) -> tuple[ColumnStats, ...]:
    """Of all columns, the hidden ones too, from the statistics of a file's row groups."""
    wanted: dict[str, tuple[int, str]] = {SEQ: (SEQ_ID, "BIGINT")}
    if table.by_user:
        wanted[USER] = (USER_ID, "TEXT")
    for column in table.columns:
        name = f"{column.name}.list.element" if column.type.is_list else column.name
        wanted[name] = (column.id, "BYTES" if column.type.is_list else column.type.name)
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    found: dict[str, list[pq.ColumnChunkMetaData]] = {}
    for group in groups:
        for at in range(group.num_columns):
            chunk = group.column(at)
            found.setdefault(chunk.path_in_schema, []).append(chunk)
    return tuple(
        _combined(column_id, kind, found[name])
        for name, (column_id, kind) in wanted.items()
        if name in found
    )


def _combined(column_id: int, kind: str, chunks: list[Any]) -> ColumnStats:
    stats = [chunk.statistics for chunk in chunks]
    nulls = sum(each.null_count or 0 for each in stats if each is not None)
    values = sum(chunk.num_values for chunk in chunks)
    bounded = kind not in _WITHOUT_BOUNDS and all(
        each is not None and (each.has_min_max or each.num_values == 0) for each in stats
    )
    ranges = [each for each in stats if each is not None and each.has_min_max] if bounded else []
    least = greatest = None
    if ranges:
        text = _TEXT.get(kind, str)
        least = _short(text(min(each.min for each in ranges)))
        greatest = _short(text(max(each.max for each in ranges)))
        if least is None or greatest is None:
            least = greatest = None
    return ColumnStats(
        column_id,
        bytes=sum(chunk.total_compressed_size for chunk in chunks),
        values=values,
        nulls=nulls,
        least=least,
        greatest=greatest,
        # Parquet's statistics leave NaN out; whether there was one is not known without a search.
        nan=True if kind in ("REAL", "DOUBLE") else None,
    )


def _short(text: str) -> str | None:
    return text if len(text) <= _LONGEST and "\x00" not in text else None


def _boolean(value: Any) -> str:
    return "true" if value else "false"


def _timestamp(value: datetime) -> str:
    return value.replace(tzinfo=None).isoformat(sep=" ")


def _timestamptz(value: datetime) -> str:
    return f"{value.replace(tzinfo=None).isoformat(sep=' ')}+00"


def _time(value: time) -> str:
    return value.isoformat()


def _date(value: date) -> str:
    return value.isoformat()


def _uuid(value: bytes | uuid.UUID) -> str:
    return str(value if isinstance(value, uuid.UUID) else uuid.UUID(bytes=value))


_TEXT: dict[str, Callable[[Any], str]] = {
    "BOOLEAN": _boolean,
    "TIMESTAMP": _timestamp,
    "TIMESTAMPTZ": _timestamptz,
    "TIME": _time,
    "DATE": _date,
    "UUID": _uuid,
}
