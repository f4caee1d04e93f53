"""Flush jobs: what was saved, what was not and why, another try, and how well it went over time."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, RedirectResponse, Response

from surgetank.app.flush_health import FlushHealth, Health
from surgetank.console.banners import banners_of
from surgetank.console.fresh import Fresh
from surgetank.console.overview import outcome
from surgetank.console.showing import chosen, show, url
from surgetank.console.visits import OperatorVisit, Visit
from surgetank.model import FlushJob
from surgetank.server.access.disclosure import job_for
from surgetank.server.http.paging import cursor, position

router = APIRouter()
_PAGE = 50
_FAILING = 20
_NO_FAILURE = {
    "partition": "", "message": "", "error_type": "unknown", "sqlstate": None, "attempts": 0,
    "next_attempt_at": None, "remedy": "", "stack_trace": "",
}  # fmt: skip
_NO_OUTCOME = {
    "partition": "", "entries": 0, "rows": 0, "bytes": 0, "parked": 0, "failed": False,
}  # fmt: skip
_STATUSES = ("", "completed", "failed", "running")
_HOURS = ("24", "1", "168")
_HEALTH_S = 10.0
_CHARTED = 12  # tables with a chart of their own
Text = Annotated[str, Query(max_length=200)]


@router.get("/jobs")
def jobs(visit: OperatorVisit, after: str | None = None, stream: Text = "") -> Response:
    """Jobs, newest first."""
    tank = visit.services.tank
    query = visit.request.query_params
    status = chosen(query, "status", _STATUSES)
    at = position(after, float, str, int)
    found = tank.jobs.page(
        _PAGE + 1, before=(at[0], at[1]) if at else None, seen=at[2] if at else 0,
        stream=stream or None, status=status or None,
    )  # fmt: skip
    shown = found[:_PAGE]
    seen = (at[2] if at else 0) + len(shown)
    more = len(found) > _PAGE
    return show(
        visit,
        "jobs.html",
        page_name="jobs",
        jobs=shown,
        outcome=outcome,
        statuses=_STATUSES,
        status=status,
        stream=stream,
        streams=tank.streams,
        failing=tank.jobs.failing(limit=_FAILING) if after is None else (),
        nothing_waits=query.get("done") == "nothing",
        is_first=after is None,
        next=cursor(float(shown[-1].created_at), shown[-1].id, seen) if more else None,
        **banners_of(visit.services, visit.caller, None),
    )


@router.get("/jobs/health")
def health(visit: OperatorVisit) -> Response:
    """How well it went over time, by stream and by table."""
    hours, found = _health(visit)
    return show(
        visit,
        "jobs_health.html",
        page_name="jobs",
        hours=hours,
        choices=sorted(_HOURS, key=int),
        charted=found.tables[:_CHARTED],
        health=found,
        outcome=outcome,
        **banners_of(visit.services, visit.caller, None),
    )


@router.get("/jobs/health/series")
def health_series(visit: OperatorVisit) -> JSONResponse:
    """What its charts show."""
    _, found = _health(visit)
    return JSONResponse(
        {
            "at": [round(at, 1) for at in found.at],
            "charts": {
                **{f"stream-{each.name}": _bars(each) for each in found.streams},
                **{f"table-{each.name}": _bars(each) for each in found.tables[:_CHARTED]},
            },
        }
    )


def _health(visit: Visit) -> tuple[str, FlushHealth]:
    hours = chosen(visit.request.query_params, "hours", _HOURS)
    tank, fresh = visit.services.tank, _fresh(visit)

    def make() -> FlushHealth:
        now = tank.now()
        return tank.jobs.health(since=now - int(hours) * 3600.0, until=now + 1.0)

    return hours, fresh.get(("health", hours), _HEALTH_S, make)


def _bars(health: Health) -> list[dict[str, Any]]:
    return [
        {"label": "saved everything", "colour": "--ok-bar", "bars": True, "values": health.good},
        {
            "label": "with warnings",
            "colour": "--warning-line",
            "bars": True,
            "values": health.warned,
        },
        {"label": "failed", "colour": "--critical-line", "bars": True, "values": health.failed},
    ]


def _fresh(visit: Visit) -> Fresh:
    found: Fresh = visit.request.app.state.fresh
    return found


@router.get("/jobs/{job_id}")
def job(visit: OperatorVisit, job_id: str) -> Response:
    """One job."""
    found = visit.services.tank.jobs.get(job_id, exact=True)
    return _job(visit, found)


def _job(visit: Visit, found: FlushJob) -> Response:
    result = found.result
    return show(
        visit,
        "job.html",
        page_name="jobs",
        job=found,
        result=result,
        failures=[{**_NO_FAILURE, **failure} for failure in result.errors or ()],
        parts=[{**_NO_OUTCOME, **part} for part in result.partitions or ()],
        is_thread=found.stream in ("checkpoints", "thread_logs"),
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
    """Flush again what a job was about, or only what failed in it; leads to the new job."""
    services = visit.services
    failed_only = visit.form().get("only") == "failed"
    made = await to_thread.run_sync(
        lambda: services.tank.jobs.retry(job_id, failed_only=failed_only),
        limiter=services.flushing,
    )
    return RedirectResponse(url(f"jobs/{made.id}"), 303)


@router.post("/flush")
async def flush(visit: OperatorVisit) -> Response:
    """Flush now what waits, or what of it is asked for; leads to the job, or to the list of several."""
    services, form = visit.services, visit.form()
    tank = services.tank
    if not any(form.get(name) for name in ("stream", "text", "failing")):
        made = await to_thread.run_sync(tank.flush, limiter=services.flushing)
        return RedirectResponse(url(f"jobs/{made.id}"), 303)
    done = await to_thread.run_sync(
        lambda: tank.jobs.flush_matching(
            stream=form.get("stream") or None, text=form.get("text", ""),
            failing=form.get("failing") == "yes",
        ),
        limiter=services.flushing,
    )  # fmt: skip
    if len(done) == 1:
        return RedirectResponse(url(f"jobs/{done[0].id}"), 303)
    return RedirectResponse(url("jobs", done=None if done else "nothing"), 303)
