"""Who did what, when and from where."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from surgetank.console.banners import banners_of
from surgetank.console.showing import show
from surgetank.console.visits import AdminVisit, OperatorVisit
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import Problem
from surgetank.workflows.audit import AuditFilter

router = APIRouter()
_PAGE = 50
_MOST_DETAIL = 2000
Text = Annotated[str, Query(max_length=2048, pattern=r"^[^\x00]*$")]
When = Annotated[str, Query(max_length=40)]


@router.get("/audit")
def audit(
    visit: OperatorVisit,
    after: str | None = None,
    actor: Text = "",
    action: Text = "",
    thread: Text = "",
    since: When = "",
    until: When = "",
) -> Response:
    """Rows of the audit, newest first."""
    at = position(after, int)
    tank = visit.services.tank
    found = tank.audit.list(
        AuditFilter(
            actor=actor or None,
            action=action or None,
            thread=thread or None,
            since=_moment(since),
            until=_moment(until),
        ),
        before=max(0, min(at[0], 2**62)) if at else None,
        limit=_PAGE + 1,
    )
    actions = tank.audit.actions()
    return show(
        visit,
        "audit.html",
        page_name="audit",
        rows=[{**row, "said": _detail(row["detail"])} for row in found[:_PAGE]],
        actions=actions if not action or action in actions else (action, *actions),
        wanted={"actor": actor, "action": action, "thread": thread, "since": since, "until": until},
        is_first=after is None,
        next=cursor(found[_PAGE - 1]["id"]) if len(found) > _PAGE else None,
        **banners_of(visit.services, visit.caller, None),
    )


def _moment(text: str) -> float | None:
    """Seconds of what a field for a time has; without a zone it is UTC. Raises `Problem`."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text if "T" in text else f"{text}T00:00")
        return (at if at.tzinfo else datetime.fromisoformat(f"{at.isoformat()}+00:00")).timestamp()
    except (ValueError, OverflowError) as error:
        raise Problem(
            422, "invalid-request", f"{text!r} is no time.", remedy="write it as 2026-11-28T09:30."
        ) from error


def _detail(detail: Any) -> str:
    if not detail:
        return ""
    if isinstance(detail, dict) and all(not isinstance(v, dict | list) for v in detail.values()):
        return ", ".join(f"{name}: {value}" for name, value in detail.items())[:_MOST_DETAIL]
    return json.dumps(detail, ensure_ascii=False)[:_MOST_DETAIL]


@router.get("/audit/export")
def export(visit: AdminVisit) -> StreamingResponse:
    """All of it as lines of JSON, with the numbers and hashes of its chains."""
    lines = visit.services.tank.audit.export()
    headers = {"Content-Disposition": 'attachment; filename="audit.ndjson"'}
    return StreamingResponse(
        (line + "\n" for line in lines), media_type="application/x-ndjson", headers=headers
    )
