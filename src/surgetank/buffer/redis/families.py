"""The newest record of each family that this process wrote: what the next one is compared with, so that
what is sent grows with what changed.

A difference is accepted only if the entry that it builds on is still there (`append.lua`); else the value
is sent whole. A chain is short, and its differences together are smaller than one whole value.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from surgetank.bounded import BoundedMap
from surgetank.buffer.redis.codec import Base, Stored
from surgetank.encode.differences import delta
from surgetank.model import Record

MIN_BYTES = 1024  # smaller values are kept whole
_MAX_DEPTH = 32  # differences that a reader has to apply, at most
_REMEMBERED_BYTES = 64 * 1024**2


class _Link(NamedTuple):
    base: Base
    value: bytes
    depth: int
    chain_bytes: int  # of the differences since the whole value
    root: int  # the entry that has the whole value


@dataclass(slots=True)
class Shortened:
    """An entry's records as they are sent, and what they build on."""

    records: list[Stored]
    size: int  # bytes of keys and values as they are stored
    bases: set[int] = field(default_factory=set)
    root: int | None = None
    # family, position, depth, bytes of the chain, root (0: this entry)
    links: list[tuple[bytes, int, int, int, int]] = field(default_factory=list)


class Families:
    """Safe to use from several threads."""

    def __init__(self, limit: int = _REMEMBERED_BYTES) -> None:
        self._lock = threading.Lock()
        self._links = BoundedMap[tuple[bytes, bytes], _Link](
            most_weight=limit, weigh=lambda link: len(link.value)
        )

    def shorten(self, name: bytes, records: Sequence[Record], *, full: bool = False) -> Shortened:
        """The records of an entry of the partition, some as differences unless `full`."""
        made = Shortened([], 0)
        for position, (key, value, family) in enumerate(records):
            stored = Stored(bytes(key), bytes(value))
            if family and len(value) >= MIN_BYTES:
                with self._lock:
                    link = None if full else self._links.use((name, family))
                short = _difference(link, value) if link is not None else None
                if link is not None and short is not None:
                    stored = Stored(key, short, link.base)
                    made.bases.add(link.base.seq)
                    made.root = min(made.root or link.root, link.root)
                    depth, chain_bytes = link.depth + 1, link.chain_bytes + len(short)
                    made.links.append((family, position, depth, chain_bytes, link.root))
                else:
                    made.links.append((family, position, 0, 0, 0))
            made.records.append(stored)
            made.size += len(key) + len(stored.value)
        return made

    def accepted(
        self, name: bytes, seq: int, records: Sequence[Record], shortened: Shortened
    ) -> None:
        """The entry has this number."""
        with self._lock:
            for family, position, depth, chain_bytes, root in shortened.links:
                value = records[position].value
                self._links[name, family] = _Link(
                    Base(seq, position), value, depth, chain_bytes, root or seq
                )


def _difference(link: _Link, value: bytes) -> bytes | None:
    if link.depth >= _MAX_DEPTH or link.chain_bytes > len(value):
        return None
    difference = delta.diff(link.value, value)
    if difference is None or link.chain_bytes + len(difference) > len(value):
        return None
    return difference
