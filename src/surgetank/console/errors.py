"""System errors, for administrators: grouped, with stack traces, and what people do about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import JSONResponse, RedirectResponse, Response

from surgetank.console.banners import banners_of
from surgetank.console.showing import chosen, show, url
from surgetank.console.visits import AdminVisit, Visit
from surgetank.events.types import Severity
from surgetank.exceptions import Conflict, NotFound, SurgetankError
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import Problem
from surgetank.streams.errors.answers import ErrorFilter
from surgetank.streams.errors.groups import ErrorGroup

router = APIRouter()
_PAGE = 50
_OF_THREAD = 5
_STATES = {"open": False, "resolved": True, "all": None}
_ACTIONS = ("resolve", "reopen", "snooze", "delete")
_SNOOZE_S = {"1h": 3600.0, "1d": 86_400.0, "7d": 7 * 86_400.0}
_MOST_NOTES = 10_000
_MOST_DELETED = 1000
_THREADS = 20
_HOUR = 3600.0
_WEEK_S = 7 * 86_400.0
_BUCKETS = {"24": _HOUR, "168": _HOUR, "720": 86_400.0}
_COLOURS = {
    "info": "--muted", "warning": "--warning-line", "error": "--critical-line",
    "critical": "--critical",
}  # fmt: skip
Text = Annotated[str, Query(max_length=2048, pattern=r"^[^\x00]*$")]
ErrorId = Annotated[str, Path(max_length=100, pattern=r"^[0-9a-fA-F-]+$")]


def errors_of_thread(visit: Visit, thread_id: str) -> Sequence[ErrorGroup]:
    """The newest open ones of a thread, for who may see errors."""
    if not visit.covers("admin"):
        return ()
    wanted = ErrorFilter(thread_id=thread_id, resolved=False)
    return visit.services.tank.errors.find(wanted, limit=_OF_THREAD).errors


@router.get("/errors")
def errors(
    visit: AdminVisit, after: str | None = None, text: Text = "", error_type: Text = ""
) -> Response:
    """Groups of errors, newest first."""
    query = visit.request.query_params
    state = chosen(query, "state", tuple(_STATES))
    severity = chosen(query, "severity", ("", *Severity))
    at = position(after, float, str)
    store = visit.services.tank.errors
    wanted = ErrorFilter(
        error_type=error_type or None, severity=severity or None, resolved=_STATES[state],
        text=text or None,
    )  # fmt: skip
    found = store.find(wanted, limit=_PAGE, cursor=(at[0], at[1]) if at else None)
    return show(
        visit,
        "errors.html",
        page_name="errors",
        errors=found.errors,
        problem_text=found.problem,
        next=cursor(*found.cursor) if found.cursor else None,
        state=state,
        states_of_errors=tuple(_STATES),
        severity=severity,
        severities=tuple(Severity),
        text=text,
        error_type=error_type,
        totals=_totals(visit),
        done=_done(query.get("done", ""), query.get("count", "")),
        now=visit.services.clock(),
        is_first=after is None,
        **banners_of(visit.services, visit.caller, None),
    )


def _totals(visit: Visit) -> dict[str, int]:
    counts, _ = visit.services.tank.errors.counts()
    return {name: sum(c[name] for c in counts) for name in ("groups", "unresolved", "occurrences")}


def _done(action: str, how_many: str) -> str:
    past = {
        "resolve": "resolved",
        "reopen": "opened again",
        "snooze": "snoozed",
        "delete": "deleted",
    }
    if action not in past or not how_many.isdecimal() or len(how_many) > 5:
        return ""
    return f"{int(how_many)} {'was' if int(how_many) == 1 else 'were'} {past[action]}."


@router.post("/errors/act")
def act_on_several(visit: AdminVisit) -> Response:
    """Do the same about those that were chosen. What can't be done with one of them is left."""
    fields = visit.fields()
    form = dict(fields)
    done = 0
    for name, error_id in fields:
        if name != "id":
            continue
        try:
            _act(visit, error_id, form)
        except (Conflict, NotFound):
            continue
        done += 1
    query = {"state": form.get("state"), "done": form.get("action"), "count": done}
    return RedirectResponse(url("errors", **query), 303)


