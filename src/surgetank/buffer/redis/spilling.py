"""Spilling in the Redis buffer: an entry is replaced by one that names where its larger values are.

A file is known in the first shard, and each shard counts what it has in it. One that was given up is
first closed in every shard: from then on nothing can begin to refer to it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from surgetank.buffer.coordination import Due
from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.redis.codec import Base, Stored, encode
from surgetank.buffer.redis.leases import RedisLeases
from surgetank.buffer.redis.log import RedisLog
from surgetank.buffer.redis.shards import Shards, name_of, scripts
from surgetank.buffer.redis.view import Views
from surgetank.buffer.spilling import Elsewhere, Recovered, SpillDue, SpillFile, ToSpill
from surgetank.exceptions import BufferCorrupt, BufferFull, LeaseLost
from surgetank.fallback.codec import FileHeader, SpilledEntry, ValueRef
from surgetank.fallback.files import SpillFiles
from surgetank.model import Lease
from surgetank.redis.server import Arg

INLINE = 64  # values up to this size stay in the buffer
_SCRIPTS = scripts("spilling.lua")
_CLOCK_STEP_S = 60.0
_TRIES = 20


@dataclass(frozen=True, slots=True)
class _File:
    file_id: str
    stream: str
    address: str
    name: str
    state: str
    bytes: int
    created_at: float
    touched_at: float

    def stored(self) -> str:
        return json.dumps([getattr(self, name) for name in self.__slots__])


class SpilledValues:
    """Values that were spilled, read from their files."""

    def __init__(self, shards: Shards, files: SpillFiles) -> None:
        self._shards = shards
        self._files = files

    def load(self, number: int, ref: bytes) -> bytes:
        """A spilled value. Raises `FallbackUnavailable`, `FallbackDamaged`."""
        (stored,) = self._shards.some(_SCRIPTS["one_file"], {0: (number,)})[0]
        if not stored:
            raise BufferCorrupt(
                f"The buffer is damaged: a record was spilled to the file {number}, which it does not "
                "know.",
                remedy="run `surgetank recover --dry-run`.",
            )
        file = _File(*json.loads(stored))
        return self._files.value(file.address, file.name, ValueRef.unpack(ref))


class RedisSpilling:
    """The role `Spilling`. Values with one of `inline_keys` are never spilled (guards look into
    them)."""

    def __init__(
        self,
        shards: Shards,
        views: Views,
        leases: RedisLeases,
        log: RedisLog,
        *,
        limits: BufferLimits,
        files: SpillFiles,
        inline_keys: frozenset[bytes],
    ) -> None:
        self.files = files
        self._shards = shards
        self._views = views
        self._leases = leases
        self._log = log
        self._limits = limits
        self._inline_keys = inline_keys

    # -- spilling

    def lease_to_spill(
        self, stream: str, due: SpillDue, *, owner: str, ttl_s: float
    ) -> list[ToSpill]:
        now = self._shards.clock()
        before = "" if due.before is None else due.before
        replies = self._shards.each(
            _SCRIPTS["candidates"], now, _CLOCK_STEP_S, before, int(due.down), due.limit, stream
        )
        rows = sorted(
            (float(order), name, int(after)) for rows in replies for order, name, after in rows
        )
        chosen = {name.decode(): after for _, name, after in rows[: due.limit]}
        if not chosen:
            return []
        wanted = Due(partitions=list(chosen), force=True, limit=due.limit)
        leased = self._leases.lease(stream, wanted, owner=owner, ttl_s=ttl_s)
        by_name = {each.lease.partition: each for each in leased}
        return [ToSpill(by_name[n], after) for n, after in chosen.items() if n in by_name]

    def begin_spill(self, stream: str, *, node: str) -> FileHeader:
        address, now = self.files.address, self._shards.clock()
        assert address is not None, "no fallback location is configured"
        id_ = uuid.uuid4().hex
        file = _File(
            id_, stream, address, "", state="writing", bytes=0, created_at=now, touched_at=now
        )
        number, _ = self._first("new_file", file.stored(), "")
        header = FileHeader(
            id=id_,
            buffer_id=self._shards.id,
            number=number,
            stream=stream,
            node=node,
            created_at=now,
        )
        self._change(number, lambda known: replace(known, name=header.name))
        return header

    def stub(self, header: FileHeader, lease: Lease, entries: Sequence[SpilledEntry]) -> bool:
        self._touch(header)
        name = name_of(lease.stream, lease.partition)
        args: list[Arg] = [name, lease.token, header.number, len(entries)]
        for spilled in entries:
            stored, size, values = self._stub(header.number, spilled)
            args += (spilled.entry.seq, size, encode(name, stored), values)
        last = entries[-1].entry.seq
        for _ in range(_TRIES):
            more = self._standing_on(lease, name, last)
            outcome = self._shards.write(_SCRIPTS["stub"], lease.partition, *args, *more)
            if outcome == b"ok":
                return True
            if outcome == b"lost":
                return False
            if outcome == b"closed":
                raise _given_up(header)
        raise _given_up(header)

    def _stub(self, number: int, spilled: SpilledEntry) -> tuple[list[Stored], int, int]:
        """An entry with places in the stead of its larger values; its size, and how many they are."""
        stored: list[Stored] = []
        values = 0
        refs = spilled.refs or [None] * len(spilled.entry.records)
        for record, ref in zip(spilled.entry.records, refs, strict=True):
            if ref and len(record.value) > INLINE and record.key not in self._inline_keys:
                stored.append(Stored(record.key, ref.pack(), Base(0, number)))
                values += 1
            else:
                stored.append(Stored(record.key, record.value))
        return stored, sum(len(r.key) + len(r.value) for r in stored), values

    def _standing_on(self, lease: Lease, name: bytes, last: int) -> list[Arg]:
        """Entries after the last one that build on it or those before, without differences."""
        view = self._views.read(lease.stream, lease.partition)
        args: list[Arg] = []
        for meta in view.waiting:
            if meta.seq > last and meta.root is not None and meta.root <= last:
                records = view.values.records(meta.seq)
                size = sum(len(r.key) + len(r.value) for r in records)
                args += (meta.seq, size, encode(name, [Stored(r.key, r.value) for r in records]))
        return args

    def keep_spill(self, header: FileHeader, size: int) -> None:
        self._touch(header)
        self._change(header.number, lambda file: replace(file, state="kept", bytes=size))

    def _touch(self, header: FileHeader) -> None:
        now = self._shards.clock()

        def touched(file: _File) -> _File:
            if file.state != "writing":
                raise _given_up(header)
            return replace(file, touched_at=now)

        if not self._change(header.number, touched):
            raise _given_up(header)

    # -- files

    def spill_files(self) -> list[SpillFile]:
        files = self._files()
        counts = self._counts("counts", list(files))
        return [_shown(number, file, counts[number]) for number, file in sorted(files.items())]

    def spilled_entries(self) -> int:
        return sum(self._shards.each(_SCRIPTS["spilled_entries"]))

    def drained_spills(self, *, silent_s: float) -> list[SpillFile]:
        silent = self._shards.clock() - silent_s
        for number, file in self._files().items():
            if file.state == "writing" and file.touched_at < silent:
                self._change(
                    number,
                    lambda f: (
                        replace(f, state="kept")
                        if f.state == "writing" and f.touched_at < silent
                        else f
                    ),
                )
        kept = {number: file for number, file in self._files().items() if file.state == "kept"}
        if not kept:
            return []
        counts = self._counts("close", list(kept), once=True)
        return [_shown(n, file, 0) for n, file in sorted(kept.items()) if not counts[n]]

    def forget_spill(self, number: int) -> None:
        file = self._files().get(number)
        if (
            file is None
            or file.state != "kept"
            or self._counts("close", [number], once=True)[number]
        ):
            return
        self._first("file", number, file.stored(), "")
        self._shards.each(_SCRIPTS["forget_here"], number, once=True)

    def _counts(self, script: str, numbers: Sequence[int], *, once: bool = False) -> dict[int, int]:
        """How many values are in these files, over all shards."""
        if not numbers:
            return {}
        replies = self._shards.each(_SCRIPTS[script], *numbers, once=once)
        return {number: sum(reply[n] for reply in replies) for n, number in enumerate(numbers)}

    def _files(self) -> dict[int, _File]:
        rows = self._first("files", once=False)
        return {
            int(number): _File(*json.loads(stored))
            for number, stored in zip(rows[::2], rows[1::2], strict=True)
        }

    def _change(self, number: int, change: Any) -> bool:
        """Change what is known of a file; False if nothing is."""
        while True:
            (stored,) = self._first("one_file", number, once=False)
            if not stored:
                return False
            after = change(_File(*json.loads(stored))).stored()
            if self._first("file", number, stored, after):
                return True

    def _first(self, script: str, *args: Arg, once: bool = True) -> Any:
        return self._shards.some(_SCRIPTS[script], {0: args}, once=once)[0]

    # -- recovering

    def begin_recovery(self, header: FileHeader, address: str, name: str, size: int) -> int | None:
        file = _File(
            header.id, header.stream, address, name, state="recovering", bytes=size,
            created_at=header.created_at, touched_at=self._shards.clock(),
        )  # fmt: skip
        number, known = self._first("new_file", file.stored(), header.id)
        if known and _File(*json.loads(known)).state != "recovering":
            return None
        return int(number)

    def take_over(
        self, number: int, header: FileHeader, entries: Sequence[SpilledEntry], elsewhere: Elsewhere
    ) -> Recovered:
        known = deleted = 0
        mine = header.buffer_id == self._shards.id
        by_shard: dict[int, list[Arg]] = {}
        for spilled in entries:
            entry = spilled.entry
            written = entry.seq <= elsewhere.written.get((entry.partition, entry.epoch), 0)
            if written and not elsewhere.keyed:
                known += 1
                continue
            if entry.accepted_at < elsewhere.tombstones.get(entry.partition, float("-inf")):
                deleted += 1
                continue
            stored, size, values = self._stub(number, spilled)
            name = name_of(entry.stream, entry.partition)
            origin = f"{header.buffer_id}/{entry.epoch}/{entry.seq}"
            by_shard.setdefault(self._shards.of(entry.partition), []).extend(
                (
                    name, origin, entry.accepted_at, int(written or entry.replayed), size, values,
                    encode(name, stored), entry.seq if mine else "", entry.epoch if mine else "",
                )
            )  # fmt: skip
        self._shards.view(fresh=True)
        if sum(s.entry.size for s in entries if not s.refs) > self._room():
            raise self._at_limit()
        head: Mapping[int, tuple[Arg, ...]] = {
            shard: (
                self._shards.clock(), self._log.epoch, self._limits.max_entries,
                self._shards.others(shard)[0], number,
            )
            for shard in by_shard
        }  # fmt: skip
        outcomes = [
            outcome
            for reply in self._shards.some(
                _SCRIPTS["take_over"],
                {shard: (*head[shard], *args) for shard, args in by_shard.items()},
                once=True,
            ).values()
            for outcome in reply
        ]
        if -1 in outcomes:
            raise self._at_limit()
        return Recovered(outcomes.count(1), known + outcomes.count(0), deleted)

    def _room(self) -> int:
        """How many bytes more it takes."""
        return self._limits.max_bytes - self._shards.held()[1]

    def _at_limit(self) -> BufferFull:
        return BufferFull(
            f"The buffer is at its limit ({self._limits.max_entries} entries, {self._limits.max_bytes} bytes); "
            "not all is taken over.",
            remedy="flush, then do the same again: it goes on where it ended.",
        )

    def pending(self, stream: str, partition: str, key: bytes) -> list[tuple[float, bytes]]:
        view = self._views.read(stream, partition)
        return [
            (meta.accepted_at, view.values.value(meta.seq, position))
            for meta in view.waiting
            for position, record in enumerate(view.values.stored(meta.seq))
            if record.key == key
        ]

    def relocate_spill(self, file_id: str, address: str, name: str) -> None:
        for number, file in self._files().items():
            if file.file_id == file_id:
                self._change(number, lambda f: replace(f, address=address, name=name))

    def end_recovery(self, number: int) -> None:
        self._change(number, lambda file: replace(file, state="kept"))


def _shown(number: int, file: _File, records: int) -> SpillFile:
    return SpillFile(
        number=number, file_id=file.file_id, stream=file.stream, address=file.address, name=file.name,
        state=file.state, records=records, bytes=file.bytes, created_at=file.created_at,
    )  # fmt: skip


def _given_up(header: FileHeader) -> LeaseLost:
    return LeaseLost(
        f"The spill file {header.name} took so long that it was given up.",
        remedy="nothing to do: its entries are in the buffer and are spilled again.",
    )
