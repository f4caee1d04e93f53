"""Rows of the SQLite buffer's tables as the nouns of `model.py`, and back. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from surgetank.model import Failure, FailureKind, FlushJob, JobStatus, ParkedEntry, PartitionState

SLOT_BITS = 16
STATE = (
    "stream, name, entries, bytes, oldest_at, attempts, next_attempt_at, failing_since, failure, owner,"
    " lease_until"
)
PARKED = (
    "k.id, p.stream, p.name, k.seq, k.bytes, k.accepted_at, k.parked_at, k.failure, k.replays"
    " FROM parked k JOIN partitions p ON p.id = k.partition_id"
)


def state_of(row: Sequence[Any]) -> PartitionState:
    """A partition's state, from the columns `STATE`."""
    stream, name, entries, size, oldest, attempts, next_at, since, failure, owner, until = row
    return PartitionState(
        stream, name, entries, size, oldest or 0.0, attempts, next_at, since,
        _failure(failure) if failure else None, owner, until,
    )  # fmt: skip


def parked_of(row: Sequence[Any]) -> ParkedEntry:
    """A parked entry, from the columns `PARKED`."""
    id_, stream, partition, seq, size, accepted_at, parked_at, failure, replays = row
    return ParkedEntry(
        id_, stream, partition, seq, size, accepted_at, parked_at, _failure(failure), retries=replays
    )


def failure_json(failure: Failure) -> str:
    """A failure as it is stored."""
    return json.dumps(asdict(failure))


def _failure(text: str) -> Failure:
    body = json.loads(text)
    return Failure(**{**body, "kind": FailureKind(body["kind"])})


def job_of(text: str) -> FlushJob:
    """A job, from its stored form."""
    body = json.loads(text)
    return FlushJob(**{**body, "status": JobStatus(body["status"])})
