"""The digest by which an entry is known again: two entries with one number are told apart by it.
Pure.

It is about identity, not integrity: of large values only the length and both ends count, so that it
costs microseconds. The moment of acceptance counts too, so that the same line written twice is two
entries.
"""

from __future__ import annotations

import struct
from hashlib import blake2b

from surgetank.model import Entry, Mark

_ENDS = 32 * 1024
_RECORD = struct.Struct("<QQ")
_MOMENT = struct.Struct("<d")


def digest(entry: Entry) -> int:
    """A number of 63 bits that is never 0."""
    made = blake2b(_MOMENT.pack(entry.accepted_at), digest_size=8)
    for key, value, _ in entry.records:
        made.update(_RECORD.pack(len(key), len(value)))
        made.update(key)
        if len(value) <= 2 * _ENDS:
            made.update(value)
        else:
            view = memoryview(value)
            made.update(view[:_ENDS])
            made.update(view[-_ENDS:])
    return (int.from_bytes(made.digest(), "little") & (2**63 - 1)) or 1


def mark_of(entry: Entry) -> Mark:
    """How a sink and the buffer remember that they have this entry."""
    return Mark(entry.epoch, entry.seq, digest(entry))
