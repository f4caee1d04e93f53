"""Is the server alive, can it serve, and what is degraded. Public: says nothing of names, addresses
or data."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from surgetank.exceptions import BufferProblem
from surgetank.notify.health import Finding, Level
from surgetank.server.dependencies import Deps
from surgetank.server.schemas.agent import InfoAnswer, OkAnswer
from surgetank.server.schemas.answers import Live, Ready

router = APIRouter(prefix="/health", tags=["health"])
agent_router = APIRouter(tags=["health"])
_PARTS = ("database", "buffer", "flush")


@router.get("/live", response_model=Live)
async def live() -> dict[str, str]:
    """The process answers. Restart it when this fails."""
    return {"status": "alive"}


@router.get(
    "/ready",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "Nothing can be served."}},
)
def ready(services: Deps) -> JSONResponse:
    """Whether requests can be served.

    200 with `degraded` while the database is down: what is hot is served and writes wait safely.
    503 with `unavailable` when the buffer can't be read.
    """
    try:
        health = services.tank.status(ping=True, jobs=1).health
    except BufferProblem:
        components = {"buffer": {"status": "down", "detail": "can't be read; see the server's log"}}
        status = "unavailable"
    else:
        components = {part: _component(health.of(part)) for part in _PARTS}
        status = "ready" if health.level is Level.OK else "degraded"
        if health.of("buffer").down:
            status = "unavailable"
    body: dict[str, Any] = {"status": status, "components": components}
    return JSONResponse(
        body, 503 if status == "unavailable" else 200, {"Cache-Control": "no-store"}
    )


def _component(finding: Finding) -> dict[str, str]:
    status = "down" if finding.down else "ok" if finding.level is Level.OK else "degraded"
    return {"status": status, "detail": finding.detail}


@agent_router.get("/ok", response_model=OkAnswer)
async def ok() -> dict[str, bool]:
    """The process answers, as clients of LangGraph's server ask it."""
    return {"ok": True}


@agent_router.get("/info", response_model=InfoAnswer)
async def info(services: Deps) -> dict[str, Any]:
    """What this server is, for clients that look what it can."""
    return {
        "version": version("surgetank"),
        "flags": {"assistants": services.graphs is not None, "crons": services.graphs is not None},
        "host": {"kind": "surgetank"},
    }
