"""What graphs ask people: the inbox, decisions, figures.

Who may see a thread sees what it asks; who owns it, is named as the one who shall answer, or has the
role that shall, sees it and decides.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query

from surgetank.server.access import questions
from surgetank.server.access.authorizing import AskedRoute
from surgetank.server.access.roles import Role
from surgetank.server.dependencies import After, CurrentCaller, Deps, Limit, signed_in
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import documented
from surgetank.server.schemas.approvals import (
    AssignBody,
    CheckpointStatus,
    Kind,
    ResolveBody,
    Resolved,
    Stats,
    UserCheckpointAnswer,
    UserCheckpoints,
)
from surgetank.workflows.approvals.rows import UserCheckpoint

router = APIRouter(
    route_class=AskedRoute,
    prefix="/user-checkpoints",
    tags=["approvals"],
    dependencies=signed_in(),
    responses=documented(401, 403, 404, 409, 422, 429, 503),
)
Name = Annotated[str | None, Query(max_length=2048, pattern=r"^[^\x00]*$")]


@router.get("", response_model=UserCheckpoints)
def inbox(
    services: Deps,
    who: CurrentCaller,
    limit: Limit = 50,
    after: After = None,
    status: CheckpointStatus | None = None,
    kind: Kind | None = None,
    assignee: Name = None,
    role: Name = None,
    step: Name = None,
    thread_id: Name = None,
    expires_before: datetime | None = None,
) -> dict[str, Any]:
    """Questions of the caller's threads, and those that the caller shall answer; of all threads for
    administrators. Those that wait longest come first."""
    at = position(after, int)
    found = services.tank.approvals(
        after=max(0, min(at[0], 2**62)) if at else 0,
        limit=limit + 1,
        status=status,
        kind=kind,
        assignee=assignee,
        role=role,
        step=step,
        thread_id=thread_id,
        expires_before=expires_before,
        **questions.asked_of(who),
    )
    shown = found[:limit]
    seen = questions.seen(services, who, shown) if who.filters else shown
    return {
        "user_checkpoints": [UserCheckpointAnswer.model_validate(row) for row in seen],
        "next": cursor(shown[-1].checkpoint_number) if len(found) > limit else None,
    }


@router.get("/stats", response_model=Stats)
def stats(services: Deps, who: CurrentCaller) -> dict[str, Any]:
    """What became of questions, by assistant and step: counts by outcome, how long people took, and
    which share was edited."""
    owner = None if who.role.covers(Role.OPERATOR) else who.user
    metadata = who.filters.get("threads")
    return {"steps": services.tank.approvals.stats(owner=owner, thread_metadata=metadata)}


@router.get("/{checkpoint_id}", response_model=UserCheckpointAnswer)
def one(checkpoint_id: UUID, services: Deps, who: CurrentCaller) -> UserCheckpoint:
    """One question, with what may be decided about each action."""
    return questions.visible(services, who, checkpoint_id)


@router.post("/{checkpoint_id}/resolve", response_model=Resolved)
def resolve(
    checkpoint_id: UUID, body: ResolveBody, services: Deps, who: CurrentCaller
) -> dict[str, Any]:
    """Decide. 409 when somebody else was faster, or the time is over; 422 for what is not allowed,
    and nothing is written then."""
    row = questions.visible(services, who, checkpoint_id)
    questions.check_may_decide(who, row)
    after, run = services.tank.approvals.resolve(
        checkpoint_id, body.action, actor=who.user, edited=body.user_edited_content,
        notes=body.user_notes, response=body.response, partial=body.partial,
    )  # fmt: skip
    return {
        "user_checkpoint": UserCheckpointAnswer.model_validate(after),
        "run_id": run.run_id if run is not None else None,
    }


@router.post("/{checkpoint_id}/assign", response_model=UserCheckpointAnswer)
def assign(
    checkpoint_id: UUID, body: AssignBody, services: Deps, who: CurrentCaller
) -> UserCheckpoint:
    """Say who shall answer: a user, a role, or nobody in particular."""
    questions.visible(services, who, checkpoint_id)
    return services.tank.approvals.assign(
        checkpoint_id, assignee=body.assignee, role=body.role, actor=who.user
    )
