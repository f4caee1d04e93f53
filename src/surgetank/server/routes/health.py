"""Is the server alive, can it serve, and what is degraded. Public: says nothing of names, addresses or data."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from surgetank.exceptions import BufferProblem, ConfigurationError, SinkError
from surgetank.model import BufferDepth
from surgetank.server.dependencies import Deps
from surgetank.server.models import Live, Ready
from surgetank.server.services import Services

router = APIRouter(prefix="/health", tags=["health"])
_NEARLY = 0.8


@router.get("/live", response_model=Live)
async def live() -> dict[str, str]:
    """The process answers. Restart it when this fails."""
    return {"status": "alive"}


@router.get(
    "/ready", response_model=Ready, responses={503: {"model": Ready, "description": "Nothing can be served."}}
)
def ready(services: Deps) -> JSONResponse:
    """Whether requests can be served.

    200 with `degraded` while the database is down: what is hot is served and writes wait safely. 503 with
    `unavailable` when the buffer can't be read.
    """
    components: dict[str, dict[str, str]] = {"database": _database(services)}
    try:
        depth = services.tank.parts.buffer.depth()
        components["buffer"] = _buffer(depth)
        components["flush"] = _flush(services, depth)
    except BufferProblem:
        components["buffer"] = _say("down", "can't be read; see the server's log")
    states = {component["status"] for component in components.values()}
    status = "ready" if states == {"ok"} else "degraded"
    if components["buffer"]["status"] == "down":
        status = "unavailable"
    body: dict[str, Any] = {"status": status, "components": components}
    return JSONResponse(body, 503 if status == "unavailable" else 200, {"Cache-Control": "no-store"})


def _say(status: str, detail: str) -> dict[str, str]:
    return {"status": status, "detail": detail}


def _database(services: Services) -> dict[str, str]:
    try:
        with services.database.connection() as connection:
            connection.execute("SELECT 1")
    except (SinkError, ConfigurationError):
        return _say("down", "can't be used; what is hot is served, what is written waits in the buffer")
    return _say("ok", "answers")


def _buffer(depth: BufferDepth) -> dict[str, str]:
    share = max(depth.bytes / depth.max_bytes, depth.entries / depth.max_entries)
    if share >= _NEARLY:
        return _say("degraded", f"{share:.0%} full; at 100 % new writes wait or fail")
    return _say("ok", "accepts and serves")


def _flush(services: Services, depth: BufferDepth) -> dict[str, str]:
    settings, scheduler = services.settings, services.tank.parts.scheduler
    if settings.flush_in_process and not scheduler.running:
        return _say("down", "the flush thread ended; restart the server")
    failing, parked = (sum(getattr(s, name) for s in depth.streams) for name in ("failing", "parked"))
    if failing or parked:
        return _say("degraded", f"{failing} partitions fail, {parked} entries are parked; nothing is lost")
    return _say("ok", "up to date" if not depth.entries else "under way")
