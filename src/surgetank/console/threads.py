"""Threads: the list, and the page of one, or of one of its runs, with its banners, messages, steps and log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from surgetank.app.threads import Unsaved
from surgetank.console.banners import banners_of
from surgetank.console.errors import errors_of_thread
from surgetank.console.runs import RunShown, runs_of, state_of_thread, why_not_away
from surgetank.console.showing import chosen, show, url
from surgetank.console.visits import Visit, Visitor
from surgetank.exceptions import SurgetankError
from surgetank.server.access.authorizing import allowed_on, allowed_to_search
from surgetank.server.access.disclosure import log_problem_for
from surgetank.server.access.narrowing import both
from surgetank.server.access.roles import Caller
from surgetank.server.agent.requests import run_on
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import not_found
from surgetank.workflows.threads import ThreadFilter, ThreadRow

router = APIRouter()
_PAGE = 50
_LINES = 200
_MOST = 2**53
_MOST_OFFSET = 10_000_000
# What may be asked for, and how the status is called in the database.
_STATES = {
    "any": None,
    "running": "busy",
    "waiting": "interrupted",
    "failed": "error",
    "idle": "idle",
}
ThreadId = Annotated[str, Query(alias="id", min_length=1, max_length=2048, pattern=r"^[^\x00]+$")]
RunId = Annotated[UUID | None, Query(alias="run")]
Text = Annotated[str, Query(max_length=2048, pattern=r"^[^\x00]*$")]


@dataclass(frozen=True, slots=True)
class ThreadShown:
    """A thread in the list. `state` and `saved` are colours with words."""

    thread_id: str
    owner: str | None
    updated_at: float | datetime | None
    state: tuple[str, str]
    saved: tuple[str, str]
    assistant: str


@router.get("/threads")
async def threads(
    visit: Visitor, after: str | None = None, owner: Text = "", q: Text = ""
) -> Response:
    """The threads that the visitor may see, newest first."""
    who = await allowed_to_search(visit.services, visit.caller)
    if target := await run_in_threadpool(_run_named, visit, who, q.strip()):
        return RedirectResponse(target, 303)
    return await run_in_threadpool(_list, visit, who, after, owner, q.strip())


def _run_named(visit: Visit, who: Caller, text: str) -> str | None:
    """The page of a run, if its id was searched for."""
    try:
        run = visit.services.tank.runs.get(UUID(text))
    except (ValueError, SurgetankError):
        return None
    return (
        url("thread", id=run.thread_id, run=run.run_id)
        if visit.services.visibility.reads(who, run.thread_id)
        else None
    )


def _list(visit: Visit, who: Caller, after: str | None, owner: str, text: str) -> Response:
    services = visit.services
    state = chosen(visit.request.query_params, "state", tuple(_STATES))
    whose = (owner or None) if visit.covers("operator") else who.user
    find = _by_state if _STATES[state] else _by_checkpoint
    rows, complete, following = find(visit, who, after, whose, text)
    return show(
        visit,
        "threads.html",
        page_name="threads",
        threads=rows,
        readable=services.visibility.readable(who, [row.thread_id for row in rows]),
        complete=complete,
        next=following,
        is_first=after is None,
        owner=owner,
        q=text,
        state=state,
        states_of_threads=tuple(_STATES),
        may_start=visit.covers("user") and services.graphs is not None,
        **banners_of(services, who, None),
    )


_Found = tuple[list[ThreadShown], bool, str | None]


def _by_checkpoint(
    visit: Visit, who: Caller, after: str | None, whose: str | None, text: str
) -> _Found:
    """All threads that have checkpoints, hot and cold; before them those whose first run hasn't made one."""
    services = visit.services
    at = position(after, str, str)
    page = services.threads.page(
        owner=whose, after=(at[0], at[1]) if at else None, limit=_PAGE, text=text
    )
    names = [t.thread_id for t in page.threads]
    listed = services.visibility.readable(who, names) if who.filters else set(names)
    known = _rows(visit, ThreadFilter(ids=names), limit=_PAGE) if names else []
    rows = {row.thread_id: row for row in known or ()}
    found = [
        _shown(visit, t.thread_id, t.owner, t.updated_at, rows.get(t.thread_id))
        for t in page.threads
        if t.thread_id in listed
    ]
    if after is None:
        wanted = _wanted(who, whose, text, "busy")
        busy = _rows(visit, wanted, limit=_PAGE) if wanted is not None else None
        new = [r for r in busy or () if r.thread_id not in names and _is_empty(visit, r.thread_id)]
        found = [_shown(visit, r.thread_id, r.owner, r.updated_at, r) for r in new] + found
    return (
        found, page.complete and known is not None,
        cursor(*page.threads[-1].position) if page.more else None,
    )  # fmt: skip


def _is_empty(visit: Visit, thread_id: str) -> bool:
    """Whether it has no checkpoint. One that can't be asked for stands on a page of its own."""
    try:
        return visit.services.stored.read(thread_id, channels=()) is None
    except SurgetankError:
        return False


def _by_state(visit: Visit, who: Caller, after: str | None, whose: str | None, text: str) -> _Found:
    """Threads that runs have brought into a state, as the database knows them."""
    state = chosen(visit.request.query_params, "state", tuple(_STATES))
    wanted, at = _wanted(who, whose, text, _STATES[state]), position(after, int)
    if wanted is None:
        return [], True, None
    offset = min(max(at[0], 0), _MOST_OFFSET) if at else 0
    rows = _rows(visit, wanted, limit=_PAGE + 1, offset=offset)
    if rows is None:
        return [], False, None
    found = [_shown(visit, r.thread_id, r.owner, r.updated_at, r) for r in rows[:_PAGE]]
    return found, True, cursor(offset + _PAGE) if len(rows) > _PAGE else None


