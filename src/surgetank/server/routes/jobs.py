"""Flush jobs, for operators: what was saved, what was not and why, and another try."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Query

from surgetank.model import FlushJob, JobStatus
from surgetank.server.access.disclosure import job_for
from surgetank.server.access.roles import Caller, Role
from surgetank.server.dependencies import After, CurrentCaller, Deps, Limit, require, signed_in
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import documented
from surgetank.server.schemas.answers import Job, JobRetry, Jobs
from surgetank.server.services import Services

router = APIRouter(
    prefix="/jobs",
    tags=["jobs"],
    dependencies=signed_in(Depends(require(Role.OPERATOR))),
    responses=documented(401, 403, 404, 422, 429, 503),
)
JobId = Annotated[str, Path(min_length=1, max_length=100, examples=["3f0e9a7d6c5b4a39"])]
_DETAILS = ("errors", "partitions", "replacements")


def _brief(job: FlushJob, who: Caller) -> dict[str, Any]:
    """A job in a list: without stack traces and replaced values."""
    body = job_for(who, job)
    return {**body, "result": {k: v for k, v in body["result"].items() if k not in _DETAILS}}


@router.get("", response_model=Jobs)
def jobs(
    services: Deps,
    who: CurrentCaller,
    limit: Limit = 50,
    after: After = None,
    status: Annotated[JobStatus | None, Query(description="Only these.")] = None,
    stream: Annotated[str | None, Query(max_length=100, description="Only of this stream.")] = None,
) -> dict[str, Any]:
    """Flush jobs, newest first. Errors with stack traces are in the single job."""
    at = position(after, float, str, int)
    found = services.tank.jobs.page(
        limit + 1, before=(at[0], at[1]) if at else None, seen=at[2] if at else 0, stream=stream,
        status=status.value if status else None,
    )  # fmt: skip
    shown = found[:limit]
    seen = (at[2] if at else 0) + len(shown)
    more = len(found) > limit
    return {
        "jobs": [_brief(job, who) for job in shown],
        "next": cursor(float(shown[-1].created_at), shown[-1].id, seen) if more else None,
    }


@router.get("/{job_id}", response_model=Job)
def job(job_id: JobId, services: Deps, who: CurrentCaller) -> dict[str, Any]:
    """One job with its errors, stack traces and what was replaced in projections (the originals for
    administrators)."""
    return job_for(who, _find(services, job_id))


def _find(services: Services, job_id: str) -> FlushJob:
    return services.tank.jobs.get(job_id, exact=True)


@router.post("/{job_id}/retry", response_model=Job, responses=documented(409))
async def retry(
    job_id: JobId, services: Deps, who: CurrentCaller, wanted: JobRetry | None = None
) -> dict[str, Any]:
    """Flush again what a job was about, or only what failed in it, now, and wait for it. The answer is
    the new job, also when it failed."""
    found = await to_thread.run_sync(_find, services, job_id)
    failed_only = wanted is not None and wanted.failed_only
    again = partial(services.tank.jobs.retry, found.id, failed_only=failed_only)
    made = await to_thread.run_sync(again, limiter=services.flushing)
    return job_for(who, made)
