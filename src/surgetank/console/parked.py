"""Parked entries: what the database refused and why, how it begins for who may read it, another try."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query
from starlette.responses import RedirectResponse, Response

from surgetank.console.banners import banners_of
from surgetank.console.showing import show, url
from surgetank.console.visits import AdminVisit, OperatorVisit, Visit

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
    gone: Annotated[str, Query(max_length=20)] = "",
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
        done=_said(gone),
        may_discard=visit.covers("admin"),
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
        may_discard=visit.covers("admin"),
        **banners_of(visit.services, visit.caller, None),
    )


@router.post("/parked/retry")
async def retry_parked(visit: OperatorVisit) -> Response:
    """Try those again that were chosen, or all; leads to the job."""
    services = visit.services
    ids = _chosen(visit)
    if not ids and visit.form().get("all") != "yes":
        return RedirectResponse(url("parked"), 303)
    retry = partial(services.tank.parked.retry, ids or None, by=visit.caller.user)
    made = await to_thread.run_sync(retry, limiter=services.flushing)
    return RedirectResponse(url(f"jobs/{made.id}" if made is not None else "parked"), 303)


@router.post("/parked/discard")
def discard_parked(visit: AdminVisit) -> Response:
    """Remove those that were chosen for good, where it was said that this is meant."""
    ids, is_meant = _chosen(visit), visit.form().get("sure") == "yes"
    gone = visit.services.tank.parked.discard(ids, by=visit.caller.user) if is_meant else []
    return RedirectResponse(url("parked", gone=len(gone) if is_meant else "unsure"), 303)


def _chosen(visit: Visit) -> list[int]:
    return [int(value) for name, value in visit.fields() if name == "id" and _is_number(value)]


def _said(gone: str) -> str:
    """What became of those that were discarded."""
    if gone == "unsure":
        return "Nothing was discarded: say that it is meant."
    if not gone.isdecimal() or len(gone) > 5:
        return ""
    return f"{int(gone)} {'entry was' if int(gone) == 1 else 'entries were'} discarded."


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and len(text) < 20
