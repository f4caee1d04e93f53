"""System errors, for administrators."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query

from surgetank.events.types import Severity
from surgetank.server.dependencies import Admin, After, Deps, Limit, signed_in
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import documented
from surgetank.server.schemas.telling import (
    DeletedErrors,
    Error,
    ErrorDetail,
    Errors,
    Resolution,
    Snooze,
    Stats,
    Trends,
    TroubledThreads,
)
from surgetank.streams.errors.answers import ErrorFilter
from surgetank.streams.errors.groups import ErrorGroup

router = APIRouter(
    prefix="/admin/system-errors",
    tags=["system errors"],
    dependencies=signed_in(),
    responses=documented(401, 403, 422, 429, 503),
)
Text = partial(Query, max_length=2048, pattern=r"^[^\x00]*$")
_TIME = {"ge": -1e10, "le": 1e11, "allow_inf_nan": False}
ErrorId = Annotated[
    str, Path(max_length=100, pattern=r"^[0-9a-fA-F-]+$", description="The error's id.")
]


@router.get("", response_model=Errors)
def errors(
    _: Admin,
    services: Deps,
    limit: Limit = 50,
    after: After = None,
    error_type: Annotated[str | None, Text(description="Only this type.")] = None,
    severity: Annotated[Severity | None, Query(description="Only this severity.")] = None,
    thread_id: Annotated[
        str | None, Text(description="Only errors that touched this thread.")
    ] = None,
    resolved: Annotated[
        bool | None, Query(description="Only resolved or only unresolved ones.")
    ] = None,
    since: Annotated[
        float | None, Query(**_TIME, description="Last seen then or later (epoch seconds).")
    ] = None,
    until: Annotated[float | None, Query(**_TIME, description="Last seen before then.")] = None,
    text: Annotated[str | None, Text(description="With this text in message or type.")] = None,
) -> dict[str, Any]:
    """Errors grouped by what they have in common, newest first; also while the database is down."""
    at = position(after, float, str)
    wanted = ErrorFilter(
        error_type=error_type,
        severity=severity.value if severity else None,
        thread_id=thread_id,
        resolved=resolved,
        since=since,
        until=until,
        text=text or None,
    )
    page = services.tank.errors.find(wanted, limit=limit, cursor=(at[0], at[1]) if at else None)
    return {
        "status": "ok" if page.problem is None else "partial",
        "count": len(page.errors),
        "errors": [group.to_dict() for group in page.errors],
        "next": cursor(*page.cursor) if page.cursor else None,
        "problem": page.problem,
    }


@router.get("/stats", response_model=Stats)
def stats(_: Admin, services: Deps) -> dict[str, Any]:
    """Errors counted by type and severity."""
    counts, problem = services.tank.errors.counts()
    return {
        "total": sum(c["groups"] for c in counts),
        "unresolved": sum(c["unresolved"] for c in counts),
        "occurrences": sum(c["occurrences"] for c in counts),
        "counts": counts,
        "problem": problem,
    }


@router.get("/trends", response_model=Trends)
def trends(
    _: Admin,
    services: Deps,
    hours: Annotated[float, Query(gt=0, le=24 * 366, description="How far back.")] = 24.0,
    bucket: Annotated[Literal["hour", "day"], Query(description="The length of a step.")] = "hour",
) -> dict[str, Any]:
    """Occurrences by hour or day."""
    found, problem = services.tank.errors.trends(
        since=services.clock() - hours * 3600, bucket=bucket
    )
    return {"bucket": bucket, "trends": found, "problem": problem}


@router.get("/threads", response_model=TroubledThreads)
def threads(
    _: Admin,
    services: Deps,
    at_least: Annotated[int, Query(ge=1, le=1000, description="How many errors at least.")] = 2,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Threads with several unresolved errors, worst first. Needs the database."""
    return {"threads": services.tank.errors.troubled_threads(at_least=at_least, limit=limit)}


@router.get("/{error_id}", response_model=ErrorDetail, responses=documented(404))
def error(_: Admin, error_id: ErrorId, services: Deps) -> dict[str, Any]:
    """One error with its stack trace, its threads and what was done about it."""
    detail = services.tank.errors.detail(error_id.lower())
    return {
        **detail.group.to_dict(),
        "threads": detail.threads,
        "audit": detail.audit,
        "problem": detail.problem,
    }


@router.post("/{error_id}/resolve", response_model=Error, responses=documented(404, 409))
def resolve(
    who: Admin, error_id: ErrorId, services: Deps, body: Resolution | None = None
) -> dict[str, Any]:
    """Mark an error as resolved. If it comes back, it is reopened as regressed."""
    notes = body.resolution_notes if body is not None else ""
    return _shown(services.tank.errors.act(error_id.lower(), "resolve", who.user, notes=notes))


@router.post("/{error_id}/reopen", response_model=Error, responses=documented(404, 409))
def reopen(
    who: Admin, error_id: ErrorId, services: Deps, body: Resolution | None = None
) -> dict[str, Any]:
    """Open a resolved error again."""
    notes = body.resolution_notes if body is not None else ""
    return _shown(services.tank.errors.act(error_id.lower(), "reopen", who.user, notes=notes))


@router.post("/{error_id}/snooze", response_model=Error, responses=documented(404, 409))
def snooze(
    who: Admin, error_id: ErrorId, services: Deps, body: Snooze | None = None
) -> dict[str, Any]:
    """Send no alerts for an error for some time."""
    wanted = body or Snooze()
    until = services.clock() + wanted.seconds
    return _shown(
        services.tank.errors.act(
            error_id.lower(), "snooze", who.user, notes=wanted.notes, until=until
        )
    )


@router.delete("", response_model=DeletedErrors)
def delete_resolved(
    who: Admin,
    services: Deps,
    error_type: Annotated[str | None, Text(description="Only this type.")] = None,
    severity: Annotated[Severity | None, Query(description="Only this severity.")] = None,
    until: Annotated[float | None, Query(**_TIME, description="Last seen before then.")] = None,
    text: Annotated[str | None, Text(description="With this text in message or type.")] = None,
) -> dict[str, Any]:
    """Delete resolved errors that match, at most 1,000, the newest first. What was done about them stays
    in the audit table."""
    wanted = ErrorFilter(
        error_type=error_type, severity=severity.value if severity else None, until=until,
        text=text or None,
    )  # fmt: skip
    return {"deleted": services.tank.errors.delete_resolved(wanted, who.user)}


@router.delete("/{error_id}", status_code=204, responses=documented(404, 409))
def delete(who: Admin, error_id: ErrorId, services: Deps) -> None:
    """Delete a resolved error. What was done about it stays in the audit table."""
    services.tank.errors.act(error_id.lower(), "delete", who.user)


def _shown(group: ErrorGroup) -> dict[str, Any]:
    return group.to_dict()
