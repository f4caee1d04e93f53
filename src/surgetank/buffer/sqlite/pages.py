"""Rows out of the pages of a SQLite file, without its trees: for files that SQLite itself can't
read any more. Pure.

Only leaf pages that are not on the free list are looked at
(https://www.sqlite.org/fileformat2.html). What is found there may be damaged: whoever uses it has
to check it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

_LEAF = 13
_INDEX_LEAF = 10
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}

Row = tuple[
    int, list[Any]
]  # rowid and columns; the column that is the rowid is None. Rows of an index: 0


def rows(data: bytes) -> Iterator[Row]:
    """Every row of every table and index that can be made out, page by page."""
    size = struct.unpack_from(">H", data, 16)[0] or 4096
    size = 65536 if size == 1 else size
    if size & (size - 1) or size < 512:
        size = 4096
    pages = _Pages(data, size, size - data[20] if data[20] < 64 else size)
    free = pages.free()
    for number in range(1, pages.count + 1):
        if number not in free:
            yield from pages.leaf(number)


class _Pages:
    def __init__(self, data: bytes, size: int, usable: int) -> None:
        self._data = data
        self._size = size
        self._usable = usable
        self.count = len(data) // size

    def _page(self, number: int) -> bytes:
        if not 1 <= number <= self.count:
            raise ValueError("a page that is not there")
        return self._data[(number - 1) * self._size : number * self._size]

    def free(self) -> set[int]:
        """The pages on the free list, as far as it can be followed."""
        found: set[int] = set()
        trunk = struct.unpack_from(">I", self._data, 32)[0]
        while 1 <= trunk <= self.count and trunk not in found:
            found.add(trunk)
            following, leaves = struct.unpack_from(">II", self._page(trunk))
            if leaves > self._usable // 4 - 2:
                break
            found.update(struct.unpack_from(f">{leaves}I", self._page(trunk), 8))
            trunk = following
        return found

    def leaf(self, number: int) -> Iterator[Row]:
        page = self._page(number)
        start = 100 if number == 1 else 0
        if page[start] not in (_LEAF, _INDEX_LEAF):
            return
        (cells,) = struct.unpack_from(">H", page, start + 3)
        for i in range(min(cells, self._usable // 6)):
            try:
                (at,) = struct.unpack_from(">H", page, start + 8 + 2 * i)
                yield self._cell(page, at, of_table=page[start] == _LEAF)
            except (ValueError, IndexError, struct.error, UnicodeDecodeError, OverflowError):
                continue  # damaged: the others of the page may be whole

    def _cell(self, page: bytes, at: int, *, of_table: bool) -> Row:
        length, at = _varint(page, at)
        rowid, at = _varint(page, at) if of_table else (0, at)
        if length > len(self._data):
            raise ValueError("longer than the file")
        most = self._usable - 35 if of_table else (self._usable - 12) * 64 // 255 - 23
        least = (self._usable - 12) * 32 // 255 - 23
        kept = least + (length - least) % (self._usable - 4)
        local = length if length <= most else kept if kept <= most else least
        parts = [page[at : at + local]]
        missing = length - local
        following = struct.unpack_from(">I", page, at + local)[0] if missing else 0
        while missing > 0:
            overflow = self._page(following)
            parts.append(overflow[4 : 4 + min(missing, self._usable - 4)])
            missing -= len(parts[-1])
            following = struct.unpack_from(">I", overflow)[0]
        return rowid, list(_columns(b"".join(parts)))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(8):
        value = value << 7 | data[at + i] & 0x7F
        if data[at + i] < 0x80:
            return value, at + i + 1
    value = value << 8 | data[at + 8]
    return value - (1 << 64) if value >> 63 else value, at + 9


def _columns(payload: bytes) -> Iterator[Any]:
    body, at = _varint(payload, 0)
    types = []
    while at < body:
        kind, at = _varint(payload, at)
        types.append(kind)
    for kind in types:
        if kind in _INTEGERS:
            size = _INTEGERS[kind]
            value: Any = int.from_bytes(payload[body : body + size], "big", signed=True)
        elif kind == 7:
            size = 8
            (value,) = struct.unpack_from(">d", payload, body)
        elif kind >= 12:
            size = (kind - 12) // 2
            raw = payload[body : body + size]
            if len(raw) != size:
                raise ValueError("cut off")
            value = raw.decode() if kind % 2 else raw
        else:
            size, value = 0, {0: None, 8: 0, 9: 1}[kind] if kind in (0, 8, 9) else None
        yield value
        body += size
