"""Metrics for Prometheus, which sends a token like everybody else."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from surgetank.observability.metrics import render
from surgetank.server.dependencies import Deps, Operator, signed_in
from surgetank.server.http.problems import documented

router = APIRouter(
    tags=["operations"], dependencies=signed_in(), responses=documented(401, 403, 429, 501, 503)
)
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "description": "Prometheus text.",
        }
    },
)
def metrics(_: Operator, services: Deps) -> Response:
    """All metrics in the text format of Prometheus. Needs an operator's token."""
    return Response(render(services.tank), media_type=_TEXT)
