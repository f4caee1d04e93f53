"""The inbox: what waits for a person, what was decided, and what people decide how often. One question
is in `question.py`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from surgetank.console.banners import banners_of
from surgetank.console.showing import chosen, show, url
from surgetank.console.visits import Visit, Visitor
from surgetank.server.access import questions
from surgetank.server.access.authorizing import allowed_to_search
from surgetank.server.access.roles import Caller, Role
from surgetank.server.http.paging import cursor, position
from surgetank.workflows.approvals.rows import UserCheckpoint

router = APIRouter()
_PAGE = 50
_STATES = (
    "waiting", "closed", "approved", "edited", "rejected", "responded", "ignored", "expired",
    "superseded",
)  # fmt: skip
_DAYS = ("30", "7", "90")
_OUTCOMES = ("approved", "edited", "responded", "rejected", "ignored", "expired", "superseded", "pending")  # fmt: skip
Name = Annotated[str, Query(max_length=2048, pattern=r"^[^\x00]*$")]


@router.get("/inbox")
async def inbox(
    visit: Visitor, after: str | None = None, assistant: Name = "", step: Name = ""
) -> Response:
    """Questions of the visitor's threads, and those that the visitor shall answer."""
    who = await allowed_to_search(visit.services, visit.caller)
    listed = await run_in_threadpool(_listed, visit, who, after, assistant, step)
    shown = await run_in_threadpool(banners_of, visit.services, who, None)
    return show(visit, "inbox.html", page_name="inbox", **listed, **shown)


@router.get("/inbox/now")
async def now(
    visit: Visitor, after: str | None = None, assistant: Name = "", step: Name = ""
) -> Response:
    """The list, for a page that shows it."""
    who = await allowed_to_search(visit.services, visit.caller)
    listed = await run_in_threadpool(_listed, visit, who, after, assistant, step)
    return show(visit, "inbox_now.html", **listed)


def _listed(
    visit: Visit, who: Caller, after: str | None, assistant: str, step: str
) -> dict[str, Any]:
    services, query = visit.services, visit.request.query_params
    state = chosen(query, "state", _STATES)
    mine = query.get("mine") == "yes"
    wanted = {
        **questions.asked_of(who), "assistant_id": assistant or None, "step": step or None,
        "assignee": who.user if mine else None,
    }  # fmt: skip
    if state == "waiting":
        found, last = _waiting(visit, after, wanted)
    else:
        found, last = _closed(visit, state, after, wanted)
    given = {
        "state": state, "assistant": assistant, "step": step, "mine": "yes" if mine else None,
    }  # fmt: skip
    return {
        "rows": questions.seen(services, who, found) if who.filters else found,
        "state": state,
        "states_of_questions": _STATES,
        "given": given,
        "mine": mine,
        "now": services.clock(),
        "next": last,
        "is_first": after is None,
        "again": url("inbox/now", after=after, **given),
    }


def _waiting(
    visit: Visit, after: str | None, wanted: Mapping[str, Any]
) -> tuple[list[UserCheckpoint], str | None]:
    at = position(after, float, int)
    last_seen = (_moment(at[0]), _number(at[1])) if at else None
    found = visit.services.tank.approvals.waiting(after=last_seen, limit=_PAGE + 1, **wanted)
    if len(found) <= _PAGE:
        return found, None
    last = found[_PAGE - 1]
    expires = last.expires_at.timestamp() if last.expires_at else 0.0
    return found[:_PAGE], cursor(expires, last.checkpoint_number)


def _closed(
    visit: Visit, state: str, after: str | None, wanted: Mapping[str, Any]
) -> tuple[list[UserCheckpoint], str | None]:
    at = position(after, int)
    found = visit.services.tank.approvals.closed(
        before=_number(at[0]) if at else None, limit=_PAGE + 1,
        status=None if state == "closed" else state, **wanted,
    )  # fmt: skip
    if len(found) <= _PAGE:
        return found, None
    return found[:_PAGE], cursor(found[_PAGE - 1].checkpoint_number)


def _number(value: int) -> int:
    return max(0, min(value, 2**62))


def _moment(seconds: float) -> datetime | None:
    """When it expires; 0 stands for never."""
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (ValueError, OverflowError, OSError):
        return None


@router.get("/inbox/statistics")
async def statistics(visit: Visitor) -> Response:
    """What became of questions, by assistant and step."""
    who = await allowed_to_search(visit.services, visit.caller)
    return await run_in_threadpool(_statistics, visit, who)


def _statistics(visit: Visit, who: Caller) -> Response:
    services = visit.services
    days = chosen(visit.request.query_params, "days", _DAYS)
    steps = services.tank.approvals.stats(
        owner=None if who.role.covers(Role.OPERATOR) else who.user,
        since_s=int(days) * 86_400.0, thread_metadata=who.filters.get("threads"),
    )  # fmt: skip
    return show(
        visit,
        "inbox_statistics.html",
        page_name="inbox",
        steps=[{**step, "bar": _bar(step)} for step in steps],
        total=sum(step["asked"] for step in steps),
        days=days,
        choices=sorted(_DAYS, key=int),
        **banners_of(services, who, None),
    )


def _bar(step: Mapping[str, Any]) -> list[tuple[str, int, float, float]]:
    """What became of the questions of a step, as parts of a bar of 100: outcome, how many, from
    where, how wide."""
    made: list[tuple[str, int, float, float]] = []
    at = 0.0
    for outcome in _OUTCOMES:
        count = int(step[outcome])
        if count:
            width = 100 * count / step["asked"]
            made.append((outcome, count, round(at, 3), round(width, 3)))
            at += width
    return made
