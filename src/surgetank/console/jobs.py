"""Flush jobs and parked entries: what was saved, what was not and why, and another try."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query
from starlette.responses import RedirectResponse, Response

from surgetank.console.banners import banners_of
from surgetank.console.overview import outcome
from surgetank.console.showing import chosen, show, url
from surgetank.console.visits import OperatorVisit, Visit
from surgetank.model import FlushJob
from surgetank.server.access.disclosure import job_for
from surgetank.server.http.paging import cursor, position

router = APIRouter()
_PAGE = 50
_NO_FAILURE = {
    "partition": "", "message": "", "error_type": "unknown", "sqlstate": None, "attempts": 0,
    "next_attempt_at": None, "remedy": "", "stack_trace": "",
}  # fmt: skip
_STATUSES = ("", "completed", "failed", "running")


@router.get("/jobs")
def jobs(
    visit: OperatorVisit,
    after: str | None = None,
    stream: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """Jobs, newest first."""
    tank = visit.services.tank
    status = chosen(visit.request.query_params, "status", _STATUSES)
    at = position(after, float, str)
    found = tank.jobs(
        limit=visit.services.settings.jobs_kept, stream=stream or None, status=status or None
    )
    rest = [job for job in found if at is None or (job.created_at, job.id) < (at[0], at[1])]
    last = rest[_PAGE - 1] if len(rest) > _PAGE else None
    return show(
        visit,
        "jobs.html",
        page_name="jobs",
        jobs=rest[:_PAGE],
        outcome=outcome,
        statuses=_STATUSES,
        status=status,
        stream=stream,
        streams=tank.streams,
        is_first=after is None,
        next=cursor(float(last.created_at), last.id) if last else None,
        **banners_of(visit.services, visit.caller, None),
    )


@router.get("/jobs/{job_id}")
def job(visit: OperatorVisit, job_id: str) -> Response:
    """One job."""
    found = visit.services.tank.jobs.get(job_id, exact=True)
    return _job(visit, found)


def _job(visit: Visit, found: FlushJob) -> Response:
    return show(
        visit,
        "job.html",
        page_name="jobs",
        job=found,
        result=found.result,
        failures=[{**_NO_FAILURE, **failure} for failure in found.result.errors or ()],
        replaced=[
            (str(each.get("path")), str(each.get("reason")), each.get("original"))
            for each in job_for(visit.caller, found)["result"].get("replacements", ())
        ],
        outcome=outcome,
        can_retry=found.stream in visit.services.tank.streams,
        **banners_of(visit.services, visit.caller, None),
    )


@router.post("/jobs/{job_id}/retry")
async def retry(visit: OperatorVisit, job_id: str) -> Response:
    """Flush again what a job was about; leads to the new job."""
    services = visit.services
    made = await to_thread.run_sync(services.tank.jobs.retry, job_id, limiter=services.flushing)
    return RedirectResponse(url(f"jobs/{made.id}"), 303)


@router.post("/flush")
async def flush(visit: OperatorVisit) -> Response:
    """Flush now what waits; leads to the job."""
    services = visit.services
    made = await to_thread.run_sync(services.tank.flush, limiter=services.flushing)
    return RedirectResponse(url(f"jobs/{made.id}"), 303)


@router.get("/parked")
def parked(visit: OperatorVisit, after: Annotated[int, Query(ge=0, le=2**62)] = 0) -> Response:
    """Entries that were set aside, oldest first."""
    entries = sorted(visit.services.tank.parked(), key=lambda entry: entry.id)
    rest = [entry for entry in entries if entry.id > after]
    return show(
        visit,
        "parked.html",
        page_name="parked",
        entries=rest[:_PAGE],
        total=len(entries),
        next=rest[_PAGE - 1].id if len(rest) > _PAGE else None,
        **banners_of(visit.services, visit.caller, None),
    )


@router.get("/parked/{parked_id}")
def parked_entry(visit: OperatorVisit, parked_id: int) -> Response:
    """One of them: why it was refused, and its records without their values."""
    tank = visit.services.tank
    found = tank.parked.get(parked_id)
    entry = tank.parked.data(parked_id)
    records = [
        (record.key.replace(b"\x00", b" ").decode(errors="replace"), len(record.value))
        for record in (entry.records if entry else ())
    ]
    return show(
        visit,
        "parked_entry.html",
        page_name="parked",
        entry=found,
        records=records,
        **banners_of(visit.services, visit.caller, None),
    )


@router.post("/parked/retry")
async def retry_parked(visit: OperatorVisit) -> Response:
    """Try those again that were chosen, or all; leads to the job."""
    services = visit.services
    fields = visit.fields()
    ids = [int(value) for name, value in fields if name == "id" and value.isdecimal()]
    if not ids and dict(fields).get("all") != "yes":
        return RedirectResponse(url("parked"), 303)
    made = await to_thread.run_sync(
        services.tank.parked.retry, ids or None, limiter=services.flushing
    )
    return RedirectResponse(url(f"jobs/{made.id}" if made is not None else "parked"), 303)
