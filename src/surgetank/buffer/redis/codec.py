"""An entry as it is stored in Redis: its records, the epoch of nobody, and a checksum. Pure.

A record's value is whole, or the difference from an earlier record of its partition, which is named by
the entry's number and its position. Entries never change: what may (whether one waits, is parked, was
replayed) stands beside them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

_HEAD = struct.Struct("<BI")  # format, records
_RECORD = struct.Struct(
    "<IIQI"
)  # bytes of key and value, the entry it builds on (0: none), position there
_SUM = struct.Struct("<I")
_FORMAT = 1


class Base(NamedTuple):
    """The record that a difference is from: the number of its entry, and its position in that. Entry
    0: the value is in the spill file of the number `position`."""

    seq: int
    position: int


class Stored(NamedTuple):
    """A record as it is stored: its value, or the difference from another one."""

    key: bytes
    value: bytes
    base: Base | None = None


def encode(partition: bytes, records: Sequence[Stored]) -> bytes:
    """The bytes of an entry. `partition` is part of the checksum."""
    parts = [_HEAD.pack(_FORMAT, len(records))]
    for key, value, base in records:
        seq, position = base or (0, 0)
        parts += (_RECORD.pack(len(key), len(value), seq, position), key, value)
    body = b"".join(parts)
    return body + _SUM.pack(crc32(body, crc32(partition)))


def decode(partition: bytes, stored: bytes) -> list[Stored]:
    """The records of an entry. Raises `ValueError` for what is not as it was encoded."""
    if len(stored) < _HEAD.size + _SUM.size:
        raise ValueError("it is cut off")
    body = memoryview(stored)[: -_SUM.size]
    if crc32(body, crc32(partition)) != _SUM.unpack_from(stored, len(body))[0]:
        raise ValueError("its checksum differs")
    format_, count = _HEAD.unpack_from(stored)
    if format_ != _FORMAT:
        raise ValueError(f"its format {format_} is of another version")
    records, at = list[Stored](), _HEAD.size
    for _ in range(count):
        keys, values, seq, position = _RECORD.unpack_from(stored, at)
        at += _RECORD.size
        key, value = stored[at : at + keys], stored[at + keys : at + keys + values]
        at += keys + values
        records.append(Stored(key, value, Base(seq, position) if seq or position else None))
    return records
