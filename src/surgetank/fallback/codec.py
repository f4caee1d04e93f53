"""The form of a spill file: whole entries with checksums, so that it can be replayed without the
buffer it came from.

    MAGIC, header frame, entry frames, footer frame

A frame is its kind (one byte), length (8 bytes), CRC-32 of the payload (4), and the payload. Header
and footer are JSON; an entry is the length of its JSON part (4), that part, then keys and values
one after the other, each value compressed where that makes it smaller. The footer has the SHA-256
of everything before it. Numbers are little-endian. Pure, apart from reading the file it is given.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import orjson

from surgetank.encode.differences.patch import compress, decompress
from surgetank.exceptions import FallbackDamaged, StateCorrupt
from surgetank.model import Entry, Record

MAGIC = b"STKSPIL1"
SUFFIX = ".spill"
_FRAME = struct.Struct("<cQI")
_META = struct.Struct("<I")
_REF = struct.Struct("<QQIB")
_HEADER, _ENTRY, _FOOTER = b"H", b"E", b"F"
_MAX_JSON = 64 * 1024**2


class ValueRef(NamedTuple):
    """Where in a file a value is, the checksum of what is there, and how it is compressed
    (differences/patch.py)."""

    offset: int
    length: int
    crc: int
    codec: int

    def pack(self) -> bytes:
        """As the buffer keeps it in the value's stead."""
        return _REF.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> ValueRef:
        """The place that `pack` made."""
        return cls(*_REF.unpack(data))

    def value(self, stored: bytes) -> bytes | None:
        """The value out of what lies there; None when the checksum does not fit."""
        if len(stored) != self.length or zlib.crc32(stored) != self.crc:
            return None
        return decompress(self.codec, stored)


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What a file says of itself. `number` grows with each file of its buffer."""

    id: str
    buffer_id: str
    number: int
    stream: str
    node: str
    created_at: float

    @property
    def name(self) -> str:
        """The file's name within a location."""
        return f"{self.buffer_id}/{self.number:010}-{self.id}{SUFFIX}"


class SpilledEntry(NamedTuple):
    """An entry with the places of its values."""

    entry: Entry
    refs: tuple[ValueRef, ...]


class FileWriter:
    """Makes the bytes of a file, piece by piece; values are not copied."""

    def __init__(self, header: FileHeader) -> None:
        self._digest = hashlib.sha256()
        self.offset = 0
        self.entries = 0
        self.start = self._counted(MAGIC, *_frame(_HEADER, orjson.dumps(asdict(header))))

    def entry(self, entry: Entry) -> tuple[list[bytes], tuple[ValueRef, ...]]:
        """The pieces of one entry's frame, and where its values will lie."""
        packed = [(record.key, *compress(record.value)) for record in entry.records]
        meta = orjson.dumps(
            {
                "partition": entry.partition, "seq": entry.seq, "accepted_at": entry.accepted_at,
                "replayed": entry.replayed, "epoch": entry.epoch,
                "sizes": [(len(key), len(data), codec) for key, codec, data in packed],
            }
        )  # fmt: skip
        body = [
            _META.pack(len(meta)),
            meta,
            *(part for key, _, data in packed for part in (key, data)),
        ]
        offset = self.offset + _FRAME.size + _META.size + len(meta)
        refs = []
        for key, codec, data in packed:
            offset += len(key)
            refs.append(ValueRef(offset, len(data), zlib.crc32(data), codec))
            offset += len(data)
        self.entries += 1
        return self._counted(*_frame(_ENTRY, *body)), tuple(refs)

    def end(self) -> list[bytes]:
        """The footer."""
        body = {"entries": self.entries, "bytes": self.offset, "sha256": self._digest.hexdigest()}
        return self._counted(*_frame(_FOOTER, orjson.dumps(body)))

    def _counted(self, *parts: bytes) -> list[bytes]:
        for part in parts:
            self._digest.update(part)
            self.offset += len(part)
        return list(parts)


def _frame(kind: bytes, *body: bytes) -> list[bytes]:
    length = crc = 0
    for part in body:
        length += len(part)
        crc = zlib.crc32(part, crc)
    return [_FRAME.pack(kind, length, crc), *body]


class Readable(Protocol):
    """A file that is read from its beginning."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, fewer at the end."""
        ...


