"""Parked entries: what the database refused and why, how it begins for who may read it, another try."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query
from starlette.responses import RedirectResponse, Response

from surgetank.console.banners import banners_of
from surgetank.console.showing import show, url
from surgetank.console.visits import OperatorVisit

router = APIRouter()
_PAGE = 50
_RECORDS = 100
_NUMBER = 2**62  # rows of tables have numbers below zero


@router.get("/parked")
def parked(
    visit: OperatorVisit,
    after: Annotated[int | None, Query(ge=-_NUMBER, le=_NUMBER)] = None,
    stream: Annotated[str, Query(max_length=200)] = "",
    text: Annotated[str, Query(max_length=2048)] = "",
) -> Response:
    """Entries that were set aside."""
    tank = visit.services.tank
    every = tank.parked()
    wanted = sorted(
        (
            entry
            for entry in every
            if stream in ("", entry.stream)
            and text.lower() in f"{entry.partition} {entry.failure.message}".lower()
        ),
        key=lambda entry: entry.id,
    )
    rest = [entry for entry in wanted if after is None or entry.id > after]
    return show(
        visit,
        "parked.html",
        page_name="parked",
        entries=rest[:_PAGE],
        total=len(every),
        stream=stream,
        streams=tank.streams,
        text=text,
        is_first=after is None,
        next=rest[_PAGE - 1].id if len(rest) > _PAGE else None,
        **banners_of(visit.services, visit.caller, None),
    )


@router.get("/parked/{parked_id}")
def parked_entry(visit: OperatorVisit, parked_id: int) -> Response:
    """One of them: why it was refused, and its records; how they begin for administrators."""
    tank = visit.services.tank
    found = tank.parked.get(parked_id)
    records = tank.parked.records(parked_id)
    return show(
        visit,
        "parked_entry.html",
        page_name="parked",
        entry=found,
        records=records[:_RECORDS],
        more_records=max(0, len(records) - _RECORDS),
        reads_content=visit.covers("admin"),
        **banners_of(visit.services, visit.caller, None),
    )


@router.post("/parked/retry")
async def retry_parked(visit: OperatorVisit) -> Response:
    """Try those again that were chosen, or all; leads to the job."""
    services = visit.services
    fields = visit.fields()
    ids = [int(value) for name, value in fields if name == "id" and _is_number(value)]
    if not ids and dict(fields).get("all") != "yes":
        return RedirectResponse(url("parked"), 303)
    made = await to_thread.run_sync(
        services.tank.parked.retry, ids or None, limiter=services.flushing
    )
    return RedirectResponse(url(f"jobs/{made.id}" if made is not None else "parked"), 303)


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and len(text) < 20
