"""Rows of the SQLite buffer's tables as the nouns of `model.py`, and back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from surgetank.buffer.failures import failure_of
from surgetank.model import (
    FailureGroup,
    Mark,
    ParkedEntry,
    PartitionState,
)

STATE = (
    "stream, name, entries, bytes, oldest_at, attempts, next_attempt_at, failing_since, failure, "
    "owner,"
    " lease_until, mark_epoch, mark_seq, mark_digest"
)
FAILURE_GROUP = (
    "stream, failure, count(*), sum(entries), sum(bytes), min(failing_since), max(attempts),"
    " min(next_attempt_at), min(name)"
)
JOB = "id, created_at, stream, status, body"
PARKED = (
    "k.id, p.stream, p.name, k.seq, k.bytes, k.accepted_at, k.parked_at, k.failure, k.replays"
    " FROM parked k JOIN partitions p ON p.id = k.partition_id"
)


def state_of(row: Sequence[Any]) -> PartitionState:
    """A partition's state, from the columns `STATE`."""
    stream, name, entries, size, oldest, attempts, next_at, since, failure, owner, until, *mark = (
        row
    )
    return PartitionState(
        stream=stream,
        partition=name,
        entries=entries,
        bytes=size,
        oldest_at=oldest or 0.0,
        attempts=attempts,
        next_attempt_at=next_at,
        failing_since=since,
        failure=failure_of(failure) if failure else None,
        leased_by=owner,
        lease_expires_at=until,
        mark=Mark(*mark) if mark[1] else None,
    )


def failure_group_of(row: Sequence[Any]) -> FailureGroup:
    """Partitions that failed alike, from the columns `FAILURE_GROUP`."""
    stream, failure, count, entries, size, since, attempts, next_at, name = row
    return FailureGroup(
        stream=stream,
        failure=failure_of(failure),
        partitions=count,
        entries=entries,
        bytes=size,
        since=since,
        attempts=attempts,
        next_attempt_at=next_at,
        partition=name,
    )


def parked_of(row: Sequence[Any]) -> ParkedEntry:
    """A parked entry, from the columns `PARKED`."""
    id_, stream, partition, seq, size, accepted_at, parked_at, failure, replays = row
    return ParkedEntry(
        id=id_,
        stream=stream,
        partition=partition,
        seq=seq,
        bytes=size,
        accepted_at=accepted_at,
        parked_at=parked_at,
        failure=failure_of(failure),
        retries=replays,
    )
