"""Acknowledging entries of the Redis buffer, and the copies of what was acknowledged.

What a copy becomes is decided here, by its keeper, and put into effect by the script only if the copy is
still the one that the keeper saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32

from surgetank.buffer.coordination import NOTE_TTL_S, Ack
from surgetank.buffer.copies import CopiesHeld, Glance, RecentLimits
from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.redis.shards import Shards, name_of, scripts
from surgetank.buffer.redis.view import Views, part_keys, read_parts
from surgetank.encode.digest import mark_of
from surgetank.model import CopyChange, Lease
from surgetank.redis.server import Arg

_SCRIPTS = scripts("acks.lua")
_SHARE = 4  # a copy takes at most this part of the limit
_TRIMMED = 0.9
_AT_ONCE = 200  # acknowledgements, or copies that are dropped, in one script


class _Copy:
    """An `OldCopy`: parts are read when they are asked for."""

    def __init__(self, shards: Shards, lease: Lease, mark: bytes | None) -> None:
        self._shards = shards
        self._lease = lease
        self.mark = mark

    def get(self, key: bytes) -> bytes | None:
        if self.mark is None:
            return None
        lease = self._lease
        return read_parts(self._shards, lease.stream, lease.partition, self.mark, [key]).get(key)

    def keys(self, prefix: bytes) -> list[bytes]:
        if self.mark is None:
            return []
        lease = self._lease
        return part_keys(self._shards, lease.stream, lease.partition, self.mark, prefix)


class RedisCopies:
    """The role `CopyStore`."""

    def __init__(
        self, shards: Shards, views: Views, recent: RecentLimits, limits: BufferLimits
    ) -> None:
        self.recent = recent
        self._shards = shards
        self._views = views
        self._limits = limits

    def too_large(self, change: CopyChange) -> bool:
        """Whether a copy would take too much of the space for all."""
        return change.grown > self.recent.max_bytes // _SHARE

    def decide(self, ack: Ack) -> list[Arg]:
        """What an acknowledgement makes of the copy, as the script takes it."""
        if not ack.entries:
            return _no_change("same")
        if ack.keep is None or not self.recent.max_bytes:
            return _no_change("none")
        lease = ack.lease
        mark = self._views.read(lease.stream, lease.partition).mark
        change = ack.keep(_Copy(self._shards, lease, mark))
        if change is None or self.too_large(change):
            return _no_change("none")
        return ["change", mark or b"", *changed(change)]

    def keep_copy(
        self,
        stream: str,
        partition: str,
        seen: Glance,
        change: CopyChange,
        *,
        notes: Mapping[bytes, bytes],
    ) -> bool:
        if self.too_large(change) or not self.recent.max_bytes:
            return False
        kept = self._shards.write(
            _SCRIPTS["keep_copy"], partition, self._shards.clock(), name_of(stream, partition),
            seen.version, _marked(seen.mark), *changed(change), *listed(_flat(notes)),
        )  # fmt: skip
        if kept:
            self.make_room()
        return bool(kept)

    def use_copy(self, stream: str, partition: str) -> None:
        now = self._shards.clock()
        self._shards.write(_SCRIPTS["use_copy"], partition, now, name_of(stream, partition))

    def drop_copies(self, stream: str, stale: Mapping[str, bytes | None]) -> int:
        return self._drop(
            {
                shard: [(name_of(stream, name), _wanted(stale[name])) for name in names]
                for shard, names in self._shards.by_shard(stale).items()
            }
        )

    def _drop(self, chosen: Mapping[int, Sequence[tuple[bytes, bytes]]]) -> int:
        gone = 0
        most = max((len(some) for some in chosen.values()), default=0)
        for at in range(0, most, _AT_ONCE):
            args: dict[int, Sequence[Arg]] = {
                shard: [part for pair in some[at : at + _AT_ONCE] for part in pair]
                for shard, some in chosen.items()
                if some[at : at + _AT_ONCE]
            }
            gone += sum(self._shards.some(_SCRIPTS["drop_copies"], args, once=True).values())
        return gone

    def copies(self, stream: str, *, after: str = "", limit: int = 1000) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        for rows in self._shards.each(_SCRIPTS["copies"]):
            for name, _, _, mark in rows:
                of_stream, _, partition = name.partition(b"\0")
                if of_stream == stream.encode() and partition.decode() > after:
                    found.append((partition.decode(), mark))
        return sorted(found)[:limit]

    def copies_held(self) -> CopiesHeld:
        replies = self._shards.each(_SCRIPTS["copies_held"])
        return CopiesHeld(sum(count for count, _ in replies), sum(size for _, size in replies))

    def make_room(self) -> None:
        """Remove the copies that were of use longest ago while they take more than they may."""
        held, limit = self.copies_held().bytes, self._limit()
        if held > limit:
            self._remove_oldest(held - int(limit * _TRIMMED))

    def trim_copies(self) -> None:
        self._shards.server.require_open()
        if not self.copies_held().copies:
            return
        now, age = self._shards.clock(), self.recent.max_age_s
        self._shards.view(fresh=True)
        # Also what was used in the future: the clock was set back since.
        self._remove_oldest(0, lambda used_at: not now - age <= used_at <= now + age)
        self.make_room()

    def shed_copies(self) -> bool:
        if not self.copies_held().copies:
            return False
        self._remove_oldest(1 << 62)
        return True

    def _limit(self) -> int:
        _, waiting = self._shards.held()
        return max(0, min(self.recent.max_bytes, self._limits.max_bytes - waiting))

    def _remove_oldest(self, over: int, also: Callable[[float], bool] = lambda _: False) -> None:
        rows: list[tuple[float, int, bytes, int]] = []
        for shard, found in enumerate(self._shards.each(_SCRIPTS["copies"])):
            rows += [(float(used), shard, name, int(size or 0)) for name, used, size, _ in found]
        chosen: dict[int, list[tuple[bytes, bytes]]] = {}
        for used_at, shard, name, size in sorted(rows):
            if over <= 0 and not also(used_at):
                continue
            chosen.setdefault(shard, []).append((name, b"*"))
            over -= size
        self._drop(chosen)


class RedisAcks:
    """`Leases.ack`. `keep`: what is acknowledged is kept for a while."""

    def __init__(self, shards: Shards, copies: RedisCopies, *, keep: bool) -> None:
        self._shards = shards
        self._copies = copies
        self._keep = keep

    def ack(self, acks: Sequence[Ack]) -> list[Lease]:
        self._shards.server.require_open()
        lost: list[Lease] = []
        left = list(acks)
        changed_copies = False
        while left:
            some, left = left[:_AT_ONCE], left[_AT_ONCE:]
            for ack, outcome, copy in self._acknowledge(some):
                if outcome == b"copy":
                    left.append(ack)
                elif outcome != b"ok":
                    lost.append(ack.lease)
                if outcome == b"missing":
                    self._note_missing(ack)
                changed_copies = changed_copies or copy == "change"
        if changed_copies:
            self._copies.make_room()
        return lost

    def _note_missing(self, ack: Ack) -> None:
        """Entries that were read and written are not all there any more: told as damage, once."""
        what = f"{len(ack.entries)} written entries can't be taken out of the buffer: some are not there"
        self._shards.note_damage(ack.lease.stream, ack.lease.partition, what)

    def _acknowledge(self, acks: Sequence[Ack]) -> list[tuple[Ack, bytes, Any]]:
        now = self._shards.clock()
        by_shard: dict[int, list[tuple[Ack, list[Arg]]]] = {}
        for ack in acks:
            made = by_shard.setdefault(self._shards.of(ack.lease.partition), [])
            made.append((ack, self._copies.decide(ack)))
        head: tuple[Arg, ...] = (now, now + NOTE_TTL_S, int(self._keep))
        replies = self._shards.some(
            _SCRIPTS["ack"],
            {
                shard: [*head, *(arg for ack, copy in some for arg in (*_args(ack), *copy))]
                for shard, some in by_shard.items()
            },
            once=True,
        )
        return [
            (ack, outcome, copy[0])
            for shard, some in by_shard.items()
            for (ack, copy), outcome in zip(some, replies[shard], strict=True)
        ]


def _args(ack: Ack) -> list[Arg]:
    """An acknowledgement, but for the copy, as the script takes it."""
    lease, entries = ack.lease, ack.entries
    mark = (ack.mark or mark_of(entries[-1])) if entries else (0, 0, 0)
    first, last = (entries[0].seq, entries[-1].seq) if entries else (0, 0)
    return [
        name_of(lease.stream, lease.partition), lease.token, first, last, len(entries), *mark,
        int(ack.release), *listed(ack.forget), *listed(_flat(ack.maxima)), *listed(_flat(ack.passing)),
    ]  # fmt: skip


def changed(change: CopyChange) -> list[Arg]:
    """What becomes of a copy, as scripts take it: mark, growth, whether it is cleared, and the
    lists of what is put and dropped."""
    puts = {key: crc32(value).to_bytes(4, "big") + value for key, value in change.put.items()}
    return [
        change.mark, change.grown, int(change.clear), *listed(_flat(puts)), *listed(change.drop),
    ]  # fmt: skip


def _no_change(what: str) -> list[Arg]:
    return [what, b"", b"", 0, 0, 0, 0]


def listed(items: Iterable[Arg]) -> list[Arg]:
    """Items as scripts take a list: how many, then each."""
    found = list(items)
    return [len(found), *found]


def _flat(pairs: Mapping[bytes, bytes]) -> list[bytes]:
    return [part for pair in pairs.items() for part in pair]


def _marked(mark: bytes | None) -> bytes:
    return b"-" if mark is None else b"+" + mark


def _wanted(mark: bytes | None) -> bytes:
    return b"*" if mark is None else b"+" + mark
