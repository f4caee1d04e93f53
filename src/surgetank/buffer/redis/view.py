"""Lookups by key in the Redis buffer: a partition is read once, in one round trip, and a reader that knows
it already is sent what is new.

A snapshot shows each partition as it was when it was first asked for it.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from zlib import crc32

from surgetank.bounded import BoundedMap
from surgetank.buffer.copies import Glance
from surgetank.buffer.log import Found
from surgetank.buffer.redis.meta import Meta, meta_of
from surgetank.buffer.redis.shards import Shards, name_of, scripts
from surgetank.buffer.redis.values import Values
from surgetank.buffer.tallies import Tally
from surgetank.exceptions import BufferCorrupt, BufferProblem

_APPEND, _ACKS, _BACKLOG = scripts("append.lua"), scripts("acks.lua"), scripts("backlog.lua")
_USE_EVERY_S = 600.0  # that a copy is of use is noted again after so long
_KNOWN_BYTES = 64 * 1024**2


class PartitionView:
    """A partition in one moment. `number` grows with each change of it."""

    def __init__(self, shards: Shards, name: bytes, head: Sequence[Any]) -> None:
        self._shards, self._name = shards, name
        number, token, mark, used_at, guarded, has_copy = head
        self.number: bytes = number
        self.token = int(token or 0)
        self.is_guarded = guarded == b"1"
        self.mark: bytes | None = mark if has_copy else None
        self.used_at = float(used_at or 0)
        self.waiting: list[Meta] = []
        self.parked: list[Meta] = []
        self.notes: dict[bytes, tuple[float | None, bytes]] = {}
        self.values = Values(shards.address.name, name, {}, shards.load, self._note_damage)
        self._index: list[tuple[bytes, int, int]] | None = None
        self._metas: dict[int, Meta] = {}
        self._parked_seqs: set[int] = set()

    def fill(self, body: Sequence[Any], before: PartitionView | None) -> None:
        """Put in what was read, beside what was known before."""
        waiting, parked, there, entries, notes = body
        self.waiting = [meta_of(member) for member in waiting]
        self.parked = [meta_of(member) for member in parked]
        known = dict(before.values.entries) if before is not None else {}
        kept = {int(seq) for seq in there}
        found = {seq: entry for seq, entry in known.items() if seq in kept}
        found |= {int(seq): entry for seq, entry in zip(entries[::2], entries[1::2], strict=True)}
        self.values.entries = found
        for key, stored in zip(notes[::2], notes[1::2], strict=True):
            ends, _, value = stored.partition(b"|")
            self.notes[key] = (float(ends) if ends else None, value)
        self._metas = {meta.seq: meta for meta in (*self.waiting, *self.parked)}
        self._parked_seqs = {meta.seq for meta in self.parked}

    def _note_damage(self, seq: int, what: str) -> None:
        """What a reader found is told, as well as raised. Of a parked entry it was told."""
        stream, _, partition = self._name.decode().partition("\0")
        if not self.is_parked(seq):
            with suppress(BufferProblem):  # the next one who reads it finds it, too
                self._shards.note_damage(stream, partition, what)

    @property
    def newest(self) -> int:
        """The newest entry that is known."""
        return max(self.values.entries, default=0)

    @property
    def weight(self) -> int:
        """Bytes of the entries."""
        return sum(len(entry) for entry in self.values.entries.values())

    def found(
        self, seq: int, position: int, key: bytes, *, bare: bool = False, left_out: bool = False
    ) -> Found:
        """One record."""
        value = b"" if bare else self.values.value(seq, position, left_out=left_out)
        return Found(key, seq, value, seq in self._parked_seqs, self._metas[seq].epoch)

    def is_parked(self, seq: int) -> bool:
        """Whether the entry was set aside."""
        return seq in self._parked_seqs

    def index(self) -> list[tuple[bytes, int, int]]:
        """Key, entry and position of all records, in order. Those of parked entries that are damaged
        are left out."""
        if self._index is None:
            rows: list[tuple[bytes, int, int]] = []
            for meta in self._metas.values():
                try:
                    stored = self.values.stored(meta.seq)
                except BufferCorrupt:
                    if not self.is_parked(meta.seq):
                        raise
                else:
                    rows += [(r.key, meta.seq, position) for position, r in enumerate(stored)]
            rows.sort()
            self._index = rows
        return self._index

    def with_prefix(self, prefix: bytes) -> Iterator[tuple[bytes, int, int]]:
        """The records whose key begins so, in order."""
        rows = self.index()
        for at in range(bisect_left(rows, (prefix,)), len(rows)):
            if not rows[at][0].startswith(prefix):
                return
            yield rows[at]


class Views:
    """Partitions as they were when this process last read them."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._lock = threading.Lock()
        self._known = BoundedMap[bytes, PartitionView](
            most_weight=_KNOWN_BYTES, weigh=lambda view: view.weight + 1000
        )

    def read(self, stream: str, partition: str) -> PartitionView:
        """The partition as it is now."""
        name = name_of(stream, partition)
        with self._lock:
            before = self._known.use(name)
        number, newest = (before.number, before.newest) if before is not None else (b"", 0)
        head, *body = self._shards.read(_APPEND["view"], partition, number, newest, name)
        view = PartitionView(self._shards, name, head)
        if not body and before is not None:
            if view.mark == before.mark and view.token == before.token:
                before.used_at = view.used_at
                return before
            number = b""  # cannot be: each of them changes the number
        if body:
            view.fill(body, before)
        with self._lock:
            self._known[name] = view
        return view


