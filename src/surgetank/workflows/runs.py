"""Runs: what is accepted, and what is stored of it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from surgetank.workflows.status import Status

# The ways in which a run sends what it does (workflows/streaming.py).
STREAM_MODES = frozenset(
    {"values", "updates", "custom", "debug", "tasks", "checkpoints", "events", "messages"}
    | {"messages-tuple"}
)
# In `kwargs`: the user whom the project's own handler let in. Clients neither set nor see it.
AUTH_USER = "__auth_user"


class Strategy(StrEnum):
    """What a new run does about one of its thread that is not over (`multitask_strategy`)."""

    REJECT = "reject"  # it is refused
    ENQUEUE = "enqueue"  # it waits
    INTERRUPT = "interrupt"  # the others end, their steps stay
    ROLLBACK = "rollback"  # the others end, their steps go


class CancelAction(StrEnum):
    """How a run ends that was asked to end."""

    INTERRUPT = "interrupt"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run to be accepted. With a `workflow_id` that exists it goes on with that workflow.

    `after_s`: not before so many seconds. `make_thread`: a thread that isn't there is made, a
    `temporary` one for this run only. `thread_metadata` is added to that of the thread. `graph_id`
    names the graph; without it the assistant is called like its graph.
    """

    thread_id: str
    assistant_id: str
    graph_id: str | None = None
    owner: str | None = None
    run_id: uuid.UUID = field(default_factory=uuid.uuid4)
    workflow_id: uuid.UUID = field(default_factory=uuid.uuid4)
    strategy: Strategy = Strategy.ENQUEUE
    priority: int = 0
    after_s: float = 0.0
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    max_attempts: int = 3
    timeout_s: float | None = None
    make_thread: bool = True
    temporary: bool = False
    thread_metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as it is stored. `fence` grows with each claim of its thread: who has an older one can't
    write."""

    run_id: uuid.UUID
    seq: int
    workflow_id: uuid.UUID
    thread_id: str
    assistant_id: str
    graph_id: str | None
    owner: str | None
    status: Status
    multitask_strategy: Strategy
    priority: int
    kwargs: Mapping[str, Any]
    metadata: Mapping[str, Any]
    timeout_s: float | None
    attempts: int
    max_attempts: int
    fence: int
    worker: str | None
    lease_until: datetime | None
    cancel_action: CancelAction | None
    cancel_actor: str | None
    timed_out: bool
    error: str | None
    created_at: datetime
    due_at: datetime
    updated_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def graph(self) -> str:
        """The name of its graph."""
        return self.graph_id or self.assistant_id

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Run:
        """From a row of the table."""
        action = row["cancel_action"]
        return cls(
            **{
                **row,
                "status": Status(row["status"]),
                "multitask_strategy": Strategy(row["multitask_strategy"]),
                "cancel_action": CancelAction(action) if action is not None else None,
            }
        )
