"""Bodies and answers of questions to people, and of workflows."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, StringConstraints(max_length=20_000, pattern=r"^[^\x00]*$")]
Person = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
CheckpointStatus = Literal[
    "pending", "approved", "edited", "rejected", "responded", "ignored", "expired", "superseded"
]
Kind = Literal["batched", "tool_approval", "agent_inbox", "schema", "free"]
WorkflowStatus = Literal[
    "pending", "running", "awaiting_checkpoint", "completed", "failed", "cancelled"
]


class ResolveBody(BaseModel):
    """A decision. `response` is an answer in words or of the form that `response_schema` asks; for
    a batch it may be `{"decisions": [...]}`, one for each action."""

    action: Literal["approve", "edit", "reject", "respond", "ignore"]
    user_edited_content: Any = None
    user_notes: Text | None = None
    response: Any = None
    partial: bool = Field(
        default=False, description="Let the graph go on though other questions are open."
    )


class AssignBody(BaseModel):
    """Who shall answer."""

    assignee: Person | None = None
    role: Person | None = None


class UserCheckpointAnswer(BaseModel):
    """A question to people, and its answer."""

    model_config = ConfigDict(from_attributes=True)
    checkpoint_id: UUID
    checkpoint_number: int
    interrupt_id: str
    thread_id: str
    workflow_id: UUID
    run_id: UUID
    step_name: str | None
    iteration: int
    assistant_id: str
    owner: str | None
    kind: Kind
    agent_outputs: Any
    instructions: str | None
    actions: list[dict[str, Any]]
    editable_content: Any
    response_schema: Any
    status: CheckpointStatus
    user_edited_content: Any
    user_notes: str | None
    diff: Any
    assignee: str | None
    assigned_role: str | None
    approvals_needed: int
    first_approver: str | None
    expires_at: datetime | None
    default_action: str | None
    created_at: datetime
    resolved_at: datetime | None
    resolved_by: str | None


class UserCheckpoints(BaseModel):
    """Questions, those that wait longest first."""

    user_checkpoints: list[UserCheckpointAnswer]
    next: str | None


class Resolved(BaseModel):
    """A decided question, and the run by which the graph goes on: none while others are open, or a
    second person is needed."""

    user_checkpoint: UserCheckpointAnswer
    run_id: UUID | None


class StepStats(BaseModel):
    """What became of the questions of one step, in the last 30 days. Times are seconds."""

    assistant_id: str
    step_name: str | None
    asked: int
    pending: int
    approved: int
    edited: int
    rejected: int
    responded: int
    ignored: int
    expired: int
    superseded: int
    p50_s: float | None
    p95_s: float | None
    share_edited: float | None


class Stats(BaseModel):
    """By assistant and step."""

    steps: list[StepStats]


class WorkflowAnswer(BaseModel):
    """A chain of runs from its start to its end."""

    model_config = ConfigDict(from_attributes=True)
    workflow_id: UUID
    thread_id: str
    assistant_id: str
    owner: str | None
    status: WorkflowStatus
    error: str | None
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None


class WorkflowPage(BaseModel):
    """Workflows, newest first."""

    workflows: list[WorkflowAnswer]
    next: str | None


class WorkflowDetail(WorkflowAnswer):
    """A workflow with all that belongs to it."""

    runs: list[dict[str, Any]]
    user_checkpoints: list[UserCheckpointAnswer]
    audit: list[dict[str, Any]]


class WorkflowCancelled(BaseModel):
    """Whether it has ended; false: its worker has to end it."""

    ended: bool


class WorkflowRetried(BaseModel):
    """The run that goes on with it."""

    run_id: UUID
