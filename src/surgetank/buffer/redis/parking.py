"""Parked entries of the Redis buffer: set aside with their reason, and put back."""

from __future__ import annotations

from collections.abc import Iterable

from surgetank.buffer.failures import failure_json
from surgetank.buffer.redis.codec import Stored, encode
from surgetank.buffer.redis.leases import RedisLeases, lost
from surgetank.buffer.redis.log import RedisLog
from surgetank.buffer.redis.meta import meta_of, parked_of
from surgetank.buffer.redis.shards import Shards, name_of, scripts
from surgetank.buffer.redis.values import REMEDY, Values
from surgetank.exceptions import BufferCorrupt, EntryUnreadable
from surgetank.model import Entry, Failure, Lease, ParkedEntry

_SCRIPTS = scripts("parking.lua")


class RedisParking:
    """The role `Parking`. What is put back waits under the epoch of this handle."""

    def __init__(self, shards: Shards, leases: RedisLeases, log: RedisLog) -> None:
        self._shards = shards
        self._leases = leases
        self._log = log

    def park(self, lease: Lease, seq: int, failure: Failure) -> ParkedEntry:
        name = name_of(lease.stream, lease.partition)
        full, size = self._full(lease, name, seq)
        record = self._shards.write(
            _SCRIPTS["park"], lease.partition, name, lease.token, seq, self._shards.clock(),
            failure_json(failure), self._shards.new_parked_id(), size, full,
        )  # fmt: skip
        if record == [b"lost"]:
            raise lost(lease)
        if record == [b"missing"]:
            raise BufferCorrupt(
                f"Entry {seq} of {lease.stream}/{lease.partition} is not there.",
                remedy=REMEDY,
                partition=lease.partition,
                seq=seq,
            )
        return parked_of(record)

    def _full(self, lease: Lease, name: bytes, seq: int) -> tuple[bytes, int]:
        """The entry without differences, and its size. One that is damaged stays as it is."""
        try:
            found = self._leases.read(lease, after_seq=seq - 1, max_entries=1, max_bytes=1)
        except EntryUnreadable:
            return b"", 0
        if not found or found[0].seq != seq:
            return b"", 0  # the script says what is wrong
        entry = found[0]
        return encode(name, [Stored(r.key, r.value) for r in entry.records]), entry.size

    def parked(
        self, *, stream: str | None = None, partition: str | None = None
    ) -> list[ParkedEntry]:
        replies = self._shards.each(_SCRIPTS["parked"])
        entries = [parked_of(record) for records in replies for record in records]
        return sorted(
            (
                entry
                for entry in entries
                if stream in (None, entry.stream) and partition in (None, entry.partition)
            ),
            key=lambda entry: entry.id,
        )

    def parked_entry(self, parked_id: int) -> Entry | None:
        for reply in self._shards.each(_SCRIPTS["parked_entry"], parked_id):
            if not reply:
                continue
            record, member, stored = reply
            parked = parked_of(record)
            meta = meta_of(member)
            name = name_of(parked.stream, parked.partition)
            values = Values(
                self._shards.address.name,
                name,
                {parked.seq: stored} if stored else {},
                self._shards.load,
            )
            return Entry(
                parked.stream, parked.partition, parked.seq, values.records(parked.seq),
                parked.accepted_at, replayed=parked.retries > 0, epoch=meta.epoch,
            )  # fmt: skip
        return None

    def unpark(self, parked_ids: Iterable[int]) -> list[int]:
        ids = list(parked_ids)
        seqs: list[int] = []
        where = {
            int(found): shard
            for shard, some in enumerate(self._shards.each(_SCRIPTS["parked_here"], *ids))
            for found in some
        }
        for id_ in ids:
            shard = where.pop(id_, None)
            if shard is None:
                continue
            args = (self._shards.clock(), self._log.epoch, id_)
            seq = self._shards.some(_SCRIPTS["unpark"], {shard: args}, once=True)[shard]
            if seq:
                seqs.append(seq)
        return seqs

    def discard_parked(self, parked_ids: Iterable[int]) -> None:
        ids = list(parked_ids)
        if ids:
            self._shards.each(_SCRIPTS["discard"], *ids, once=True)
