"""Which values have a fixed size, and how they are packed: the same for who writes a row and who reads many. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from surgetank.streams.tables.definition import Column, Table
from surgetank.streams.tables.types import ColumnType


@dataclass(frozen=True, slots=True)
class Slot:
    """One value in a row's head: for `struct`, for numpy, and what stands there for NULL."""

    packed: str
    numpy: str
    empty: float | bytes = 0


_SLOTS: Mapping[str, Slot] = MappingProxyType(
    {
        "BOOLEAN": Slot("?", "?"),
        "SMALLINT": Slot("h", "<i2"),
        "INT": Slot("i", "<i4"),
        "BIGINT": Slot("q", "<i8"),
        "REAL": Slot("d", "<f8"),
        "DOUBLE": Slot("d", "<f8"),
        "DATE": Slot("i", "<i4"),
        "TIME": Slot("q", "<i8"),
        "TIMESTAMP": Slot("q", "<i8"),
        "TIMESTAMPTZ": Slot("q", "<i8"),
        "UUID": Slot("16s", "V16", bytes(16)),
    }
)
LENGTH = Slot("I", "<u4")  # of a value that is not in the head itself


def slot_of(type_: ColumnType) -> Slot | None:
    """Where a value of this type stands in the head; None where its size differs."""
    return None if type_.is_list else _SLOTS.get(type_.name)


def columns_at(table: Table, schema: int) -> tuple[Column, ...]:
    """The columns that a row of that version of the schema was packed with."""
    return tuple(column for column in table.columns if column.since <= schema)


def null_bytes(columns: int) -> int:
    """How many bytes the bits take that tell which values are NULL."""
    return (columns + 7) // 8
