"""What stands beside a stored entry, as the scripts write it (`partition.lua`). Pure."""

from __future__ import annotations

from typing import NamedTuple

from surgetank.buffer.failures import failure_of
from surgetank.model import Mark, ParkedEntry, PartitionState


class Meta(NamedTuple):
    """Of one entry: its number, bytes as they are stored, and what may change."""

    seq: int
    size: int
    accepted_at: float
    epoch: int
    replays: int
    root: int | None  # the oldest entry that it builds on
    parked_id: int | None  # that it has, or had
    file: int | None  # where its larger values are


def meta_of(member: bytes) -> Meta:
    """From a member of the lists of entries."""
    seq, size, at, epoch, replays, root, parked_id, file, *_ = member.split(b":")
    return Meta(
        seq=int(seq),
        size=int(size),
        accepted_at=float(at),
        epoch=int(epoch),
        replays=int(replays),
        root=int(root) if root else None,
        parked_id=int(parked_id) if parked_id else None,
        file=int(file) if file else None,
    )


def state_of(row: list[bytes]) -> PartitionState:
    """A partition's state, as `state` in `partition.lua` gives it."""
    n, size, old, attempts, next_at, since, failure, owner, until, *mark, stream, name = row
    epoch, seq, digest = (int(part or 0) for part in mark)
    return PartitionState(
        stream=stream.decode(),
        partition=name.decode(),
        entries=int(n or 0),
        bytes=int(size or 0),
        oldest_at=float(old or 0),
        attempts=int(attempts or 0),
        next_attempt_at=float(next_at or 0),
        failing_since=float(since) if since else None,
        failure=failure_of(failure.decode()) if failure else None,
        leased_by=owner.decode() or None,
        lease_expires_at=float(until or 0),
        mark=Mark(epoch, seq, digest) if seq else None,
    )


def parked_of(row: list[bytes]) -> ParkedEntry:
    """A parked entry, from its record."""
    id_, stream, name, seq, size, accepted_at, parked_at, failure, replays = row
    return ParkedEntry(
        id=int(id_),
        stream=stream.decode(),
        partition=name.decode(),
        seq=int(seq),
        bytes=int(size),
        accepted_at=float(accepted_at),
        parked_at=float(parked_at),
        failure=failure_of(failure.decode()),
        retries=int(replays),
    )