class FileReader:
    """Reads a file from its beginning: `header`, then its entries by iterating, one at a time in
    memory.

    Raises `FallbackDamaged` as soon as anything is not as it was written. Only who has iterated to
    the end knows that the file is complete.
    """

    def __init__(self, file: Readable, name: str, size: int) -> None:
        self._file = file
        self._name = name
        self._size = size
        self._offset = 0
        self._digest = hashlib.sha256()
        self.entries = 0
        if self._take(len(MAGIC)) != MAGIC:
            raise self._damaged("it does not begin like a spill file")
        kind, body = self._next_frame()
        if kind != _HEADER:
            raise self._damaged("its header is missing")
        try:
            self.header = FileHeader(**orjson.loads(body))
        except (TypeError, orjson.JSONDecodeError) as error:
            raise self._damaged("its header is of an unknown form") from error

    def __iter__(self) -> Iterator[SpilledEntry]:
        while True:
            start, digest = self._offset, self._digest.copy()
            kind, body = self._next_frame()
            if kind == _FOOTER:
                self._check_end(body, start, digest.hexdigest())
                return
            if kind != _ENTRY:
                raise self._damaged(f"an unknown frame {kind!r} at byte {start}")
            self.entries += 1
            yield self._entry(body, start + _FRAME.size)

    def _entry(self, body: bytes, start: int) -> SpilledEntry:
        try:
            (length,) = _META.unpack_from(body)
            meta: dict[str, Any] = orjson.loads(body[_META.size : _META.size + length])
            offset = _META.size + length
            records, refs = [], []
            for key_bytes, value_bytes, codec in meta["sizes"]:
                key = body[offset : offset + key_bytes]
                offset += key_bytes
                stored = body[offset : offset + value_bytes]
                records.append(Record(key, decompress(codec, stored)))
                refs.append(ValueRef(start + offset, value_bytes, zlib.crc32(stored), codec))
                offset += value_bytes
            stream, partition, seq = self.header.stream, meta["partition"], meta["seq"]
            epoch = meta.get("epoch", 0)  # the first release wrote none
            entry = Entry(
                stream=stream,
                partition=partition,
                seq=seq,
                records=tuple(records),
                accepted_at=meta["accepted_at"],
                replayed=meta["replayed"],
                epoch=epoch,
            )
        except (
            struct.error,
            orjson.JSONDecodeError,
            KeyError,
            TypeError,
            ValueError,
            StateCorrupt,
        ) as error:
            raise self._damaged(f"the entry at byte {start} is of an unknown form") from error
        if offset != len(body):
            raise self._damaged(f"the entry at byte {start} has another length than it says")
        return SpilledEntry(entry, tuple(refs))

    def _check_end(self, body: bytes, start: int, digest: str) -> None:
        try:
            footer = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise self._damaged("its footer is of an unknown form") from error
        if footer != {"entries": self.entries, "bytes": start, "sha256": digest}:
            raise self._damaged("its checksum does not fit")
        if self._offset != self._size:
            raise self._damaged(f"{self._size - self._offset} bytes follow its end")

    def _next_frame(self) -> tuple[bytes, bytes]:
        start = self._offset
        kind, length, crc = _FRAME.unpack(self._take(_FRAME.size))
        if kind != _ENTRY and length > _MAX_JSON:
            raise self._damaged(f"the frame at byte {start} is too long")
        body = self._take(length)
        if zlib.crc32(body) != crc:
            raise self._damaged(f"the checksum of the frame at byte {start} does not fit")
        return kind, body

    def _take(self, length: int) -> bytes:
        if length > self._size - self._offset:  # before reading: a damaged length may be anything
            raise self._damaged(f"it ends early, at byte {self._size}")
        data = self._file.read(length)
        if len(data) != length:
            raise self._damaged(f"it ends early, at byte {self._offset + len(data)}")
        self._offset += length
        self._digest.update(data)
        return data

    def _damaged(self, reason: str) -> FallbackDamaged:
        return FallbackDamaged(
            f"The spill file {self._name} is damaged: {reason}. It was left as it is.",
            remedy="put an undamaged copy in its place (from a backup or a former version of the "
            "object), "
            "then run `surgetank recover`.",
        )
