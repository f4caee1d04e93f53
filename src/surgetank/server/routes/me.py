"""Who the caller is, and tickets for WebSockets."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends
from starlette.concurrency import run_in_threadpool

from surgetank.server.access.identify import Asked
from surgetank.server.dependencies import CurrentCaller, Deps, asked_of, signed_in
from surgetank.server.http.problems import documented
from surgetank.server.schemas.answers import Me, Ticket

router = APIRouter(tags=["access"], dependencies=signed_in(), responses=documented(401, 429, 503))


@router.get("/me", response_model=Me)
async def me(who: CurrentCaller) -> dict[str, Any]:
    """The user and the role of the token that was sent."""
    return {"user": who.user, "role": who.role, "token_id": who.token_id}


@router.post("/ws/ticket", response_model=Ticket, status_code=201, responses=documented(409, 422))
async def ticket(
    who: CurrentCaller, services: Deps, asked: Annotated[Asked, Depends(asked_of)]
) -> dict[str, Any]:
    """A ticket for one WebSocket or event stream of a browser, which can't send headers there.

    It is good for 30 seconds, for one connection, and no longer than its token:
    `/ws/events?ticket=...`. An answer kept for an `Idempotency-Key` has no ticket: ask for another.
    """
    made, until = await run_in_threadpool(services.tickets.issue, who)
    asked.keep_instead = orjson.dumps({"ticket": None, "expires_at": until})
    return {"ticket": made, "expires_at": until}