@router.post("/errors/delete")
def delete_resolved(visit: AdminVisit) -> Response:
    """Delete the resolved ones that match a filter."""
    form = visit.form()
    wanted = ErrorFilter(
        error_type=form.get("error_type") or None, severity=form.get("severity") or None,
        text=form.get("text") or None,
    )  # fmt: skip
    done = visit.services.tank.errors.delete_resolved(wanted, visit.caller.user, most=_MOST_DELETED)
    return RedirectResponse(url("errors", state="resolved", done="delete", count=done), 303)


@router.get("/errors/statistics")
def statistics(visit: AdminVisit) -> Response:
    """How many there are of which type, how they come over time, and which conversations have
    several."""
    store = visit.services.tank.errors
    counts, problem = store.counts()
    threads: list[dict[str, Any]] = []
    try:
        threads = store.troubled_threads(limit=_THREADS)
    except SurgetankError as error:
        problem = problem or error.what
    return show(
        visit,
        "errors_statistics.html",
        page_name="errors",
        hours=chosen(visit.request.query_params, "hours", tuple(_BUCKETS)),
        choices=tuple(_BUCKETS),
        counts=sorted(counts, key=lambda count: -count["occurrences"]),
        threads=threads,
        severities=tuple(Severity),
        problem_text=problem,
        **banners_of(visit.services, visit.caller, None),
    )


@router.get("/errors/series")
def series(visit: AdminVisit) -> JSONResponse:
    """Occurrences over time, by severity, as the chart shows them."""
    hours = chosen(visit.request.query_params, "hours", tuple(_BUCKETS))
    step, now = _BUCKETS[hours], visit.services.clock()
    since = (now - int(hours) * _HOUR) // step * step
    found, _ = visit.services.tank.errors.trends(
        since=since, bucket="hour" if step == _HOUR else "day"
    )
    at = _times(since, now, step)
    lines = {severity.value: [0] * len(at) for severity in Severity}
    for row in found:
        line = lines.get(row["severity"])
        if line is not None and 0 <= (n := int((row["at"] - since) // step)) < len(at):
            line[n] += row["occurrences"]
    bars = [
        {"label": name, "colour": _COLOURS[name], "bars": True, "values": values}
        for name, values in lines.items()
    ]
    return JSONResponse({"at": at, "charts": {"occurrences": bars}})


def _times(since: float, now: float, step: float) -> list[float]:
    return [since + n * step for n in range(int((now - since) // step) + 1)]


@router.get("/errors/{error_id}/series")
def series_of_one(visit: AdminVisit, error_id: ErrorId) -> JSONResponse:
    """How often one group happened in each hour of the last week, as its chart shows it."""
    now = visit.services.clock()
    since = (now - _WEEK_S) // _HOUR * _HOUR
    found, _ = visit.services.tank.errors.hours(error_id.lower(), since=since)
    at = _times(since, now, _HOUR)
    values = [0] * len(at)
    for hour, count in found:
        if 0 <= (n := int((hour - since) // _HOUR)) < len(at):
            values[n] += count
    bars = [{"label": "occurrences", "colour": "--critical-line", "bars": True, "values": values}]
    return JSONResponse({"at": at, "charts": {"occurrences": bars}})


@router.get("/errors/{error_id}")
def error(visit: AdminVisit, error_id: ErrorId) -> Response:
    """One group: its stack trace, context, threads, and what was done about it."""
    detail = visit.services.tank.errors.detail(error_id.lower())
    return show(
        visit,
        "error.html",
        page_name="errors",
        error=detail.group,
        threads=detail.threads,
        audit=detail.audit,
        problem_text=detail.problem,
        now=visit.services.clock(),
        **banners_of(visit.services, visit.caller, None),
    )


@router.post("/errors/{error_id}/act")
def act(visit: AdminVisit, error_id: ErrorId) -> Response:
    """Do something about one."""
    form = visit.form()
    _act(visit, error_id, form)
    if form.get("action") == "delete":
        return RedirectResponse(url("errors", done="delete", count=1), 303)
    return RedirectResponse(url(f"errors/{error_id}"), 303)


def _act(visit: Visit, error_id: str, form: dict[str, str]) -> None:
    action = form.get("action", "")
    if action not in _ACTIONS:
        raise Problem(422, "invalid-request", "The form asks for nothing that can be done.")
    seconds = _SNOOZE_S.get(form.get("until", ""), _SNOOZE_S["1d"])
    until = visit.services.clock() + seconds if action == "snooze" else None
    notes = form.get("notes", "")[:_MOST_NOTES]
    visit.services.tank.errors.act(
        error_id.lower()[:100], action, visit.caller.user, notes=notes, until=until
    )
