"""Entries that the database refused, for operators: kept, shown without their values, tried
again."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Path

from surgetank.model import ParkedEntry
from surgetank.notify.report import to_plain_data
from surgetank.server.access.disclosure import job_for
from surgetank.server.access.roles import Role
from surgetank.server.dependencies import After, CurrentCaller, Deps, Limit, require, signed_in
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import documented, not_found
from surgetank.server.schemas.answers import Job, ParkedDetail, ParkedList
from surgetank.server.services import Services

router = APIRouter(
    prefix="/parked",
    tags=["parked"],
    dependencies=signed_in(Depends(require(Role.OPERATOR))),
    responses=documented(401, 403, 404, 422, 429, 503),
)
# Rows of tables have numbers below zero.
ParkedId = Annotated[int, Path(ge=-(2**62), le=2**62, examples=[1])]


def _body(entry: ParkedEntry, *, details: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = to_plain_data(entry)
    if not details:
        body["failure"]["stack_trace"] = None
    return body


@router.get("", response_model=ParkedList)
def parked(services: Deps, limit: Limit = 50, after: After = None) -> dict[str, Any]:
    """Parked entries, oldest first."""
    at = position(after, int)
    entries = sorted(services.tank.parked(), key=lambda entry: entry.id)
    found = [entry for entry in entries if at is None or entry.id > at[0]]
    more = len(found) > limit
    return {
        "parked": [_body(entry) for entry in found[:limit]],
        "next": cursor(found[limit - 1].id) if more else None,
    }


def _find(services: Services, parked_id: int) -> ParkedEntry:
    return services.tank.parked.get(parked_id)


@router.get("/{parked_id}", response_model=ParkedDetail)
def parked_entry(parked_id: ParkedId, services: Deps) -> dict[str, Any]:
    """One parked entry: why it was refused, with the stack trace, and its records without their
    values."""
    found = _find(services, parked_id)
    records = [
        {"key": record.key, "bytes": record.bytes}
        for record in services.tank.parked.records(parked_id)
    ]
    return {**_body(found, details=True), "records": records}


@router.post("/{parked_id}/retry", response_model=Job, responses=documented(409))
async def retry(parked_id: ParkedId, services: Deps, who: CurrentCaller) -> dict[str, Any]:
    """Try a parked entry again, after what stood in its way was mended. The answer is the flush
    job."""
    await to_thread.run_sync(_find, services, parked_id)
    job = await to_thread.run_sync(
        services.tank.parked.retry, [parked_id], limiter=services.flushing
    )
    if job is None:  # another request was quicker
        raise not_found("parked entry", str(parked_id), remedy="see GET /parked.")
    return job_for(who, job)
