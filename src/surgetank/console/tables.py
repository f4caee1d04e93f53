"""Tables of users' rows: what waits and what is in files, and flushing one; and erasing a user."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from surgetank.app import rendering
from surgetank.app.caller_tables import default_text
from surgetank.app.tables import Table
from surgetank.console.banners import banners_of
from surgetank.console.results import Results
from surgetank.console.showing import show, url
from surgetank.console.visits import AdminVisit, OperatorVisit, Visit, Visitor
from surgetank.exceptions import SurgetankError
from surgetank.server.access.statements import sql_caller
from surgetank.server.http.paging import cursor, position
from surgetank.telemetry import log

router = APIRouter()
_PAGE = 50
_MOST_FILES = 100
_SHORT_S = 2.0
_FILES = """SELECT path, rows, deleted_rows, bytes, min_user, max_user, created_at FROM system.files
WHERE namespace_id = $1 AND table_name = $2 ORDER BY created_at DESC NULLS LAST, path LIMIT 101"""
_RESERVED = frozenset({
    "all", "and", "any", "as", "asc", "case", "check", "column", "constraint", "default", "desc",
    "distinct", "do", "else", "end", "except", "fetch", "for", "foreign", "from", "grant",
    "group", "having", "in", "initially", "intersect", "into", "lateral", "leading", "limit",
    "not", "null", "offset", "on", "only", "or", "order", "primary", "references", "returning",
    "select", "some", "table", "then", "to", "trailing", "union", "unique", "user", "using",
    "when", "where", "window", "with",
})  # fmt: skip
Name = Annotated[str, Query(min_length=1, max_length=100, pattern=r"^[^\x00]+$")]


@router.get("/tables")
def tables(visit: Visitor, after: str | None = None) -> Response:
    """The tables that the visitor may read; operators see how much waits and is in files."""
    at = position(after, str, str)
    mine = visit.services.tank.tables.for_caller(sql_caller(visit.caller))
    rest = [each for each in mine.list() if at is None or _order(each) > tuple(at)]
    shown = rest[:_PAGE]
    return show(
        visit,
        "tables.html",
        page_name="tables",
        tables=[(each, *_figures(visit, each)) for each in shown],
        is_first=after is None,
        next=cursor(*_order(shown[-1])) if len(rest) > _PAGE else None,
        **banners_of(visit.services, visit.caller, None),
    )


def _order(table: Table) -> tuple[str, str]:
    return table.namespace.casefold(), table.name.casefold()


def _figures(visit: Visit, table: Table) -> tuple[Any, str]:
    """How much of it there is, and why that can't be said."""
    try:
        mine = visit.services.tank.tables.for_caller(sql_caller(visit.caller))
        return mine.figures(table), ""
    except SurgetankError as error:
        return None, error.what


@router.get("/table")
def table(visit: Visitor, namespace: Name, name: Name) -> Response:
    """One table: its columns, its policy, and for operators how much of it is where."""
    settings = visit.services.settings
    mine = visit.services.tank.tables.for_caller(sql_caller(visit.caller))
    found = mine.describe(namespace, name)
    figures, why_no_figures = _figures(visit, found)
    files, why_no_files = _files(visit, found)
    named = ".".join(map(_written, (found.namespace, found.name)))
    return show(
        visit,
        "table.html",
        page_name="tables",
        table=found,
        figures=figures,
        why_no_figures=why_no_figures,
        files=files[:_MOST_FILES],
        more_files=len(files) > _MOST_FILES,
        why_no_files=why_no_files,
        default_text=default_text,
        flush_rows=found.policy.rows or settings.tables_flush_rows,
        flush_interval=found.policy.interval_s or settings.tables_flush_interval,
        query=f"SELECT * FROM {named} LIMIT 100",
        **banners_of(visit.services, visit.caller, None),
    )


def _written(name: str) -> str:
    return f'"{name}"' if name.casefold() in _RESERVED else name


def _files(visit: Visit, table: Table) -> tuple[list[dict[str, Any]], str]:
    """Its files, which administrators see, and why they can't be listed."""
    if not visit.covers("admin"):
        return [], ""
    asked = [table.namespace, table.name]
    try:
        (found,) = visit.services.tank.sql.run(
            _FILES, sql_caller(visit.caller), parameters=asked
        ).done()
    except SurgetankError as error:
        return [], error.what
    assert found.rows is not None, "a SELECT has rows"
    return list(rendering.objects(found.rows, found.types)), ""


@router.post("/table/flush")
async def flush(visit: OperatorVisit, namespace: Name, name: Name) -> Response:
    """Flush one table now; leads to the job."""
    services = visit.services
    # by the name that it has, for this caller
    mine = services.tank.tables.for_caller(sql_caller(visit.caller))
    found = await run_in_threadpool(mine.describe, namespace, name)
    made = await to_thread.run_sync(
        services.tank.tables.flush, found.full_name, limiter=services.flushing
    )
    return RedirectResponse(url(f"jobs/{made.id}"), 303)


# -- erasing a user


@router.get("/erasures")
def erasures(visit: AdminVisit) -> Response:
    """Who is or was erased, and how far that is; a form to begin."""
    query = visit.request.query_params
    return _erasures(visit, user=query.get("user", "")[:200])


def _erasures(visit: Visit, *, user: str = "", said: str = "", code: int = 200) -> Response:
    return show(
        visit,
        "erasures.html",
        code,
        page_name="tables",
        user=user,
        said=said,
        **_states(visit),
        **banners_of(visit.services, visit.caller, None),
    )


@router.get("/erasures/now")
def erasures_now(visit: AdminVisit) -> Response:
    """The part of the page that changes."""
    return show(visit, "erasures_now.html", **_states(visit))


def _states(visit: Visit) -> dict[str, Any]:
    try:
        return {"states_of_erasures": visit.services.tank.erasures(), "problem_text": ""}
    except SurgetankError as error:
        return {"states_of_erasures": [], "problem_text": error.what}


@router.post("/erasures")
async def erase(visit: AdminVisit) -> Response:
    """Erase a user, whose name was typed twice. It goes on when nobody waits for it."""
    form = visit.form()
    user = form.get("user", "")
    if not 0 < len(user) <= 200 or user != form.get("again", ""):
        said = "Type the name of the user twice, the same both times."
        return await run_in_threadpool(_erasures, visit, user=user, said=said, code=422)
    pending: set[asyncio.Task[str]] = visit.request.app.state.erasing
    task = asyncio.create_task(run_in_threadpool(_erase, visit, user))
    pending.add(task)
    task.add_done_callback(pending.discard)
    done, _ = await asyncio.wait({task}, timeout=_SHORT_S)
    if done and (why := task.result()):
        return await run_in_threadpool(_erasures, visit, user=user, said=why, code=503)
    return RedirectResponse(url("erasures"), 303)


def _erase(visit: Visit, user: str) -> str:
    """Why it could not be done, or begun."""
    services = visit.services
    results: Results = visit.request.app.state.results
    services.forget_user(user)
    results.clear()
    try:
        services.tank.erase_user(user, by=visit.caller.user)
    except SurgetankError as error:
        log.warning("erasure_failed", error=error.what)
        return f"{error.what} {error.remedy}".strip()
    finally:
        services.forget_user(user)
        results.clear()
    return ""
