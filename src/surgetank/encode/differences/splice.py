"""A value as a cut-out of an older one with new bytes put in: what appending to a list or editing
one item gives.

    value = head + older[start : start + count] + middle + the last `suffix` bytes of older

Finding the common run costs a few comparisons of memory, where zstd with a dictionary has to index
the whole older value. The middle is compressed with the bytes before it as dictionary.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from surgetank.encode.differences.common import same_beginning, same_end

_FRAME = struct.Struct("!IIIBI")
_CHECK = struct.Struct("!I")
_ANCHOR_AT, _ANCHOR_BYTES = (
    48,
    32,
)  # what identifies the run; before it lengths and counters may differ
_HEAD_BYTES = 255
_DICTIONARY_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True)
class Splice:
    """How a value is put together out of an older one. `middle_bytes` is the length of what is put
    in."""

    head: bytes
    start: int
    count: int
    suffix: int
    middle_bytes: int

    @property
    def new(self) -> int:
        """Bytes that are not in the older value."""
        return len(self.head) + self.middle_bytes

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return len(self.head) + self.count + self.middle_bytes + self.suffix

    def middle(self, value: bytes) -> bytes:
        """What is put in."""
        end = len(value) - self.suffix
        return value[end - self.middle_bytes : end]

    def dictionary(self, older: bytes) -> bytes:
        """The bytes of the older value before the middle: what the middle is compressed with."""
        end = self.start + self.count
        return older[max(self.start, end - _DICTIONARY_BYTES) : end]

    def pack(self, middle: bytes) -> bytes:
        """The splice with its middle as it was compressed."""
        frame = _FRAME.pack(self.start, self.count, self.suffix, len(self.head), self.middle_bytes)
        body = b"".join((frame, self.head, middle))
        return _CHECK.pack(zlib.crc32(body)) + body

    def join(self, older: bytes, middle: bytes) -> bytes:
        """The value. Raises `ValueError` when the older one is not what it was cut out of."""
        if self.start + self.count + self.suffix > len(older) or len(middle) != self.middle_bytes:
            raise ValueError("the older version is too short")
        view = memoryview(older)
        run, end = view[self.start : self.start + self.count], view[len(older) - self.suffix :]
        return b"".join((self.head, run, middle, end))


def unpack(data: bytes) -> tuple[Splice, bytes]:
    """The splice and its middle as it was compressed. Raises `ValueError` for damaged bytes."""
    if (
        len(data) < _CHECK.size + _FRAME.size
        or zlib.crc32(data[_CHECK.size :]) != _CHECK.unpack_from(data)[0]
    ):
        raise ValueError("the checksum is wrong")
    start, count, suffix, head, middle_bytes = _FRAME.unpack_from(data, _CHECK.size)
    at = _CHECK.size + _FRAME.size
    return Splice(data[at : at + head], start, count, suffix, middle_bytes), data[at + head :]


def find(older: bytes, value: bytes) -> Splice | None:
    """How the value can be cut out of the older one; None when they don't begin alike."""
    anchor = older[_ANCHOR_AT : _ANCHOR_AT + _ANCHOR_BYTES]
    if len(anchor) < _ANCHOR_BYTES:
        return None
    at = value.find(anchor, 0, _ANCHOR_AT + _ANCHOR_BYTES + _HEAD_BYTES // 2)
    if at < 0:
        return None
    start, begin = _ANCHOR_AT, at
    while start and begin and older[start - 1] == value[begin - 1]:
        start, begin = start - 1, begin - 1
    count = same_beginning(value, begin, older, start)
    end = begin + count
    suffix = same_end(value, end, older, start + count)
    return Splice(value[:begin], start, count, suffix, len(value) - suffix - end)
