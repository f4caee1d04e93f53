"""Arrow arrays of declared types, from values as Python has them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from surgetank.streams.tables.definition import SEQ, USER, Column, Table
from surgetank.streams.tables.types import ColumnType


def array_of(kind: ColumnType, values: Sequence[Any]) -> pa.Array:
    """Values of a column. Raises what Arrow raises for one that is none of its type."""
    if not kind.is_list:
        return _plain(kind.arrow, values)
    item = kind.item.arrow
    items = [each for value in values if value is not None for each in value]
    sizes = [len(value) if value is not None else 0 for value in values]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        _plain(item, items),
        type=kind.arrow,
        mask=pa.array([value is None for value in values]) if None in values else None,
    )


def _plain(kind: pa.DataType, values: Sequence[Any]) -> pa.Array:
    if not isinstance(kind, pa.BaseExtensionType):
        return pa.array(values, kind)
    stored = [value.bytes if isinstance(value, uuid.UUID) else value for value in values]
    return pa.ExtensionArray.from_storage(kind, pa.array(stored, kind.storage_type))


def repeated(column: Column, rows: int) -> pa.Array:
    """What rows from before the column have in it."""
    return array_of(column.type, [column.initial]).take(pa.array(np.zeros(rows, np.int32)))


_ORDINARY: Mapping[str, Any] = MappingProxyType(
    {
        "BOOLEAN": True,
        "SMALLINT": 1,
        "INT": 1,
        "BIGINT": 1,
        "REAL": 0.5,
        "DOUBLE": 0.5,
        "DECIMAL": Decimal(0),
        "TEXT": "a",
        "DATE": date(2020, 2, 3),
        "TIME": time(4, 5, 6),
        "TIMESTAMP": datetime(2020, 2, 3, 4, 5, 6),  # noqa: DTZ001 - it has no zone
        "TIMESTAMPTZ": datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC),
        "JSON": "{}",
        "BYTES": b"a",
        "UUID": uuid.UUID(int=1),
    }
)


def sample(table: Table) -> pa.Table:
    """A row of ordinary values, to try whether the table's types can be written at all."""
    made: dict[str, pa.Array] = {USER: pa.array(["a"])} if table.by_user else {}
    made[SEQ] = pa.array([1], pa.int64())
    for column in table.columns:
        value = _ORDINARY[column.type.name]
        made[column.name] = array_of(column.type, [[value] if column.type.is_list else value])
    return pa.table(made)
