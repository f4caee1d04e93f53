"""The states of runs and workflows, and the transitions between them. Pure.

A run is one segment of work; a workflow is the chain of runs from start to end, and every resume is
a new run. Both use these states. The database refuses what this table doesn't allow (a trigger with
the same table, migration 0022; a test compares the two).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from surgetank.exceptions import InvalidTransition


class Status(StrEnum):
    """Where a run or a workflow stands."""

    PENDING = "pending"
    RUNNING = "running"
    AWAITING_CHECKPOINT = "awaiting_checkpoint"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


_S = Status
RUN_TRANSITIONS: Mapping[Status, frozenset[Status]] = MappingProxyType(
    {
        _S.PENDING: frozenset({_S.RUNNING, _S.FAILED, _S.CANCELLED}),
        # pending again: its worker gave it back or went silent
        _S.RUNNING: frozenset(
            {_S.PENDING, _S.AWAITING_CHECKPOINT, _S.COMPLETED, _S.FAILED, _S.CANCELLED}
        ),
        _S.AWAITING_CHECKPOINT: frozenset(),  # the answer begins a new run
        _S.COMPLETED: frozenset(),
        _S.FAILED: frozenset(),
        _S.CANCELLED: frozenset(),
    }
)
WORKFLOW_TRANSITIONS: Mapping[Status, frozenset[Status]] = MappingProxyType(
    {
        **RUN_TRANSITIONS,
        # answered; or given up
        _S.AWAITING_CHECKPOINT: frozenset({_S.PENDING, _S.FAILED, _S.CANCELLED}),
        _S.FAILED: frozenset({_S.PENDING}),  # tried again by somebody
    }
)
ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})  # of a workflow


def check_transition(
    before: Status, after: Status, table: Mapping[Status, frozenset[Status]], what: str
) -> None:
    """Raise `InvalidTransition` for one that the table doesn't have."""
    if after not in table[before]:
        raise InvalidTransition(what, before.value, after.value, sorted(table[before]))


def wire_status(status: Status, *, timed_out: bool = False) -> str:
    """The state of a run as clients of the Agent Server API know it."""
    if status is Status.FAILED:
        return "timeout" if timed_out else "error"
    return {
        Status.PENDING: "pending",
        Status.RUNNING: "running",
        Status.AWAITING_CHECKPOINT: "success",  # and the thread is `interrupted`
        Status.COMPLETED: "success",
        Status.CANCELLED: "interrupted",
    }[status]
