"""Who did what: for operators, and all of it for administrators."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from surgetank.server.dependencies import Admin, After, Deps, Limit, Operator, signed_in
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import documented
from surgetank.server.schemas.audit import AuditRows
from surgetank.workflows.audit import AuditFilter, plain

router = APIRouter(
    prefix="/audit",
    tags=["audit"],
    dependencies=signed_in(),
    responses=documented(401, 403, 422, 429, 503),
)
_TEXT: dict[str, Any] = {"max_length": 2048, "pattern": r"^[^\x00]*$"}
Since = Annotated[
    float | None,
    Query(ge=-1e10, le=1e11, allow_inf_nan=False, description="Not before (epoch seconds)."),
]


@router.get("", response_model=AuditRows)
def audit(
    _: Operator,
    services: Deps,
    limit: Limit = 50,
    after: After = None,
    workflow_id: Annotated[UUID | None, Query(description="Only of this workflow.")] = None,
    thread_id: Annotated[str | None, Query(**_TEXT, description="Only of this thread.")] = None,
    actor: Annotated[str | None, Query(**_TEXT, description="Only what they did.")] = None,
    since: Since = None,
) -> dict[str, Any]:
    """Rows of the audit, newest first."""
    at = position(after, int)
    found = services.tank.audit.list(
        AuditFilter(workflow=workflow_id, thread=thread_id, actor=actor, since=since),
        before=max(0, min(at[0], 2**62)) if at else None,
        limit=limit + 1,
    )
    rows = [plain(row) for row in found[:limit]]
    return {
        "count": len(rows),
        "audit": rows,
        "next": cursor(rows[-1]["id"]) if len(found) > limit else None,
    }


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}},
)
def export(_: Admin, services: Deps, since: Since = None) -> StreamingResponse:
    """The audit as JSON lines, oldest first, with the numbers and hashes of its chains."""
    lines = services.tank.audit.export(since=since)
    return StreamingResponse((line + "\n" for line in lines), media_type="application/x-ndjson")
