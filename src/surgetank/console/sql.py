"""SQL for everybody, each over what they may read: the editor, its results in pages, as files and drawn.

Statements are run exactly as `POST /sql` runs them: in a process that has the caller's rows and nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from surgetank.app import rendering
from surgetank.app.sql import SqlOutcome, SqlResult
from surgetank.console.banners import banners_of
from surgetank.console.drawing import chart_of, is_number
from surgetank.console.results import Results, Running
from surgetank.console.showing import show
from surgetank.console.visits import Visit, Visitor
from surgetank.exceptions import InvalidRequest, SurgetankError
from surgetank.server.access.statements import sql_caller
from surgetank.server.http.problems import Problem, of_family

if TYPE_CHECKING:
    import pyarrow as pa

router = APIRouter()
_PAGE = 50
_MOST_COLUMNS = 60
_MOST_CELL = 200
_MOST_TEXT = 256 * 1024
_MOST_NAMES = 20_000
Name = Annotated[str, Query(alias="id", max_length=100)]
Text = Annotated[str, Query(max_length=4000)]
Page = Annotated[int, Query(ge=0, le=1_000_000)]


@router.get("/sql")
def editor(visit: Visitor, text: Text = "") -> Response:
    """The editor. What an address asks for is only written into it, never run."""
    banners = banners_of(visit.services, visit.caller, None)
    return show(visit, "sql.html", page_name="sql", text=text, results=None, error=None, **banners)


@router.get("/sql/names")
def names(visit: Visitor) -> JSONResponse:
    """What can be completed: tables and relations with their columns. Nothing while it can't be asked."""
    try:
        known = visit.services.tank.sql.columns(sql_caller(visit.caller))
    except SurgetankError:
        known = {}
    shown: dict[str, list[str]] = {}
    room = _MOST_NAMES
    for name, columns in known.items():
        room -= 1 + len(columns)
        if room < 0:
            break
        shown[name] = list(columns)
    return JSONResponse(shown)


@router.post("/sql")
async def run(visit: Visitor) -> Response:
    """Run what was typed. What is wrong with it is an answer like another."""
    form = visit.form()
    text = form.get("text", "").replace("\r\n", "\n")
    limiter = visit.services.querying
    shown = await to_thread.run_sync(_run, visit, text, form.get("run", ""), limiter=limiter)
    if visit.is_part:
        return show(visit, "sql_results.html", text=text, **shown)
    banners = banners_of(visit.services, visit.caller, None)
    return show(visit, "sql.html", page_name="sql", text=text, **shown, **banners)


def _run(visit: Visit, text: str, name: str) -> dict[str, Any]:
    if len(text.encode(errors="replace")) > _MOST_TEXT:
        raise InvalidRequest("This is longer than 256 KB.", remedy="run it in parts.")
    if not text.strip():
        raise InvalidRequest("There is no statement to run.", remedy="write one.")
    running: Running = visit.request.app.state.running
    scope = visit.caller.scope
    with running.run(scope, name[:100]) as cancellation:
        caller = sql_caller(visit.caller, cancellation)
        try:
            outcome = visit.services.tank.sql.run(text, caller)
        except SurgetankError as error:  # before any statement: there is no database, for instance
            outcome = SqlOutcome(error=error)
    results: Results = visit.request.app.state.results
    return {
        "results": [
            _shown(result, results.keep(scope, result) if result.rows is not None else "", 0)
            for result in outcome.results
        ],
        "error": _problem(outcome, visit),
        "failed": outcome.failed,
        "position": outcome.position,
    }


def _problem(outcome: SqlOutcome, visit: Visit) -> Problem | None:
    return None if outcome.error is None else of_family(outcome.error, visit.caller)


@router.post("/sql/cancel")
def cancel(visit: Visitor) -> JSONResponse:
    """End a statement of this login that runs."""
    running: Running = visit.request.app.state.running
    ended = running.cancel(visit.caller.scope, visit.form().get("run", "")[:100])
    return JSONResponse({"cancelled": ended})


def _kept(visit: Visit, name: str) -> SqlResult:
    results: Results = visit.request.app.state.results
    return results.find(visit.caller.scope, name)


def _shown(result: SqlResult, name: str, page: int) -> dict[str, Any]:
    """A result as its template has it: one page of its rows."""
    shown: dict[str, Any] = {"result": result, "id": name, "rows": None, "page": page}
    if result.rows is None:
        return shown
    columns = list(zip(result.rows.column_names, result.types, strict=True))
    rows = result.rows.slice(page * _PAGE, _PAGE).select(range(len(columns[:_MOST_COLUMNS])))
    total = result.rows.num_rows
    return shown | {
        "columns": [(title, kind, is_number(kind)) for title, kind in columns[:_MOST_COLUMNS]],
        "hidden": max(0, len(columns) - _MOST_COLUMNS),
        "rows": [
            [None if value is None else _cell(value) for value in row]
            for row in rendering.plain_rows(rows, result.types[:_MOST_COLUMNS])
        ],
        "total": total,
        "first": page * _PAGE + 1,
        "last": min(total, (page + 1) * _PAGE),
        "pages": -(-total // _PAGE),
    }


def _cell(value: Any) -> tuple[str, bool]:
    """A value as text, and whether it was cut."""
    text = rendering.shown(value)
    return (text, False) if len(text) <= _MOST_CELL else (text[:_MOST_CELL], True)


@router.get("/sql/result")
def result(visit: Visitor, name: Name, page: Page = 0) -> Response:
    """Another page of a result."""
    return show(visit, "sql_result.html", each=_shown(_kept(visit, name), name, page))


@router.get("/sql/result/chart")
def chart(visit: Visitor, name: Name) -> JSONResponse:
    """What a chart of it shows; `null` when it has no numbers."""
    found = _kept(visit, name)
    assert found.rows is not None, "only rows are kept"
    return JSONResponse(chart_of(found.rows, found.types))


@router.get("/sql/result/{form}")
def download(visit: Visitor, form: str, name: Name) -> Response:
    """All rows as a file."""
    if form not in _FORMS:
        raise Problem(404, "not-found", "There is no such form.", remedy="use csv or parquet.")
    found = _kept(visit, name)
    kind, write = _FORMS[form]
    headers = {"Content-Disposition": f'attachment; filename="result.{form}"'}
    return Response(write(found.rows, found.types), media_type=kind, headers=headers)


def _csv(rows: pa.Table, types: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    rendering.write_csv(rows, types, text, for_spreadsheets=True)
    return text.getvalue().encode()


def _parquet(rows: pa.Table, _: tuple[str, ...]) -> bytes:
    data = io.BytesIO()
    rendering.write_parquet(rows, data)
    return data.getvalue()


_FORMS: dict[str, tuple[str, Callable[[Any, tuple[str, ...]], bytes]]] = {
    "csv": ("text/csv; charset=utf-8", _csv),
    "parquet": ("application/vnd.apache.parquet", _parquet),
}
