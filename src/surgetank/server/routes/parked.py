"""Entries that the database refused, for operators: kept, shown without their values, tried
again, or discarded by administrators."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Path

from surgetank.model import FlushJob, ParkedEntry
from surgetank.notify.report import to_plain_data
from surgetank.server.access.disclosure import job_for
from surgetank.server.access.roles import Caller, Role
from surgetank.server.dependencies import (
    Admin,
    After,
    CurrentCaller,
    Deps,
    Limit,
    require,
    signed_in,
)
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import documented, not_found
from surgetank.server.schemas.answers import (
    Job,
    ParkedChosen,
    ParkedDetail,
    ParkedDiscarded,
    ParkedList,
    ParkedRetried,
)
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
    job = await _retry(services, who, [parked_id])
    if job is None:  # another request was quicker
        raise not_found("parked entry", str(parked_id), remedy="see GET /parked.")
    return job_for(who, job)


async def _retry(services: Services, who: Caller, ids: list[int]) -> FlushJob | None:
    retry = partial(services.tank.parked.retry, ids, by=who.user)
    return await to_thread.run_sync(retry, limiter=services.flushing)


@router.post("/retry", response_model=ParkedRetried)
async def retry_several(wanted: ParkedChosen, services: Deps, who: CurrentCaller) -> dict[str, Any]:
    """Try several parked entries again. Those that are not there any more are left out."""
    job = await _retry(services, who, wanted.ids)
    return {"job": job_for(who, job) if job is not None else None}


@router.post("/discard", response_model=ParkedDiscarded, responses=documented(409))
def discard(wanted: ParkedChosen, services: Deps, who: Admin) -> dict[str, Any]:
    """Remove parked entries for good, which can't be undone. Those that are not there any more are left out."""
    gone = services.tank.parked.discard(wanted.ids, by=who.user)
    return {"discarded": [entry.id for entry in gone]}
