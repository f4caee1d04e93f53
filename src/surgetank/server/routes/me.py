"""Who the caller is, and tickets for WebSockets."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from surgetank.server.dependencies import CurrentCaller, Deps, signed_in
from surgetank.server.models import Me, Ticket
from surgetank.server.problems import documented

router = APIRouter(tags=["access"], dependencies=signed_in(), responses=documented(401, 429, 503))


@router.get("/me", response_model=Me)
async def me(who: CurrentCaller) -> dict[str, Any]:
    """The user and the role of the token that was sent."""
    return {"user": who.user, "role": who.role, "token_id": who.token_id}


@router.post("/ws/ticket", response_model=Ticket, status_code=201, responses=documented(409, 422))
async def ticket(who: CurrentCaller, services: Deps) -> dict[str, Any]:
    """A ticket for one WebSocket or event stream of a browser, which can't send headers there.

    It is good for 30 seconds and for one connection: `/ws/events?ticket=...`.
    """
    made, until = services.tickets.issue(who)
    return {"ticket": made, "expires_at": until}
