"""Is my data safe? The first page."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, RedirectResponse, Response

from surgetank.app.run_figures import Figures
from surgetank.app.workers import WorkerProcess
from surgetank.console.banners import banners_of
from surgetank.console.fresh import Fresh
from surgetank.console.samples import Samples
from surgetank.console.sentence import is_my_data_safe
from surgetank.console.showing import show
from surgetank.console.visits import PATH, OperatorVisit, Visit, Visitor
from surgetank.exceptions import SurgetankError
from surgetank.model import FlushJob, JobStatus

router = APIRouter()
_JOBS = 200
_STATUS_S = 1.0  # the pages that are open ask every two seconds
_WORKERS_S = 5.0
_RATE_S = 10.0
_HOUR_S = 3600.0
_SHOWN = 5


@router.get("/")
def start(visit: Visitor) -> Response:
    """The first page that the visitor may see."""
    return RedirectResponse(f"{PATH}/{'overview' if visit.covers('operator') else 'threads'}", 303)


@router.get("/overview")
def overview(visit: OperatorVisit) -> Response:
    """The state of saving."""
    shown = banners_of(visit.services, visit.caller, None)
    return show(visit, "overview.html", page_name="overview", **shown, **_now(visit))


@router.get("/overview/now")
def now(visit: OperatorVisit) -> Response:
    """The part of the page that changes."""
    return show(visit, "overview_now.html", **_now(visit))


@router.get("/overview/series")
def series(visit: OperatorVisit) -> JSONResponse:
    """What the charts show."""
    samples: Samples = visit.request.app.state.samples
    fresh: Fresh = visit.request.app.state.fresh
    series = samples.series()
    series["charts"]["rate"] = fresh.get("rate", _RATE_S, lambda: _rate(visit))
    return JSONResponse(series)


def _rate(visit: Visit) -> list[dict[str, Any]]:
    """How many of the flushes of each two minutes saved everything, in percent, out of the job log."""
    tank = visit.services.tank
    now = tank.now()
    health = tank.jobs.health(since=now - _HOUR_S, until=now + 1.0, steps=30)
    values: list[float | None] = []
    for n in range(len(health.at)):
        good = sum(each.good[n] for each in health.streams)
        ended = good + sum(each.warned[n] + each.failed[n] for each in health.streams)
        values.append(round(100 * good / ended, 1) if ended else None)
    at = [round(at, 1) for at in health.at]
    return [{"label": "percent", "colour": "--ok-bar", "at": at, "most": 100, "values": values}]


def _now(visit: Visit) -> dict[str, Any]:
    tank = visit.services.tank
    fresh: Fresh = visit.request.app.state.fresh
    status = fresh.get("status", _STATUS_S, lambda: tank.status(jobs=_JOBS))
    finished = [job for job in status.jobs if job.stream in tank.streams and job.finished_at]
    is_away = any(sink.breaker != "closed" for sink in status.sinks)
    figures, why_not = _figures(visit, is_away=is_away)
    workers = [] if is_away else fresh.get("workers", _WORKERS_S, lambda: _workers(visit))
    return {
        "status": status,
        "sentence": is_my_data_safe(status),
        "jobs": finished[:_SHOWN],
        "good": sum(job.ok for job in finished),
        "finished": len(finished),
        "saved_rows": sum(job.result.rows_flushed or 0 for job in finished),
        "incidents": tank.incidents(),
        "figures": figures,
        "why_no_figures": why_not,
        "workers": workers,
        "working": sum(each.state == "working" for each in workers),
        "outcome": outcome,
    }


def _workers(visit: Visit) -> list[WorkerProcess]:
    """The processes that work with this database; none where that can't be asked."""
    try:
        return visit.services.tank.workers()
    except SurgetankError:
        return []


def _figures(visit: Visit, *, is_away: bool) -> tuple[Figures | None, str]:
    """Runs and approvals, which only the database knows: one that is away isn't asked for them."""
    if is_away:
        return None, "They can't be counted while the database is away."
    try:
        return visit.services.tank.run_figures(), ""
    except SurgetankError:
        return None, "The database can't be asked just now."


def outcome(job: FlushJob) -> tuple[str, str]:
    """How a job is shown: its colour, and in words."""
    if job.status is JobStatus.RUNNING:
        return "info", "Running"
    if job.status is JobStatus.FAILED:
        return "critical", "Failed"
    return ("warning", "Completed with warnings") if job.warnings else ("ok", "Completed")
