"""Entries as they came from Redis, and the values in them, put together from differences when they are
asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from surgetank.buffer.redis.codec import Stored, decode
from surgetank.buffer.redis.families import MIN_BYTES
from surgetank.encode.differences import delta
from surgetank.exceptions import BufferCorrupt
from surgetank.model import Record

Load = Callable[[int, bytes], bytes]
Note = Callable[[int, str], None]

REMEDY = "the rest goes on by itself. Look at the memory and the files of the Redis server."


class Values:
    """The entries of one partition, by their numbers. `where` is the buffer, for people; `load` reads
    a value out of the spill file of a number; `note` is given the number and what was found damaged."""

    def __init__(
        self,
        where: str,
        name: bytes,
        entries: Mapping[int, bytes],
        load: Load,
        note: Note = lambda *_: None,
    ) -> None:
        self._where = where
        self._name = name
        self._load = load
        self._note = note
        self._noted = set[int]()
        self.entries = entries
        self._decoded: dict[int, list[Stored]] = {}
        self._made: dict[tuple[int, int], bytes] = {}

    def stored(self, seq: int) -> list[Stored]:
        """The records of an entry as they are stored. Raises `BufferCorrupt`."""
        known = self._decoded.get(seq)
        if known is None:
            entry = self.entries.get(seq)
            if entry is None:
                raise self.damaged(seq, "it is not there")
            try:
                known = decode(self._name, entry)
            except (ValueError, IndexError) as error:
                raise self.damaged(seq, str(error)) from error
            self._decoded[seq] = known
        return known

    def records(self, seq: int) -> tuple[Record, ...]:
        """The records of an entry, whole."""
        return tuple(
            Record(record.key, self.value(seq, position))
            for position, record in enumerate(self.stored(seq))
        )

    def value(self, seq: int, position: int, *, left_out: bool = False) -> bytes:
        """The value of one record, whole; nothing for one in a spill file if those are `left_out`.
        Raises `BufferCorrupt`, `FallbackUnavailable`."""
        differences = list[bytes]()
        at = (seq, position)
        while True:
            made = self._made.get(at)
            if made is not None:
                value = made
                break
            records = self.stored(at[0])
            if at[1] >= len(records):
                raise self.damaged(seq, f"it builds on a record that entry {at[0]} has not")
            record = records[at[1]]
            if record.base is None:
                value = record.value
                break
            if record.base.seq == 0:
                value = b"" if left_out else self._load(record.base.position, record.value)
                break
            if record.base.seq >= at[0]:
                raise self.damaged(seq, "it builds on a later entry")
            differences.append(record.value)
            at = record.base
        if differences:
            value = delta.apply(value, differences[::-1])
        if differences and len(value) >= MIN_BYTES:
            self._made[seq, position] = value
        return value

    def damaged(self, seq: int, why: str) -> BufferCorrupt:
        """The error for an entry of this partition."""
        stream, _, partition = self._name.decode().partition("\0")
        what = f"Entry {seq} of {stream}/{partition} in the buffer {self._where} is damaged: {why}."
        if seq not in self._noted:
            self._noted.add(seq)
            self._note(seq, what)
        return BufferCorrupt(what, remedy=REMEDY, partition=partition, seq=seq)
