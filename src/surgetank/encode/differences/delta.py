"""A value as its difference from a similar one: which parts are copied from it, and the bytes in
between. Pure.

Made for the caller's path: a few `memcmp`, no search, no compression. It finds what a growing list,
text or dict leaves at the same place and what stays the same at the end; for anything else the
caller keeps the value whole. What flushes later is compressed by `patch`, which finds more and
takes longer.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from surgetank.encode.differences.common import same_beginning, same_end

_COUNT = struct.Struct("<B")
_OP = struct.Struct("<III")  # bytes of its own, then from where and how many bytes are copied
_HOLE = 8  # bytes that may differ between two parts that are the same: the length of a container
_SHIFT = 8  # how many bytes such a length may grow or shrink by
_PROBE = 32  # bytes by which the next part that is the same is recognized
_MOST_OPS = 8

Op = tuple[bytes, int, int]


def diff(old: bytes, new: bytes) -> bytes | None:
    """`new` as a difference from `old`, or None when that would not save at least half.

    >>> apply(b"a" * 100, [diff(b"a" * 100, b"a" * 120)]) == b"a" * 120
    True
    """
    ops: list[Op] = []
    i = at = j = 0
    while True:
        count = same_beginning(new, at, old, j)
        ops.append((new[i:at], j, count))
        i, j = at + count, j + count + _HOLE
        probe = old[j : j + _PROBE]
        at = new.find(probe, i, i + _HOLE + _SHIFT + _PROBE) if len(probe) == _PROBE else -1
        if at < 0 or len(ops) == _MOST_OPS:
            break
    j -= _HOLE
    count = same_end(new, i, old, j)
    ops.append((new[i : len(new) - count], len(old) - count, count))
    if 2 * sum(len(own) + _OP.size for own, _, _ in ops) > len(new):
        return None
    table = b"".join(_OP.pack(len(own), at, count) for own, at, count in ops)
    return _COUNT.pack(len(ops)) + table + b"".join(own for own, _, _ in ops)


def apply(full: bytes, differences: Sequence[bytes]) -> bytes:
    """The newest value of a chain: `full` with the differences applied in order. Copies each byte
    once."""
    levels = [_read(d) for d in differences]
    if not levels:
        return full
    size = sum(len(own) + count for own, _, count in levels[-1])
    parts: list[memoryview] = []
    _gather(memoryview(full), levels, len(levels) - 1, 0, size, parts)
    return b"".join(parts)


Level = list[tuple[memoryview, int, int]]


def _read(difference: bytes) -> Level:
    view = memoryview(difference)
    (count,) = _COUNT.unpack_from(difference)
    level: Level = []
    at = _COUNT.size + count * _OP.size
    for own, source, copied in _OP.iter_unpack(view[_COUNT.size : at]):
        level.append((view[at : at + own], source, copied))
        at += own
    return level


def _gather(
    full: memoryview,
    levels: Sequence[Level],
    level: int,
    start: int,
    stop: int,
    parts: list[memoryview],
) -> None:
    """Add the bytes from `start` to `stop` of the value at a level; below the first level lies
    `full`."""
    if level < 0:
        parts.append(full[start:stop])
        return
    at = 0
    for own, source, copied in levels[level]:
        if at >= stop:
            return
        end = at + len(own)
        if start < end and own:
            parts.append(own[max(start - at, 0) : stop - at])
        at, end = end, end + copied
        low, high = max(start, at), min(stop, end)
        if low < high:
            _gather(full, levels, level - 1, source + low - at, source + high - at, parts)
        at = end
