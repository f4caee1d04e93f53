"""Upkeep of the Redis buffer: its database, going back in time, what is old, what must go."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from surgetank.buffer.binding import Binding, Marked, Rewound
from surgetank.buffer.redis.acks import RedisCopies
from surgetank.buffer.redis.backlog import RedisJobLog
from surgetank.buffer.redis.codec import Stored, encode
from surgetank.buffer.redis.leases import RedisLeases, lost
from surgetank.buffer.redis.log import RedisLog, new_epoch
from surgetank.buffer.redis.meta import meta_of
from surgetank.buffer.redis.shards import Shards, name_of, scripts
from surgetank.buffer.stored_jobs import without
from surgetank.encode.spelled import forms
from surgetank.exceptions import BufferCorrupt, BufferUnavailable
from surgetank.model import Advice, Damage, Lease, Mark
from surgetank.redis import facts
from surgetank.telemetry import log as program_log

_SCRIPTS = scripts("upkeep.lua")
_KEPT = 200_000
_KEPT_S = 30 * 86_400.0
_MANY = 1 << 40
_REWRITE_S = 30.0


class RedisBinding:
    """The role `Bindable`."""

    def __init__(self, shards: Shards, fence: RedisFence) -> None:
        self._shards = shards
        self._fence = fence

    def binding(self) -> Binding | None:
        stored = self._stored()
        return Binding(*json.loads(stored)) if stored else None

    def _stored(self) -> bytes:
        (stored,) = self._shards.some(_SCRIPTS["binding"], {0: ()})[0]
        return bytes(stored)

    def bind(self, binding: Binding, *, forget_marks: bool = False) -> None:
        while not self._shards.some(
            _SCRIPTS["bind"], {0: (self._stored(), json.dumps(binding))}, once=True
        )[0]:
            pass
        if forget_marks:
            self._shards.each(_SCRIPTS["forget_marks"], once=True)
            self._fence.forget_kept(all_=True)

    def note_destination(self, destination: str) -> None:
        """Remember where entries are meant to go, if nothing is known of it yet. A buffer that never
        met its database and holds nothing may go elsewhere."""
        stored = self._stored()
        if stored:
            known = Binding(*json.loads(stored))
            self._shards.view(fresh=True)
            if known.address == destination or known.database_id or self._shards.held()[0]:
                return
        args = (stored, json.dumps(Binding(destination)))
        self._shards.some(_SCRIPTS["bind"], {0: args}, once=True)  # or another process was first


class RedisFence:
    """The role `Fence`. Acknowledged entries are kept for `keep_s`, up to `keep_bytes`."""

    def __init__(
        self, shards: Shards, leases: RedisLeases, log: RedisLog, keep_s: float, keep_bytes: int
    ) -> None:
        self._shards = shards
        self._leases = leases
        self._log = log
        self._keep_s, self._keep_bytes = keep_s, keep_bytes

    def marks(self, *, limit: int, offset: int = 0) -> list[Marked]:
        now = self._shards.clock()
        found: list[Marked] = []
        for rows in self._shards.each(_SCRIPTS["marks"], now, now - _KEPT_S, limit + offset):
            for name, epoch, seq, digest, at in rows:
                stream, _, partition = name.decode().partition("\0")
                mark = Mark(int(epoch), int(seq), int(digest))
                found.append(Marked(stream, partition, mark, float(at)))
        found.sort(key=lambda marked: (-marked.at, marked.stream, marked.partition))
        return found[offset : offset + limit]

    def rewind(
        self,
        stream: str,
        partition: str,
        trusted: Mapping[int, Mark],
        *,
        lease: Lease | None = None,
    ) -> Rewound | None:
        name = name_of(stream, partition)
        while True:
            members, gone_epoch, gone = self._shards.read(_SCRIPTS["kept_of"], partition, name)
            kept = [meta_of(member) for member in members]
            first = next((m.seq for m in kept if not _covers(trusted, m.epoch, m.seq)), None)
            done = self._shards.write(
                _SCRIPTS["rewind"], partition, self._shards.clock(), name,
                "" if lease is None else lease.token, "" if first is None else first, gone,
            )  # fmt: skip
            if done == -1:
                if lease is not None:
                    raise lost(lease)
                return None
            if done >= 0:
                break
        gone_seq = int(gone)
        missing = gone_seq > 0 and not _covers(trusted, int(gone_epoch), gone_seq)
        known = max((mark.seq for mark in trusted.values()), default=0)
        return Rewound(done, (min(known + 1, gone_seq), gone_seq) if missing else None)

    def renew_epoch(self, lease: Lease, *, beyond: int, replayed: bool) -> int:
        epoch, name = new_epoch(), name_of(lease.stream, lease.partition)
        while True:
            entries = self._leases.read(lease, max_entries=_MANY, max_bytes=_MANY)
            args: list[str | int | bytes] = []
            for entry in entries:
                full = encode(name, [Stored(r.key, r.value) for r in entry.records])
                args += (entry.seq, entry.size, full)
            done = self._shards.write(
                _SCRIPTS["renew_epoch"], lease.partition, name, lease.token, epoch, beyond,
                int(replayed), *args,
            )  # fmt: skip
            if done == 0:
                raise lost(lease)
            if done == 1:
                break
        self._log.epoch = new_epoch()  # the old one may be what another process goes on with
        return len(entries)

    def raise_token(self, lease: Lease, *, beyond: int) -> Lease | None:
        token = self._shards.write(
            _SCRIPTS["raise_token"], lease.partition, name_of(lease.stream, lease.partition),
            lease.token, beyond,
        )  # fmt: skip
        if not token:
            return None
        return Lease(lease.stream, lease.partition, token, lease.owner, lease.expires_at)

    def forget_kept(self, *, all_: bool = False) -> None:
        over = max(0, self._shards.kept() - self._keep_bytes)
        age = -float(_MANY) if all_ else self._keep_s
        while any(
            self._shards.each(_SCRIPTS["forget_kept"], self._shards.clock(), age, over, once=True)
        ):
            over = max(0, self._shards.kept() - self._keep_bytes)


class RedisUpkeep:
    """The role `Upkeep`."""

    def __init__(
        self,
        shards: Shards,
        log: RedisLog,
        *,
        copies: RedisCopies,
        jobs: RedisJobLog,
        fence: RedisFence,
    ) -> None:
        self._shards = shards
        self._log = log
        self._copies = copies
        self._jobs = jobs
        self._fence = fence
        self._advices: list[Advice] = []

    def advices(self) -> list[Advice]:
        return self._advices

    def judge(self) -> None:
        """See what the server, or each node of a cluster, is set to; what is new is a warning in the
        program's log."""
        found = facts.facts_of_nodes(self._shards.server)
        most = self._log.limits.max_bytes
        before, self._advices = self._advices, facts.advices_of_nodes(found, most)
        for advice in self._advices:
            if advice not in before:
                where = self._shards.address.name
                program_log.warning("redis_server_unsafe", server=where, **advice._asdict())

    def damage(self, *, new: bool = False) -> list[Damage]:
        self._log.tell_losses()
        (rows,) = self._shards.some(_SCRIPTS["damage"], {0: ()}).values()
        found = [
            (
                Damage(int(id_), float(at), stream.decode(), partition.decode(), what.decode()),
                announced,
            )
            for id_, at, stream, partition, what, announced in rows
        ]
        return sorted(
            (damage for damage, announced in found if not (new and announced)),
            key=lambda damage: damage.id,
        )

    def damage_announced(self, ids: Sequence[int]) -> None:
        args = (self._shards.clock(), *ids)
        self._shards.some(_SCRIPTS["announce_damage"], {0: args}, once=True)

    def erase(self, partitions: Iterable[str], words: Sequence[str]) -> tuple[int, list[str]]:
        gone, waiting = 0, list[str]()
        by_shard = self._shards.by_shard(partitions)
        for went, left in self._shards.some(_SCRIPTS["erase"], dict(by_shard), once=True).values():
            gone += went
            waiting += [name.decode() for name in left]
        spelled = forms(words)
        self._jobs.rewrite(lambda stored: without(stored, spelled))
        return gone, sorted(set(waiting))

    def scrub(self) -> bool:
        """Memory is given back at once. What append-only files still have goes when the server
        rewrites them, which is asked for and waited for here; false where it refuses, or is not done
        soon. Snapshots that were made before, and copies of files, are the operator's."""
        self._shards.server.require_open()
        return facts.rewrite_files(self._shards.server, within_s=_REWRITE_S)

    def maintain(self, *, thorough: bool = True) -> None:
        self._shards.server.require_open()
        self._copies.trim_copies()
        self._fence.forget_kept()
        if not thorough:
            return
        self.judge()
        now = self._shards.clock()
        most = max(1, _KEPT // self._shards.count)
        self._shards.each(_SCRIPTS["forget"], now, now - _KEPT_S, most, once=True)
        self._jobs.forget_old()
        for shard in range(self._shards.count):
            cursor: bytes | int = 0
            while True:
                args = (cursor, now)
                cursor = self._shards.some(_SCRIPTS["forget_idle"], {shard: args}, once=True)[shard]
                if int(cursor) == 0:
                    break

    def check(self) -> None:
        found = self.miscounted()
        if found:
            raise BufferCorrupt(
                f"The buffer {self._shards.address.name} is damaged: {'; '.join(found[:5])}.",
                remedy="`surgetank status` shows what waits; flush it, then choose another prefix.",
            )

    def miscounted(self) -> list[str]:
        """What the buffer counts that is not so, as sentences."""
        return [
            sentence.decode(errors="replace")
            for sentences in self._shards.each(_SCRIPTS["miscounted"])
            for sentence in sentences
        ]

    def taken_away(self) -> BufferUnavailable | None:
        """Why the server does not answer. It may come back."""
        return self._shards.server.problem()


def _covers(standing: Mapping[int, Mark], epoch: int, seq: int) -> bool:
    """Whether the sink has that entry."""
    mark = standing.get(epoch)
    return mark is not None and seq <= mark.seq
