"""Leasing and reading partitions of the Redis buffer, many in one round trip."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from surgetank.buffer.coordination import Due, Leased, ReadFrom
from surgetank.buffer.failures import failure_json
from surgetank.buffer.redis.meta import Meta, meta_of, state_of
from surgetank.buffer.redis.shards import Shards, name_of, scripts
from surgetank.buffer.redis.values import Values
from surgetank.exceptions import BufferCorrupt, EntryUnreadable, FallbackUnavailable, LeaseLost
from surgetank.model import Entry, Failure, Lease, PartitionState
from surgetank.redis.server import Arg

_SCRIPTS = scripts("leases.lua")
# A lease that was taken further in the future than this was taken before the clock was set back.
_CLOCK_STEP_S = 60.0
_AT_ONCE = 100  # partitions that come back without a spread
_MANY = 1 << 50
_PARTS = 4  # of the shards, one of which is asked first


class _Candidate(NamedTuple):
    """A partition that may be leased."""

    name: str
    entries: int
    bytes: int


class RedisLeases:
    """The roles `Leases`, but for acknowledging (`acks.py`), and `Attempts`."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._plenty = False  # there was more than enough when it was last asked for
        self._next_part = random.randrange(_PARTS)  # noqa: S311 - so that workers begin apart

    def lease(self, stream: str, due: Due, *, owner: str, ttl_s: float) -> list[Leased]:
        now = self._shards.clock()
        terms: tuple[Arg, ...] = (
            now, _CLOCK_STEP_S, due.max_horizon_s, int(due.force), due.entries, due.bytes, due.age_s,
        )  # fmt: skip
        left = self._candidates(stream, due, terms)
        until = now + ttl_s
        leased: list[Leased] = []
        entries = size = 0
        while left and (room := due.limit - len(leased)) > 0:
            chosen: list[str] = []
            for candidate in left:
                if len(chosen) >= room or entries >= due.enough_entries or size >= due.enough_bytes:
                    break
                chosen.append(candidate.name)
                entries, size = entries + candidate.entries, size + candidate.bytes
            if not chosen:
                break
            left = left[len(chosen) :]
            taken = self._take(chosen, (*terms, until, stream, owner))
            for name in chosen:
                if (state := taken.get(name)) is not None:
                    lease = Lease(stream, name, state[0], owner, until)
                    leased.append(Leased(lease, state[1]))
            # Others may have been quicker: what they took is made up from what is left.
            entries = sum(min(due.share_entries, x.state.entries) for x in leased)
            size = sum(min(due.share_bytes, x.state.bytes) for x in leased)
        return leased

    def _candidates(self, stream: str, due: Due, terms: tuple[Arg, ...]) -> list[_Candidate]:
        """Those that may be leased, in the order in which they should be."""
        names = due.partitions
        if due.partition is not None:
            names = [due.partition] if names is None or due.partition in names else []
        limits: tuple[Arg, ...] = (
            due.limit, due.enough_entries, due.enough_bytes, due.share_entries, due.share_bytes, stream
        )  # fmt: skip
        if names is not None:
            asked: dict[int, Sequence[Arg]] = {
                shard: (*terms, *limits, "these", *some)
                for shard, some in self._shards.by_shard(names).items()
            }
            return _in_order(list(self._shards.some(_SCRIPTS["candidates"], asked).values()))
        every = range(self._shards.count)
        if due.enough_entries < _MANY and self._plenty:
            # What costs the server most is being asked: while there is plenty, some shards are enough.
            self._next_part += 1
            some_shards = every[self._next_part % min(_PARTS, len(every)) :: _PARTS]
            found, is_enough, _ = self._ask(
                due, terms, some_shards, len(some_shards), stream=stream
            )
            if is_enough:
                return _in_order(found)
        # What is due is spread evenly, mostly, and what is found and not taken costs the server.
        found, is_enough, more = self._ask(due, terms, every, len(every), stream=stream)
        if not is_enough and more:
            found, is_enough, _ = self._ask(due, terms, every, 1, stream=stream)
        self._plenty = is_enough
        return _in_order(found)

    def _ask(
        self, due: Due, terms: tuple[Arg, ...], shards: Sequence[int], parts: int, *, stream: str
    ) -> tuple[list[Any], bool, bool]:
        """What these shards have, each asked for its part with some to spare; whether that is
        enough; whether there may be more."""
        share = (
            _share(due.limit, parts), _share(due.enough_entries, parts), _share(due.enough_bytes, parts),
        )  # fmt: skip
        args = (*terms, *share, due.share_entries, due.share_bytes, stream, "all")
        found = list(
            self._shards.some(_SCRIPTS["candidates"], dict.fromkeys(shards, args)).values()
        )
        ready = [row for shard in found for row in shard[0]]
        is_enough = (
            len(ready) >= due.limit
            or sum(row[3] for row in ready) >= due.enough_entries
            or sum(row[4] for row in ready) >= due.enough_bytes
        )
        return found, is_enough, any(shard[2] for shard in found)

    def _take(
        self, names: Sequence[str], args: tuple[Arg, ...]
    ) -> dict[str, tuple[int, PartitionState]]:
        """Lease those of these partitions that nobody has taken meanwhile: their tokens and states."""
        taken = self._shards.some(
            _SCRIPTS["lease"],
            {shard: (*args, *some) for shard, some in self._shards.by_shard(names).items()},
            once=True,
        )
        found = ((int(token), state_of(row)) for rows in taken.values() for token, row in rows)
        return {state.partition: (token, state) for token, state in found}

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


def _share(most: int, shards: int) -> int:
    return min(most, math.ceil(2 * most / shards) + 8)


def _in_order(found: Sequence[Any]) -> list[_Candidate]:
    """What shards found: tenants take turns, each with its oldest first. What only force takes comes
    last."""
    ordered: list[_Candidate] = []
    for kind in (0, 1):
        before: dict[bytes, int] = {}
        ranked: list[tuple[int, float, _Candidate]] = []
        rows = sorted((float(row[0]), *row[1:]) for shard in found for row in shard[kind])
        for old, name, tenant, entries, size in rows:
            before[tenant] = turn = before.get(tenant, 0) + 1
            ranked.append((turn, old, _Candidate(name.decode(), entries, size)))
        ordered += [candidate for _, _, candidate in sorted(ranked)]
    return ordered


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
