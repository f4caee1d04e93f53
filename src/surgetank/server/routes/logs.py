"""The logs of threads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from surgetank.server.access.authorizing import AskedRoute
from surgetank.server.access.disclosure import log_problem_for
from surgetank.server.dependencies import CurrentCaller, Deps, VisibleThread, signed_in
from surgetank.server.http.problems import documented
from surgetank.server.live.banners import incidents_of
from surgetank.server.schemas.telling import Lines

router = APIRouter(
    route_class=AskedRoute,
    prefix="/threads",
    tags=["threads"],
    dependencies=signed_in(),
    responses=documented(401, 403, 404, 422, 429, 503),
)
Level = Literal["debug", "info", "warning", "error", "critical"]
_MOST = 2**53


@router.get("/{thread_id:name}/logs", response_model=Lines)
def logs(
    thread_id: VisibleThread,
    services: Deps,
    who: CurrentCaller,
    after: Annotated[int, Query(ge=0, le=_MOST, description="Lines after this number.")] = 0,
    before: Annotated[
        int | None, Query(ge=1, le=_MOST, description="The last lines before this number.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most lines in one answer.")] = 200,
    level: Annotated[
        list[Level] | None, Query(max_length=5, description="Only these levels.")
    ] = None,
) -> dict[str, Any]:
    """Lines of the thread's log in order, those that are not in the database yet included."""
    page = services.tank.logs(thread_id, after=after, before=before, limit=limit, levels=level)
    lines = page.lines
    return {
        "thread_id": thread_id,
        "lines": [line.to_dict() for line in lines],
        "incidents": incidents_of(services, who, thread_id),
        "problem": log_problem_for(who, page.problem),
        "next": lines[-1].seq if lines else after,
        "previous": lines[0].seq if lines else before,
    }
