"""Who the caller is, and tickets for WebSockets."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends
from starlette.concurrency import run_in_threadpool

from surgetank.server.access.identify import Asked
from surgetank.server.access.roles import Role
from surgetank.server.dependencies import CurrentCaller, Deps, asked_of, signed_in
from surgetank.server.http.problems import check_role, documented
from surgetank.server.schemas.answers import Me, Ticket, TicketFor

router = APIRouter(tags=["access"], dependencies=signed_in(), responses=documented(401, 429, 503))


@router.get("/me", response_model=Me)
async def me(who: CurrentCaller) -> dict[str, Any]:
    """The user and the role of the token that was sent."""
    return {"user": who.user, "role": who.role, "token_id": who.token_id}


@router.post(
    "/ws/ticket", response_model=Ticket, status_code=201, responses=documented(403, 409, 422)
)
async def ticket(
    who: CurrentCaller,
    services: Deps,
    asked: Annotated[Asked, Depends(asked_of)],
    wanted: TicketFor | None = None,
) -> dict[str, Any]:
    """A ticket for one WebSocket or event stream of a browser, which can't send headers there.

    It is good for 30 seconds, for one connection, and no longer than its token:
    `/ws/events?ticket=...`. An answer kept for an `Idempotency-Key` has no ticket: ask for another.

    The backend of an application, with the token of an administrator, may ask on behalf of one of its
    users: such a ticket is good for the events of one thread, if it is that user's, and for nothing else.
    """
    if wanted is not None:
        check_role(who, Role.ADMIN)
        who = replace(
            who, user=wanted.user, role=Role.VIEWER, given=None, filters={}, only=wanted.thread_id
        )
    made, until = await run_in_threadpool(services.tickets.issue, who)
    asked.keep_instead = orjson.dumps({"ticket": None, "expires_at": until})
    return {"ticket": made, "expires_at": until}
