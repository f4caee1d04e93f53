"""The buffer, for operators: how full it is, how far behind the database, what fails; and flushing
now."""

from __future__ import annotations

from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Depends

from surgetank.server.access.disclosure import job_for, status_for
from surgetank.server.access.roles import Role
from surgetank.server.dependencies import CurrentCaller, Deps, require, signed_in
from surgetank.server.http.problems import Problem, documented
from surgetank.server.schemas.answers import FlushRequest, Job, Picture

router = APIRouter(
    tags=["buffer"],
    dependencies=signed_in(Depends(require(Role.OPERATOR))),
    responses=documented(401, 403, 422, 429, 503),
)


@router.get("/buffer", response_model=Picture)
def buffer(services: Deps, who: CurrentCaller) -> dict[str, Any]:
    """How much waits, how long already, what fails, the last jobs and what users should be told:
    `surgetank status`."""
    return status_for(who, services.tank.status())


@router.post("/flush", response_model=Job, responses=documented(409))
async def flush(
    services: Deps, who: CurrentCaller, wanted: FlushRequest | None = None
) -> dict[str, Any]:
    """Flush now what waits, also what is not due yet, and wait for it.

    The answer is the job, also when it failed: what could not be written stays in the buffer. Each
    stream has a job of its own; of several, the answer is the first that did not go through, else
    that of the checkpoints.
    """
    wanted = wanted or FlushRequest.model_validate({})
    streams = services.tank.streams
    if wanted.stream is not None and wanted.stream not in streams:
        raise Problem(
            422,
            "unknown-stream",
            f"There is no stream {wanted.stream!r}.",
            remedy=f"streams: {', '.join(streams)}.",
        )
    job = await to_thread.run_sync(
        services.tank.flush, wanted.stream, wanted.partition, limiter=services.flushing
    )
    return job_for(who, job)