class RedisSnapshot:
    """A `Snapshot`. `given` is a partition that was read already, for a guard: spilled values are left
    out, because no append may wait for a fallback location."""

    def __init__(self, shards: Shards, views: Views, *, given: PartitionView | None = None) -> None:
        self._shards = shards
        self._views = views
        self._given = given
        self._left_out = given is not None
        self._read: dict[tuple[str, str], PartitionView] = {}
        self._now = shards.clock()

    def _view(self, stream: str, partition: str) -> PartitionView:
        view = self._read.get((stream, partition))
        if view is None:
            view = self._given or self._views.read(stream, partition)
            self._given = None
            self._read[stream, partition] = view
        return view

    def latest(self, stream: str, partition: str, keys: Sequence[bytes]) -> dict[bytes, Found]:
        view = self._view(stream, partition)
        if not keys:
            return {}
        found: dict[bytes, Found] = {}
        rows = view.index()
        for key in keys:
            at = bisect_left(rows, (key + b"\0",)) - 1
            if at >= 0 and rows[at][0] == key:
                _, seq, position = rows[at]
                found[key] = view.found(seq, position, key, left_out=self._left_out)
        return found

    def scan(
        self,
        stream: str,
        partition: str,
        prefix: bytes,
        *,
        keys_only: bool = False,
        after_seq: int = 0,
    ) -> list[Found]:
        view = self._view(stream, partition)
        found: list[Found] = []
        for key, seq, position in view.with_prefix(prefix):
            if seq > after_seq:
                found += self._sound(view, key, seq, position, bare=keys_only)
        return found

    def last(
        self, stream: str, partition: str, prefix: bytes, *, after_seq: int = 0
    ) -> Found | None:
        view = self._view(stream, partition)
        for key, seq, position in reversed(list(view.with_prefix(prefix))):
            if seq > after_seq:
                for found in self._sound(view, key, seq, position):
                    return found
        return None

    def _sound(
        self, view: PartitionView, key: bytes, seq: int, position: int, *, bare: bool = False
    ) -> list[Found]:
        """The record; nothing where it was set aside because it is damaged."""
        try:
            return [view.found(seq, position, key, bare=bare, left_out=self._left_out)]
        except BufferCorrupt:
            if not view.is_parked(seq):
                raise
            return []

    def notes(self, stream: str, partition: str, prefix: bytes = b"") -> dict[bytes, bytes]:
        return {
            key: value
            for key, (ends, value) in self._view(stream, partition).notes.items()
            if key.startswith(prefix) and (ends is None or ends > self._now)
        }

    def copy(self, stream: str, partition: str) -> Glance:
        view = self._view(stream, partition)
        stale = view.mark is not None and not self._now - _USE_EVERY_S < view.used_at <= self._now
        return Glance(view.mark, view.token, stale)

    def copied(self, stream: str, partition: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        mark = self._view(stream, partition).mark
        if mark is None or not keys:
            return {}
        return read_parts(self._shards, stream, partition, mark, keys)

    def copied_keys(self, stream: str, partition: str, prefix: bytes) -> list[bytes]:
        mark = self._view(stream, partition).mark
        if mark is None:
            return []
        return part_keys(self._shards, stream, partition, mark, prefix)

    def tallies(self, stream: str) -> list[Tally]:
        found: list[Tally] = []
        for rows in self._shards.each(_BACKLOG["tallies"], stream):
            for field, (count, _, value) in zip(rows[::2], rows[1::2], strict=True):
                partition, _, key = field.partition(b"\0")
                found.append(Tally(partition.decode(), key, value, int(count)))
        return sorted(found, key=lambda tally: (tally.partition, tally.key))

    def partitions(self, stream: str) -> list[str]:
        found = {
            name.decode()
            for names in self._shards.each(_BACKLOG["partitions"], stream)
            for name in names
        }
        return sorted(found)


def read_parts(
    shards: Shards, stream: str, partition: str, mark: bytes, keys: Sequence[bytes]
) -> dict[bytes, bytes]:
    """Parts of the copy with that mark; what is missing or damaged is left out."""
    name = name_of(stream, partition)
    rows = shards.read(_ACKS["copied"], partition, name, mark, *keys)
    return {
        key: stored[4:]
        for key, stored in zip(rows[::2], rows[1::2], strict=True)
        if int.from_bytes(stored[:4], "big") == crc32(stored[4:])
    }


def part_keys(
    shards: Shards, stream: str, partition: str, mark: bytes, prefix: bytes
) -> list[bytes]:
    """Keys of the parts of the copy with that mark, in order."""
    keys = shards.read(_ACKS["copied"], partition, name_of(stream, partition), mark)
    return sorted(key for key in keys if key.startswith(prefix))
