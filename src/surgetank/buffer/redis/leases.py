"""Leasing and reading partitions of the Redis buffer, many in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from surgetank.buffer.coordination import Due, Leased, ReadFrom
from surgetank.buffer.failures import failure_json
from surgetank.buffer.redis.meta import Meta, meta_of, state_of
from surgetank.buffer.redis.shards import Shards, name_of, scripts
from surgetank.buffer.redis.values import Values
from surgetank.exceptions import BufferCorrupt, EntryUnreadable, FallbackUnavailable, LeaseLost
from surgetank.model import Entry, Failure, Lease
from surgetank.redis.server import Arg

_SCRIPTS = scripts("leases.lua")
# A lease that was taken further in the future than this was taken before the clock was set back.
_CLOCK_STEP_S = 60.0
_AT_ONCE = 100  # partitions that come back without a spread
_MANY = 1 << 50


class RedisLeases:
    """The roles `Leases`, but for acknowledging (`acks.py`), and `Attempts`."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def lease(self, stream: str, due: Due, *, owner: str, ttl_s: float) -> list[Leased]:
        now = self._shards.clock()
        terms: tuple[Arg, ...] = (
            now, _CLOCK_STEP_S, due.max_horizon_s, int(due.force), due.entries, due.bytes, due.age_s,
        )  # fmt: skip
        names = due.partitions
        if due.partition is not None:
            names = [due.partition] if names is None or due.partition in names else []
        if names is None:
            found = self._shards.each(_SCRIPTS["candidates"], *terms, due.limit, stream, "all")
        else:
            found = list(
                self._shards.some(
                    _SCRIPTS["candidates"],
                    {
                        shard: (*terms, due.limit, stream, "these", *some)
                        for shard, some in self._shards.by_shard(names).items()
                    },
                ).values()
            )
        # Those that only force takes come last.
        chosen = [
            name.decode()
            for kind in (0, 1)
            for _, name in sorted(
                (float(old), name) for shard in found for old, name in shard[kind]
            )
        ][: due.limit]
        if not chosen:
            return []
        until = now + ttl_s
        taken = self._shards.some(
            _SCRIPTS["lease"],
            {
                shard: (*terms, until, stream, owner, *some)
                for shard, some in self._shards.by_shard(chosen).items()
            },
            once=True,
        )
        leased: dict[str, Leased] = {}
        for rows in taken.values():
            for token, row in rows:
                state = state_of(row)
                lease = Lease(stream, state.partition, int(token), owner, until)
                leased[state.partition] = Leased(lease, state)
        return [leased[name] for name in chosen if name in leased]

    def renew(self, leases: Sequence[Lease], *, ttl_s: float) -> list[Lease]:
        now = self._shards.clock()
        until = now + ttl_s
        kept: list[Lease] = []
        by_shard = self._by_shard(leases)
        replies = self._shards.some(
            _SCRIPTS["renew"],
            {shard: (now, until, *_tokens(some)) for shard, some in by_shard.items()},
            once=True,
        )
        for shard, some in by_shard.items():
            for lease, is_held in zip(some, replies[shard], strict=True):
                if is_held:
                    kept.append(
                        Lease(lease.stream, lease.partition, lease.token, lease.owner, until)
                    )
        return kept

    def release(self, leases: Sequence[Lease]) -> None:
        self._shards.server.require_open()
        self._shards.some(
            _SCRIPTS["release"],
            {shard: _tokens(some) for shard, some in self._by_shard(leases).items()},
            once=True,
        )

    def _by_shard(self, leases: Sequence[Lease]) -> dict[int, list[Lease]]:
        found: dict[int, list[Lease]] = {}
        for lease in leases:
            found.setdefault(self._shards.of(lease.partition), []).append(lease)
        return found

    # -- reading

    def read(
        self, lease: Lease, *, after_seq: int = 0, max_entries: int, max_bytes: int
    ) -> list[Entry]:
        (entries,) = self.read_many(
            [ReadFrom(lease, after_seq)],
            share_entries=max_entries,
            share_bytes=max_bytes,
            max_entries=max_entries,
            max_bytes=max_bytes,
        )
        return entries

    def read_many(
        self,
        starts: Sequence[ReadFrom],
        *,
        share_entries: int,
        share_bytes: int,
        max_entries: int,
        max_bytes: int,
    ) -> list[list[Entry]]:
        """Two round trips: what is there, then as much of it as there is room for. A value counts
        as it is stored, which may be a difference: what comes is cut to the limits."""
        self._shards.server.require_open()
        if not starts:
            return []
        names = [name_of(start.lease.stream, start.lease.partition) for start in starts]
        listed = self._shards.many(
            _SCRIPTS["sizes"],
            [
                (start.lease.partition, (name, start.after_seq, min(share_entries, _MANY)))
                for start, name in zip(starts, names, strict=True)
            ],
        )
        planned: list[list[Meta]] = []
        entries = size = 0
        for members in listed:
            if planned and (entries >= max_entries or size >= max_bytes):
                break
            room = min(share_entries, max_entries - entries)
            chosen = _fitting(members, room, min(share_bytes, max_bytes - size))
            planned.append(chosen)
            entries += len(chosen)
            size += sum(meta.size for meta in chosen)
        asked = [(n, chosen) for n, chosen in enumerate(planned) if chosen]
        replies = self._shards.many(
            _SCRIPTS["read"],
            [
                (starts[n].lease.partition, (names[n], chosen[0].seq, chosen[-1].seq))
                for n, chosen in asked
            ],
        )
        found = {n: reply for (n, _), reply in zip(asked, replies, strict=True)}
        batches: list[list[Entry]] = []
        entries = size = 0
        for n in range(len(planned)):
            if batches and (entries >= max_entries or size >= max_bytes):
                break
            room_bytes = min(share_bytes, max_bytes - size)
            try:
                batch = self._entries(starts[n].lease, names[n], found.get(n), room_bytes)
            except EntryUnreadable:
                if batches:  # those before it go on; it is the first one next time
                    break
                raise
            batches.append(batch)
            entries += len(batch)
            size += sum(entry.size for entry in batch)
        return batches

    def _entries(
        self, lease: Lease, name: bytes, reply: list[Any] | None, max_bytes: int
    ) -> list[Entry]:
        if reply is None:
            return []
        waiting, stored = reply
        values = Values(
            self._shards.address.name,
            name,
            {int(seq): entry for seq, entry in zip(stored[::2], stored[1::2], strict=True)},
            self._shards.load,
        )
        entries: list[Entry] = []
        size = 0
        for meta in map(meta_of, waiting):
            if entries and size >= max_bytes:
                break
            try:
                records = values.records(meta.seq)
            except (BufferCorrupt, FallbackUnavailable) as error:
                if not entries:
                    raise EntryUnreadable(lease.partition, meta.seq, error) from error
                break
            entry = Entry(
                lease.stream, lease.partition, meta.seq, records, meta.accepted_at,
                replayed=meta.replays > 0, epoch=meta.epoch,
            )  # fmt: skip
            entries.append(entry)
            size += entry.size
        return entries

    # -- attempts

    def postpone(
        self, lease: Lease, *, attempts: int, next_attempt_at: float, failure: Failure
    ) -> None:
        done = self._shards.write(
            _SCRIPTS["postpone"], lease.partition, name_of(lease.stream, lease.partition), lease.token,
            attempts, next_attempt_at, failure_json(failure), self._shards.clock(),
        )  # fmt: skip
        if not done:
            raise lost(lease)

    def retry_now(
        self, stream: str | None = None, partition: str | None = None, *, spread_s: float = 0.0
    ) -> int:
        at_once = max(1, _AT_ONCE // self._shards.count) if spread_s else _MANY
        streams = [stream] if stream is not None else []
        now = self._shards.clock()
        args: list[Arg] = [now, spread_s, at_once, partition or "", *streams]
        if partition is not None:
            return int(self._shards.write(_SCRIPTS["retry_now"], partition, *args))
        return sum(self._shards.each(_SCRIPTS["retry_now"], *args, once=True))


def lost(lease: Lease) -> LeaseLost:
    """What is raised for a lease that somebody else has by now."""
    return LeaseLost(
        f"The lease {lease.token} of {lease.stream}/{lease.partition} is no longer held by "
        f"{lease.owner}.",
        remedy="nothing to do: whoever holds the partition now flushes it.",
    )


def _tokens(leases: Sequence[Lease]) -> list[Arg]:
    return [
        part for lease in leases for part in (name_of(lease.stream, lease.partition), lease.token)
    ]


def _fitting(members: Sequence[bytes], most: int, max_bytes: int) -> list[Meta]:
    """The first ones up to the limits; at least one, and by one too many."""
    chosen: list[Meta] = []
    size = 0
    for meta in map(meta_of, members):
        if chosen and (len(chosen) >= most or size >= max_bytes):
            break
        chosen.append(meta)
        size += meta.size
    return chosen
