"""The buffer, for operators: how full it is, how far behind the database, what fails; and flushing
now."""

from __future__ import annotations

from functools import partial
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Depends

from surgetank.server.access.disclosure import job_for, status_for
from surgetank.server.access.roles import Role
from surgetank.server.dependencies import CurrentCaller, Deps, require, signed_in
from surgetank.server.http.problems import Problem, documented
from surgetank.server.schemas.answers import (
    FlushedJobs,
    FlushMatching,
    FlushRequest,
    Job,
    Picture,
)
from surgetank.server.services import Services

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
    _check_stream(services, wanted.stream)
    job = await to_thread.run_sync(
        services.tank.flush, wanted.stream, wanted.partition, limiter=services.flushing
    )
    return job_for(who, job)


@router.post("/flush/matching", response_model=FlushedJobs)
async def flush_matching(
    services: Deps, who: CurrentCaller, wanted: FlushMatching
) -> dict[str, Any]:
    """Flush now a part of what waits: of threads and tables with this in their name, or of those that
    failed the last time; at most 1,000 of them, those that wait longest. The answer are the jobs."""
    _check_stream(services, wanted.stream)
    flush = partial(
        services.tank.jobs.flush_matching,
        stream=wanted.stream, text=wanted.text, failing=wanted.failing,
    )  # fmt: skip
    jobs = await to_thread.run_sync(flush, limiter=services.flushing)
    return {"jobs": [job_for(who, job) for job in jobs]}


def _check_stream(services: Services, stream: str | None) -> None:
    streams = services.tank.streams
    if stream is not None and stream not in streams:
        raise Problem(
            422, "unknown-stream", f"There is no stream {stream!r}.",
            remedy=f"streams: {', '.join(streams)}.",
        )  # fmt: skip
