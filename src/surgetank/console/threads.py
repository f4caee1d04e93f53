"""Threads: the list, and the page of one with its banners, runs and log."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from surgetank.console.banners import banners_of
from surgetank.console.showing import show
from surgetank.console.visits import Visit, Visitor
from surgetank.exceptions import SurgetankError
from surgetank.server.access.authorizing import allowed_on, allowed_to_search
from surgetank.server.access.disclosure import log_problem_for
from surgetank.server.access.roles import Caller
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import not_found
from surgetank.server.services import Services
from surgetank.workflows.runs import Run
from surgetank.workflows.status import Status

router = APIRouter()
_PAGE = 50
_LINES = 200
_RUNS = 20
_MOST = 2**53
ThreadId = Annotated[str, Query(alias="id", min_length=1, max_length=2048, pattern=r"^[^\x00]+$")]


@router.get("/threads")
async def threads(visit: Visitor, after: str | None = None, owner: str = "") -> Response:
    """The threads that the visitor may see, newest first."""
    who = await allowed_to_search(visit.services, visit.caller)
    return await run_in_threadpool(_list, visit, who, after, owner)


def _list(visit: Visit, who: Caller, after: str | None, owner: str) -> Response:
    services = visit.services
    whose = (owner or None) if visit.covers("operator") else who.user
    at = position(after, str, str)
    found = services.threads.page(owner=whose, after=(at[0], at[1]) if at else None, limit=_PAGE)
    readable = services.visibility.readable(who, [t.thread_id for t in found.threads])
    listed = readable if who.filters else {t.thread_id for t in found.threads}
    return show(
        visit,
        "threads.html",
        page_name="threads",
        threads=[t for t in found.threads if t.thread_id in listed],
        readable=readable,
        complete=found.complete,
        next=cursor(*found.threads[-1].position) if found.more else None,
        is_first=after is None,
        owner=owner,
        **banners_of(services, who, None),
    )


@router.get("/thread")
async def thread(visit: Visitor, thread_id: ThreadId) -> Response:
    """One thread."""
    who = await allowed_on(visit.services, visit.caller, thread_id, "read")
    return await run_in_threadpool(_one, visit, who, thread_id)


def _one(visit: Visit, who: Caller, thread_id: str) -> Response:
    services = visit.services
    services.visibility.check(who, thread_id)
    if services.tank.threads.is_known(thread_id) is False:
        raise not_found("thread", thread_id, remedy="see the list of threads.")
    after = services.tank.events.last_seq(
        thread_id
    )  # before what is shown, so that nothing is missed
    page = services.tank.logs(thread_id, before=_MOST, limit=_LINES)
    return show(
        visit,
        "thread.html",
        page_name="threads",
        thread_id=thread_id,
        after=after,
        lines=page.lines,
        log_problem=log_problem_for(who, page.problem),
        has_older=len(page.lines) == _LINES,
        **_head(services, thread_id),
        **banners_of(services, who, thread_id),
    )


@router.get("/thread/now")
async def now(visit: Visitor, thread_id: ThreadId) -> Response:
    """The part of the page that changes: whether all is saved, and the runs."""
    who = await allowed_on(visit.services, visit.caller, thread_id, "read")
    return await run_in_threadpool(_now, visit, who, thread_id)


def _now(visit: Visit, who: Caller, thread_id: str) -> Response:
    visit.services.visibility.check(who, thread_id)
    return show(visit, "thread_now.html", thread_id=thread_id, **_head(visit.services, thread_id))


@router.get("/thread/lines")
async def lines(
    visit: Visitor,
    thread_id: ThreadId,
    after: Annotated[int, Query(ge=0, le=_MOST)] = 0,
    before: Annotated[int | None, Query(ge=1, le=_MOST)] = None,
) -> Response:
    """Lines of the log before or after one, for the script of the page."""
    who = await allowed_on(visit.services, visit.caller, thread_id, "read")

    def read() -> Response:
        visit.services.visibility.check(who, thread_id)
        page = visit.services.tank.logs(thread_id, after=after, before=before, limit=_LINES)
        return JSONResponse(
            {
                "lines": [line.to_dict() for line in page.lines],
                "more": len(page.lines) == _LINES,
                "problem": log_problem_for(who, page.problem),
            }
        )

    return await run_in_threadpool(read)


def _head(services: Services, thread_id: str) -> dict[str, Any]:
    tank = services.tank
    unsaved = tank.threads.unsaved(thread_id)
    runs, why_no_runs = list[Run](), ""
    if any(state.value != "closed" for state in tank.breakers().values()):
        why_no_runs = "Runs can't be listed while the database is away."
    else:
        try:
            runs = tank.runs.of_thread(thread_id, limit=_RUNS)
        except SurgetankError:
            why_no_runs = "Runs can't be listed just now: the database can't be asked."
    newest = next(iter(runs), None)
    return {
        "unsaved": unsaved,
        "now": services.clock(),
        "runs": [
            (run, *_state(run, is_saved=run is not newest or unsaved.is_saved)) for run in runs
        ],
        "why_no_runs": why_no_runs,
        "owner": services.owners.of(thread_id).owner,
    }


def _state(run: Run, *, is_saved: bool) -> tuple[str, str]:
    """How a run is shown: its colour, and in words. One whose data is not saved is never just
    completed."""
    match run.status:
        case Status.COMPLETED:
            return ("ok", "Completed") if is_saved else ("warning", "Completed, not saved yet")
        case Status.FAILED:
            return "critical", "Failed"
        case Status.CANCELLED:
            return "plain", "Cancelled"
        case Status.AWAITING_CHECKPOINT:
            return "info", "Waits for a person"
        case Status.RUNNING:
            return "info", "Running"
        case _:
            return "plain", "Waits to begin"
