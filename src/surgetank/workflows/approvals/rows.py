"""User checkpoints and workflows as they are stored."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from surgetank.workflows.approvals.offers import Offer, offer_of

OPEN = "pending"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCheckpoint:
    """A question to people, and its answer. Times are the database's."""

    checkpoint_id: uuid.UUID
    checkpoint_number: int
    interrupt_id: str
    thread_id: str
    workflow_id: uuid.UUID
    run_id: uuid.UUID
    task_id: str | None
    step_name: str | None
    namespace: Sequence[str]
    iteration: int
    assistant_id: str
    owner: str | None
    kind: str
    agent_outputs: Any
    instructions: str | None
    actions: Sequence[Mapping[str, Any]]
    editable_content: Any
    response_schema: Mapping[str, Any] | None
    status: str
    user_edited_content: Any
    user_notes: str | None
    diff: Any
    assignee: str | None
    assigned_role: str | None
    approvals_needed: int
    first_approver: str | None
    expires_at: datetime | None
    default_action: str | None
    delivered_by: uuid.UUID | None
    created_at: datetime
    resolved_at: datetime | None
    resolved_by: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> UserCheckpoint:
        """From a row of the table."""
        return cls(**{name: row[name] for name in cls.__slots__})

    @property
    def offer(self) -> Offer:
        """What may be decided."""
        return offer_of(self.agent_outputs, self.response_schema)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """A chain of runs from its start to its end."""

    workflow_id: uuid.UUID
    thread_id: str
    assistant_id: str
    owner: str | None
    status: str
    error: str | None
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Workflow:
        """From a row of the table."""
        return cls(**{name: row[name] for name in cls.__slots__})
