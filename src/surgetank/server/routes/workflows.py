"""Workflows: chains of runs from their start to their end, with approvals and audit."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query

from surgetank.server.access.authorizing import AskedRoute
from surgetank.server.access.roles import Caller, Role
from surgetank.server.dependencies import After, CurrentCaller, Deps, Limit, signed_in
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import Problem, documented, not_found
from surgetank.server.schemas.approvals import (
    UserCheckpointAnswer,
    WorkflowAnswer,
    WorkflowCancelled,
    WorkflowDetail,
    WorkflowPage,
    WorkflowRetried,
    WorkflowStatus,
)
from surgetank.server.services import Services
from surgetank.workflows.approvals.rows import Workflow
from surgetank.workflows.status import Status
from surgetank.workflows.wire import run_json

router = APIRouter(
    route_class=AskedRoute,
    prefix="/workflows",
    tags=["workflows"],
    dependencies=signed_in(),
    responses=documented(401, 403, 404, 409, 422, 429, 503),
)
Name = Annotated[str | None, Query(max_length=2048, pattern=r"^[^\x00]*$")]


def _visible(services: Services, who: Caller, workflow_id: UUID) -> Workflow:
    flow = services.tank.workflows.get(workflow_id)
    if not services.visibility.reads(who, flow.thread_id):
        raise not_found("workflow", str(workflow_id), remedy="see GET /workflows.")
    return flow


@router.get("", response_model=WorkflowPage)
def workflows(
    services: Deps,
    who: CurrentCaller,
    limit: Limit = 50,
    after: After = None,
    status: WorkflowStatus | None = None,
    assistant_id: Name = None,
    thread_id: Name = None,
    since: datetime | None = None,
) -> dict[str, Any]:
    """Workflows of the caller, of all for administrators, newest first."""
    found = services.tank.workflows(
        status=Status(status) if status is not None else None,
        assistant_id=assistant_id,
        thread_id=thread_id,
        owner=None if who.role is Role.ADMIN else who.user,
        since=since,
        before=_before(after),
        limit=limit + 1,
    )
    shown = found[:limit]
    last = shown[-1] if len(found) > limit else None
    mine = {flow.thread_id for flow in shown}
    if who.filters:
        mine = services.visibility.readable(who, mine)
    return {
        "workflows": [
            WorkflowAnswer.model_validate(flow) for flow in shown if flow.thread_id in mine
        ],
        "next": cursor(last.created_at.isoformat(), str(last.workflow_id)) if last else None,
    }


def _before(after: str | None) -> tuple[datetime, UUID] | None:
    at = position(after, str, str)
    if at is None:
        return None
    try:
        return datetime.fromisoformat(at[0]), UUID(at[1])
    except ValueError:
        raise Problem(
            400, "bad-cursor", "The cursor can't be used.",
            remedy="pass `next` of the page before, unchanged.",
        ) from None  # fmt: skip


@router.get("/{workflow_id}", response_model=WorkflowDetail)
def workflow(workflow_id: UUID, services: Deps, who: CurrentCaller) -> dict[str, Any]:
    """One workflow with its runs, what it asked people, and who did what."""
    flow = _visible(services, who, workflow_id)
    tank = services.tank
    return {
        **WorkflowAnswer.model_validate(flow).model_dump(),
        "runs": [run_json(run) for run in tank.workflows.runs(workflow_id)],
        "user_checkpoints": [
            UserCheckpointAnswer.model_validate(row)
            for row in tank.workflows.approvals(workflow_id)
        ],
        "audit": tank.runs.audit(workflow_id),
    }


@router.post("/{workflow_id}/cancel", response_model=WorkflowCancelled)
def cancel(workflow_id: UUID, services: Deps, who: CurrentCaller) -> dict[str, bool]:
    """End a workflow, also one that waits for people. 409 when it has ended."""
    _visible(services, who, workflow_id)
    return {"ended": services.tank.workflows.cancel(workflow_id, actor=who.user)}


@router.post("/{workflow_id}/retry", response_model=WorkflowRetried)
def retry(workflow_id: UUID, services: Deps, who: CurrentCaller) -> dict[str, UUID]:
    """Go on with a failed workflow from its last checkpoint. 409 for one that has not failed."""
    _visible(services, who, workflow_id)
    return {"run_id": services.tank.workflows.retry(workflow_id, actor=who.user).run_id}
