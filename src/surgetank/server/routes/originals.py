"""Values as they were before projections replaced them, for administrators (debug mode)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from surgetank.server.dependencies import Admin, Deps, Limit, signed_in
from surgetank.server.http.problems import documented
from surgetank.server.schemas.telling import Originals

router = APIRouter(
    prefix="/admin",
    tags=["system errors"],
    dependencies=signed_in(),
    responses=documented(401, 403, 422, 429, 503),
)


@router.get("/originals", response_model=Originals)
def originals(
    _: Admin,
    services: Deps,
    limit: Limit = 100,
    thread_id: Annotated[
        str | None, Query(max_length=2048, description="Only of this thread.")
    ] = None,
) -> dict[str, Any]:
    """What projections for SQL replaced, newest first. Kept in debug mode only, and for a while
    only."""
    found = services.tank.events.originals(thread_id=thread_id, limit=limit)
    return {
        "debug_mode": services.settings.debug_originals,
        "originals": [asdict(o) for o in found],
    }
