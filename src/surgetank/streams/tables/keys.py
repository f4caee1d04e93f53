"""The bytes of a PRIMARY KEY: equal values give equal bytes, others never, and the order is that of the values.
Pure.

    encode = key_encoder(table)
    encode((1, "a"))                # the values of `table.key`, in its order
    encode_row = row_key(table)     # of a row: one value for each column
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal
from operator import attrgetter, itemgetter
from types import MappingProxyType
from typing import Any

from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.types import MOST_DIGITS, ColumnType

Encode = Callable[[Any], bytes]
_INTEGER = struct.Struct(">Q")
_DOUBLE = struct.Struct(">d")
_SIGN = 1 << 63
_ALL = (1 << 64) - 1
_MICROSECOND = timedelta(microseconds=1)
_EPOCH, _EPOCH_UTC = datetime(1970, 1, 1), datetime(1970, 1, 1, tzinfo=UTC)  # noqa: DTZ001 - naive as TIMESTAMP is
# A key of these would be compared by its text, or bit by bit: not what `=` says in SQL.
NO_KEYS = frozenset({"JSON"})


def key_encoder(table: Table) -> Callable[[Sequence[Any]], bytes]:
    """From the values of the key (stored form, none of them None) to its bytes."""
    encoders = [encoder(_type(table, name)) for name in table.key]
    if len(encoders) == 1:
        (only,) = encoders
        return lambda values: only(values[0])
    return lambda values: b"".join(
        [encode(value) for encode, value in zip(encoders, values, strict=True)]
    )


def row_key(table: Table) -> Callable[[Sequence[Any]], bytes] | None:
    """From a row's values to the bytes of its key. None where the table has no PRIMARY KEY."""
    if not table.key:
        return None
    names = [column.name for column in table.columns]
    positions = [names.index(name) for name in table.key]
    if len(positions) == 1:
        (at,) = positions
        only = encoder(_type(table, table.key[0]))
        return lambda values: only(values[at])
    pick, encode = itemgetter(*positions), key_encoder(table)
    return lambda values: encode(pick(values))


def _type(table: Table, name: str) -> ColumnType:
    column = table.column(name)
    assert column is not None, name
    return column.type


def encoder(type_: ColumnType) -> Encode:
    """Of one column. Each form has a fixed length or an end, so that two keys never run together."""
    if type_.name == "DECIMAL":
        return _decimal(type_.scale)
    return _ENCODERS[type_.name]


def _boolean(value: bool) -> bytes:
    return b"\1" if value else b"\0"


def _integer(value: int) -> bytes:
    return _INTEGER.pack(value + _SIGN)


def _float(value: float) -> bytes:
    if value != value:  # noqa: PLR0124 - one NaN, as SQL has it, and the largest
        return b"\xff" * 8
    bits: int = _INTEGER.unpack(_DOUBLE.pack(value + 0.0))[0]  # -0.0 becomes 0.0
    return _INTEGER.pack(bits ^ _ALL if bits & _SIGN else bits | _SIGN)


def _decimal(scale: int) -> Encode:
    exact = Context(prec=MOST_DIGITS)

    def encode(value: Decimal) -> bytes:
        return (int(exact.scaleb(value, scale)) + (1 << 127)).to_bytes(16)

    return encode


def _text(value: str) -> bytes:
    return _bytes(value.encode())


def _bytes(value: bytes) -> bytes:
    return (value.replace(b"\0", b"\0\xff") if b"\0" in value else value) + b"\0\0"


def _time(value: time) -> bytes:
    seconds = value.hour * 3600 + value.minute * 60 + value.second
    return _integer(seconds * 1_000_000 + value.microsecond)


def _timestamp(value: datetime) -> bytes:
    return _integer((value - (_EPOCH if value.tzinfo is None else _EPOCH_UTC)) // _MICROSECOND)


def _date(value: date) -> bytes:
    return value.toordinal().to_bytes(4)


_ENCODERS: Mapping[str, Encode] = MappingProxyType(
    {
        "BOOLEAN": _boolean,
        "SMALLINT": _integer,
        "INT": _integer,
        "BIGINT": _integer,
        "REAL": _float,
        "DOUBLE": _float,
        "TEXT": _text,
        "DATE": _date,
        "TIME": _time,
        "TIMESTAMP": _timestamp,
        "TIMESTAMPTZ": _timestamp,
        "BYTES": _bytes,
        "UUID": attrgetter("bytes"),
    }
)
