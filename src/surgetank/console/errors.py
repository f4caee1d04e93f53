"""System errors, for administrators: grouped, with stack traces, and what people do about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import RedirectResponse, Response

from surgetank.console.banners import banners_of
from surgetank.console.showing import chosen, show, url
from surgetank.console.visits import AdminVisit, Visit
from surgetank.events.types import Severity
from surgetank.exceptions import Conflict, NotFound
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
    found = store.find(
        ErrorFilter(
            error_type=error_type or None,
            severity=severity or None,
            resolved=_STATES[state],
            text=text or None,
        ),
        limit=_PAGE,
        cursor=(at[0], at[1]) if at else None,
    )
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
        done=_done(query.get("done", ""), query.get("count", "")),
        now=visit.services.clock(),
        is_first=after is None,
        **banners_of(visit.services, visit.caller, None),
    )


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