def _wanted(who: Caller, whose: str | None, text: str, status: str | None) -> ThreadFilter | None:
    metadata = both(None, who.filters.get("threads"))
    return (
        None
        if metadata is None
        else ThreadFilter(owner=whose, text=text or None, status=status, metadata=metadata)
    )


def _rows(
    visit: Visit, wanted: ThreadFilter, *, limit: int, offset: int = 0
) -> Sequence[ThreadRow] | None:
    """None while the database can't be asked."""
    if why_not_away(visit.services):
        return None
    try:
        return visit.services.tank.threads.rows.search(
            wanted, sort_by="updated_at", limit=limit, offset=offset
        )
    except SurgetankError:
        return None


def _shown(
    visit: Visit, thread_id: str, owner: str | None, at: float | datetime | None, row: ThreadRow | None,
) -> ThreadShown:  # fmt: skip
    unsaved = visit.services.tank.threads.unsaved(thread_id)
    if unsaved.parked:
        saved = ("critical", "Something was set aside")
    else:
        saved = ("ok", "In the database") if unsaved.is_saved else ("info", "In the buffer")
    metadata = row.metadata if row is not None else {}
    return ThreadShown(
        thread_id=thread_id,
        owner=owner,
        updated_at=at,
        state=state_of_thread(row.status if row is not None else None),
        saved=saved,
        assistant=str(metadata.get("graph_id") or ""),
    )


@router.get("/thread")
async def thread(visit: Visitor, thread_id: ThreadId, run: RunId = None) -> Response:
    """One thread, or one run of it."""
    who = await allowed_on(visit.services, visit.caller, thread_id, "read")
    return await run_in_threadpool(_one, visit, who, thread_id, run)


def _one(visit: Visit, who: Caller, thread_id: str, run_id: UUID | None) -> Response:
    services = visit.services
    services.visibility.check(who, thread_id)
    if services.tank.threads.is_known(thread_id) is False and not _is_made(visit, thread_id):
        raise not_found("thread", thread_id, remedy="see the list of threads.")
    after = services.tank.events.last_seq(
        thread_id
    )  # before what is shown, so that nothing is missed
    page = services.tank.logs(thread_id, before=_MOST, limit=_LINES)
    return show(
        visit,
        "thread.html",
        page_name="threads",
        after=after,
        lines=page.lines,
        log_problem=log_problem_for(who, page.problem),
        has_older=len(page.lines) == _LINES,
        may_start=visit.covers("user") and services.graphs is not None,
        errors=errors_of_thread(visit, thread_id),
        **_head(visit, thread_id, run_id),
        **banners_of(services, who, thread_id),
    )


def _is_made(visit: Visit, thread_id: str) -> bool:
    """Whether it was made for runs, and has no checkpoint until now."""
    try:
        return visit.services.tank.threads.rows.find(thread_id) is not None
    except SurgetankError:
        return False


@router.get("/thread/now")
async def now(visit: Visitor, thread_id: ThreadId, run: RunId = None) -> Response:
    """The part of the page that changes: whether all is saved, and the runs."""
    who = await allowed_on(visit.services, visit.caller, thread_id, "read")
    return await run_in_threadpool(_now, visit, who, thread_id, run)


def _now(visit: Visit, who: Caller, thread_id: str, run_id: UUID | None) -> Response:
    visit.services.visibility.check(who, thread_id)
    return show(visit, "thread_now.html", **_head(visit, thread_id, run_id))


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


@router.get("/thread/log.txt")
async def download(visit: Visitor, thread_id: ThreadId) -> Response:
    """All lines of the log that are there now, as a file."""
    who = await allowed_on(visit.services, visit.caller, thread_id, "read")
    await run_in_threadpool(visit.services.visibility.check, who, thread_id)
    return StreamingResponse(
        iterate_in_threadpool(_text_of_log(visit, who, thread_id)),
        media_type="text/plain; charset=utf-8",
        headers={
            "Content-Disposition": 'attachment; filename="log.txt"',
            "X-Content-Type-Options": "nosniff",
        },
    )


def _text_of_log(visit: Visit, who: Caller, thread_id: str) -> Iterator[bytes]:
    last = 0
    while True:
        page = visit.services.tank.logs(thread_id, after=last, limit=1000)
        if last == 0 and page.problem:
            yield f"# {log_problem_for(who, page.problem)}\n".encode()
        if not page.lines:
            return
        last = page.lines[-1].seq
        said = (line.to_dict() for line in page.lines)
        text = "".join(f"{t['timestamp']} {t['level']:8} {t['message']}\n" for t in said)
        yield text.encode(errors="backslashreplace")


def _head(visit: Visit, thread_id: str, run_id: UUID | None) -> dict[str, Any]:
    services = visit.services
    unsaved = services.tank.threads.unsaved(thread_id)
    runs, why_no_runs = runs_of(services, thread_id, unsaved)
    one = _chosen_run(runs, run_id)
    if run_id is not None and one is None and not why_no_runs:
        one = _older_run(visit, thread_id, run_id, unsaved)
    return {
        "thread_id": thread_id,
        "unsaved": unsaved,
        "now": services.clock(),
        "runs": runs,
        "run": one,
        "run_id": run_id,
        "why_no_runs": why_no_runs,
        "owner": services.owners.of(thread_id).owner,
    }


def _chosen_run(runs: Sequence[RunShown], run_id: UUID | None) -> RunShown | None:
    return next((each for each in runs if each.run.run_id == run_id), None)


def _older_run(visit: Visit, thread_id: str, run_id: UUID, unsaved: Unsaved) -> RunShown:
    return RunShown.of(run_on(visit.services, thread_id, str(run_id)), unsaved, is_newest=False)
