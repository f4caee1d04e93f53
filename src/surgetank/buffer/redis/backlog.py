"""What waits in the Redis buffer, as of now; its jobs, and its tallies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.redis.log import RedisLog
from surgetank.buffer.redis.meta import state_of
from surgetank.buffer.redis.shards import Shards, name_of, scripts
from surgetank.buffer.stored_jobs import job_json, job_of
from surgetank.buffer.tallies import Tally
from surgetank.exceptions import BufferFull
from surgetank.model import (
    BufferDepth,
    FailureGroup,
    FlushJob,
    JobStatus,
    PartitionState,
    Record,
    StreamDepth,
)

_SCRIPTS, _APPEND = scripts("backlog.lua"), scripts("append.lua")
_PAGE = 200
_MOST = 1 << 50


class RedisBacklog:
    """The role `Backlog`."""

    def __init__(self, shards: Shards, limits: BufferLimits) -> None:
        self._shards = shards
        self._limits = limits

    def states(
        self, stream: str | None = None, *, failing: bool = False, limit: int = 1000
    ) -> list[PartitionState]:
        streams = [stream] if stream is not None else []
        most = min(max(limit, 0), _MOST) if limit >= 0 else _MOST
        replies = self._shards.each(
            _SCRIPTS["states"], most, "failing" if failing else "", *streams
        )
        states = [state_of(row) for rows in replies for row in rows]
        return sorted(states, key=lambda state: state.oldest_at)[:most]

    def state(self, stream: str, partition: str) -> PartitionState | None:
        row = self._shards.read(_SCRIPTS["state"], partition, name_of(stream, partition))
        return state_of(row) if row else None

    def failures(self, *, limit: int = 1000) -> list[FailureGroup]:
        groups: dict[tuple[str, bytes], list[PartitionState]] = {}
        for rows in self._shards.each(_SCRIPTS["failing"]):
            for row in rows:
                state = state_of(row)
                if state.failure is not None:
                    groups.setdefault((state.stream, row[6]), []).append(state)
        found = [_group(states) for states in groups.values()]
        return sorted(found, key=lambda group: -group.partitions)[:limit]

    def last_seq(self, stream: str, partition: str | None = None) -> int:
        if partition is not None:
            (newest, _) = self._shards.read(
                _SCRIPTS["waiting_in"], partition, name_of(stream, partition), 0
            )
            return int(newest)
        replies = self._shards.each(_SCRIPTS["waiting"], stream, 0)
        return max(int(newest) for newest, _ in replies)

    def waiting(self, stream: str, *, up_to_seq: int, partition: str | None = None) -> list[str]:
        if partition is not None:
            (_, found) = self._shards.read(
                _SCRIPTS["waiting_in"], partition, name_of(stream, partition), up_to_seq
            )
            return [partition] if found else []
        replies = self._shards.each(_SCRIPTS["waiting"], stream, up_to_seq)
        return [name.decode() for _, names in replies for name in names]

    def first_waiting(self, stream: str, partitions: Iterable[str]) -> dict[str, int]:
        by_shard = self._shards.by_shard(partitions)
        replies = self._shards.some(
            _SCRIPTS["first_waiting"],
            {shard: [name_of(stream, name) for name in names] for shard, names in by_shard.items()},
        )
        return {
            name: first
            for shard, names in by_shard.items()
            for name, first in zip(names, replies[shard], strict=True)
            if first >= 0
        }

    def depth(self) -> BufferDepth:
        entries = size = memory = memory_max = 0
        streams: dict[str, StreamDepth] = {}
        for of_shard, bytes_, rows, *used in self._shards.each(_SCRIPTS["depth"]):
            if used:
                memory, memory_max = map(int, used)
            entries += int(of_shard)
            size += int(bytes_)
            for row in rows:
                one = _depth_of(row)
                known = streams.get(one.stream)
                streams[one.stream] = one if known is None else _sum(known, one)
        return BufferDepth(
            entries=entries,
            bytes=size,
            max_entries=self._limits.max_entries,
            max_bytes=self._limits.max_bytes,
            streams=tuple(streams[name] for name in sorted(streams)),
            memory_bytes=memory,
            memory_max=memory_max,
        )

    def fill(self) -> float:
        """How full the buffer is by its bytes, 1.0 being its limit."""
        self._shards.view(fresh=True)
        return self._shards.held()[1] / max(1, self._limits.max_bytes)


class RedisJobLog:
    """The role `JobLog`. Jobs are spread over the shards by their ids, and merged by when they were
    made."""

    def __init__(self, shards: Shards, jobs_kept: int) -> None:
        self._shards = shards
        self._jobs_kept = jobs_kept

    def save_job(self, job: FlushJob) -> None:
        ended = int(job.status is not JobStatus.RUNNING)
        self._shards.write(
            _SCRIPTS["save_job"], job.id, job.id, job.created_at, ended, job_json(job)
        )

    def job(self, job_id: str) -> FlushJob | None:
        (stored,) = self._shards.read(_SCRIPTS["job"], job_id, job_id)
        return _job(stored) if stored else None

    def jobs(
        self, *, limit: int = 50, stream: str | None = None, status: str | None = None
    ) -> list[FlushJob]:
        found: list[FlushJob] = []
        for shard in range(self._shards.count):
            wanted = (
                job
                for job in self._newest(shard)
                if stream in (None, job.stream) and status in (None, job.status.value)
            )
            found += islice(wanted, limit)
        return sorted(found, key=lambda job: (-job.created_at, job.id))[:limit]

    def _newest(self, shard: int) -> Iterable[FlushJob]:
        at = 0
        while True:
            stored = self._shards.some(_SCRIPTS["jobs"], {shard: (at, _PAGE)})[shard]
            yield from map(_job, stored)
            if len(stored) < _PAGE:
                return
            at += _PAGE

    def forget_old(self) -> None:
        """Forget the oldest that ended, over the limit."""
        over = sum(self._shards.each(_SCRIPTS["count_jobs"])) - self._jobs_kept
        if over <= self._jobs_kept // 100:
            return
        ended: list[tuple[float, int, bytes]] = []
        for shard, rows in enumerate(self._shards.each(_SCRIPTS["ended_jobs"], over)):
            made = map(float, rows[1::2])
            ended += [(at, shard, id_) for id_, at in zip(rows[::2], made, strict=True)]
        chosen: dict[int, list[bytes]] = {}
        for _, shard, id_ in sorted(ended)[:over]:
            chosen.setdefault(shard, []).append(id_)
        self._shards.some(_SCRIPTS["forget_jobs"], dict(chosen), once=True)

    def rewrite(self, change: Callable[[str], str | None]) -> None:
        """Replace stored jobs by what `change` makes of them; None leaves one as it is."""
        for shard in range(self._shards.count):
            at = 0
            while stored := self._shards.some(_SCRIPTS["jobs"], {shard: (at, _PAGE)})[shard]:
                for before in stored:
                    after = change(before.decode())
                    if after is not None:
                        args = (json.loads(before)["id"], before, after)
                        self._shards.some(_SCRIPTS["replace_job"], {shard: args}, once=True)
                at += _PAGE


class RedisTallies:
    """The role `Tallies`."""

    def __init__(self, shards: Shards, log: RedisLog) -> None:
        self._shards = shards
        self._log = log

    def tally(
        self, stream: str, partition: str, key: bytes, value: bytes, *, count: int = 1
    ) -> None:
        field = name_of(partition, "") + key
        self._shards.write(
            _SCRIPTS["tally"], partition, stream, field, value, count, self._shards.clock()
        )

    def try_tally(self, stream: str, partition: str, key: bytes, value: bytes) -> bool:  # noqa: ARG002
        """Never at once: it waits for the network."""
        return False

    def send_tallies(
        self, stream: str, entry_of: Callable[[Tally], Record], *, older_s: float
    ) -> int:
        now, sent = self._shards.clock(), 0
        for rows in self._shards.each(_SCRIPTS["tallies"], stream):
            for field, (count, since, value) in zip(rows[::2], rows[1::2], strict=True):
                # In the future: by a clock that was set back since.
                if now - older_s < float(since) < now + older_s:
                    continue
                partition, _, key = field.partition(b"\0")
                tally = Tally(partition.decode(), key, value, int(count))
                sent += self._send(stream, tally, entry_of(tally), (field, value, count, since))
        return sent

    def _send(
        self, stream: str, tally: Tally, record: Record, stored: tuple[bytes, bytes, bytes, bytes]
    ) -> bool:
        request = self._log.request(stream, tally.partition, (record,))
        self._log.prepare(request, full=True)
        shard = request.shard
        args = (stream, *stored, *self._log.head(shard), *request.args())
        outcomes, held = self._shards.write(_APPEND["send_tally"], tally.partition, *args)
        if held:
            self._shards.learn(shard, held)
        ((code, _),) = outcomes
        if code == b"full":
            raise BufferFull(
                f"The buffer is full; {tally.count} reports for {tally.partition!r} stay counted.",
                remedy="nothing to do: they are sent when there is room.",
            )
        return bool(code == b"ok")  # else it was sent, or has changed: it goes next time


def _group(states: list[PartitionState]) -> FailureGroup:
    first = states[0]
    assert first.failure is not None
    return FailureGroup(
        stream=first.stream,
        failure=first.failure,
        partitions=len(states),
        entries=sum(state.entries for state in states),
        bytes=sum(state.bytes for state in states),
        since=min(state.failing_since or 0.0 for state in states),
        attempts=max(state.attempts for state in states),
        next_attempt_at=min(state.next_attempt_at for state in states),
        partition=min(state.partition for state in states),
    )


def _depth_of(row: list[Any]) -> StreamDepth:
    stream, entries, size, partitions, oldest, failing, parked = row
    return StreamDepth(
        stream=stream.decode(),
        entries=int(entries),
        bytes=int(size),
        partitions=partitions,
        oldest_at=float(oldest) if oldest else None,
        failing=failing,
        parked=int(parked),
    )


def _sum(one: StreamDepth, other: StreamDepth) -> StreamDepth:
    ages = [at for at in (one.oldest_at, other.oldest_at) if at is not None]
    return StreamDepth(
        stream=one.stream,
        entries=one.entries + other.entries,
        bytes=one.bytes + other.bytes,
        partitions=one.partitions + other.partitions,
        oldest_at=min(ages, default=None),
        failing=one.failing + other.failing,
        parked=one.parked + other.parked,
    )


def _job(stored: bytes) -> FlushJob:
    body = json.loads(stored)
    return job_of((body["id"], body["created_at"], body["stream"], body["status"], stored.decode()))
