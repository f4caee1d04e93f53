"""The state of a thread at a checkpoint, compared with another one, and going on from it: run again, or changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from surgetank.console import comparing, forms
from surgetank.console.banners import banners_of
from surgetank.console.runs import ThreadId
from surgetank.console.showing import show, url
from surgetank.console.time_travel import Travel, assistant_of, changed_values, travel_from
from surgetank.console.visits import UserVisit, Visit, Visitor
from surgetank.exceptions import InvalidRequest, SurgetankError
from surgetank.server.access.authorizing import allowed_on
from surgetank.server.access.roles import Caller
from surgetank.server.agent.requests import start_run
from surgetank.server.agent.state import config_for, known_row, write_state
from surgetank.server.http.problems import not_found
from surgetank.server.services import Services
from surgetank.server.shown import Shown, head_of, values_of, writes_of
from surgetank.server.steps import steps_of

router = APIRouter()
_STATE_BYTES = 48 * 1024  # of a state that is shown; twice where two are compared
_VALUE_BYTES = 32 * 1024
_NEAR = 15
_CHANGES = 60
_OWN = ("__", "branch:")  # channels that are LangGraph's own
Id = Annotated[str, Query(max_length=2048, pattern=r"^[^\x00]*$")]
At = Annotated[str, Query(alias="at", min_length=1, max_length=2048, pattern=r"^[^\x00]+$")]


@router.get("/thread/checkpoint")
async def checkpoint(
    visit: Visitor, thread_id: ThreadId, checkpoint_id: At,
    ns: Id = "", against: Id = "",
) -> Response:  # fmt: skip
    """The state at a checkpoint, and what differs from the one before it or from another one."""
    who = await allowed_on(visit.services, visit.caller, thread_id, "read")
    await run_in_threadpool(visit.services.visibility.check, who, thread_id)
    travel = await travel_from(visit, thread_id, ns, checkpoint_id)
    return await run_in_threadpool(
        _shown_at, visit, who, thread_id, ns, checkpoint_id, against, travel
    )


def _shown_at(
    visit: Visit, who: Caller, thread_id: str, ns: str, checkpoint_id: str, against: str,
    travel: Travel, *, refused: str = "", code: int = 200,
) -> Response:  # fmt: skip
    """The page of a checkpoint; with what was refused, if something was."""
    services = visit.services
    raw = services.stored.read(thread_id, ns, checkpoint_id)
    if raw is None:
        raise not_found("checkpoint", checkpoint_id, remedy="see the steps of the thread.")
    compared = against or raw.parent_id
    other = services.stored.read(thread_id, ns, compared) if compared else None
    (step,) = steps_of([raw], _parent_of(services, raw))
    shown = Shown(_VALUE_BYTES, _STATE_BYTES)
    values, head = _values(raw, shown), head_of(raw, Shown(_VALUE_BYTES))
    before = _values(other, Shown(_VALUE_BYTES, _STATE_BYTES)) if other is not None else None
    changes = list(comparing.changes(before, values)) if before is not None else []
    near = steps_of(list(services.stored.history(thread_id, ns, limit=_NEAR, channels=())), {})
    return show(
        visit,
        "checkpoint.html",
        code,
        page_name="threads",
        thread_id=thread_id,
        step=step,
        metadata=head["metadata"] if isinstance(head["metadata"], Mapping) else {},
        values=values,
        text=forms.shown_json(values),
        text_before=forms.shown_json(before) if before is not None else None,
        compared=compared if other is not None else None,
        near=[each for each in near if each.checkpoint_id != checkpoint_id],
        changes=changes[:_CHANGES],
        more_changes=max(0, len(changes) - _CHANGES),
        omitted=shown.omitted,
        writes=_written(raw, is_newest=not near or near[0].checkpoint_id <= checkpoint_id),
        subgraphs=_subgraphs(services, thread_id, travel),
        travel=travel,
        refused=refused,
        given=visit.form() if refused else {},
        **banners_of(services, who, thread_id),
    )


_SPECIAL = {"__interrupt__": "asks a person", "__error__": "failed", "__resume__": "was answered"}


def _written(raw: Any, *, is_newest: bool) -> list[tuple[str, str]]:
    """What tasks of the next step have given on top of a state: what they ask and how they failed; and results, as
    long as the step isn't complete."""
    return [
        (_SPECIAL.get(str(each["channel"]), str(each["channel"])), comparing.words(each["value"]))
        for each in writes_of(raw, Shown(_VALUE_BYTES, _STATE_BYTES // 2))
        if each["channel"] in _SPECIAL or (is_newest and not each["channel"].startswith(_OWN))
    ]


def _subgraphs(services: Services, thread_id: str, travel: Travel) -> list[tuple[str, str, str]]:
    """Node, namespace and newest checkpoint of the graphs in this one that the next step enters."""
    found = (
        (name, ns, services.stored.read(thread_id, ns, channels=()))
        for name, ns in travel.subgraphs
        if ns
    )
    return [(name, ns, raw.checkpoint_id) for name, ns, raw in found if raw is not None]


def _parent_of(services: Services, raw: Any) -> dict[tuple[str, str], Any]:
    if not raw.parent_id:
        return {}
    parent = services.stored.read(raw.thread_id, raw.checkpoint_ns, raw.parent_id, channels=())
    return {(raw.checkpoint_ns, raw.parent_id): parent} if parent is not None else {}


def _values(raw: Any, shown: Shown) -> dict[str, Any]:
    return values_of(raw, [c for c in raw.record.present if not str(c).startswith(_OWN)], shown)


@router.post("/thread/replay")
async def replay(visit: UserVisit, thread_id: ThreadId, at: At, ns: Id = "") -> Response:
    """Run again what came after a checkpoint. In a subgraph that the thread is in, from a copy of it."""
    await _check(visit, thread_id)
    if not ns:
        return await _go_on(visit, thread_id, at)
    travel = await travel_from(visit, thread_id, ns, at)
    try:
        if travel.why_not:
            raise InvalidRequest(travel.why_not, remedy="see the steps of the thread.")
        config = config_for(thread_id, at, ns)
        await write_state(visit.services, visit.caller, config, None, as_node="__copy__")
    except SurgetankError as error:
        return await run_in_threadpool(
            _shown_at, visit, visit.caller, thread_id, ns, at, "", travel,
            refused=str(error), code=error.http_status,
        )  # fmt: skip
    return await _go_on(visit, thread_id, None)


@router.post("/thread/fork")
async def fork(visit: UserVisit, thread_id: ThreadId, at: At, ns: Id = "") -> Response:
    """Write a changed copy of a checkpoint, and go on from it where that is wanted. What is not possible is said on
    the page, and nothing is written then."""
    services, form = visit.services, visit.form()
    await _check(visit, thread_id)
    travel = await travel_from(visit, thread_id, ns, at)
    try:
        values = changed_values(travel, form)
        made = await write_state(
            services, visit.caller, config_for(thread_id, at, ns), values, as_node=form.get("as_node") or None
        )  # fmt: skip
    except SurgetankError as error:
        return await run_in_threadpool(
            _shown_at, visit, visit.caller, thread_id, ns, at, "", travel,
            refused=str(error), code=error.http_status,
        )  # fmt: skip
    written = str(made["checkpoint_id"])
    if form.get("go_on"):
        return await _go_on(visit, thread_id, None if ns else written)
    return RedirectResponse(url("thread/checkpoint", id=thread_id, at=written, ns=ns), 303)


async def _check(visit: Visit, thread_id: str) -> None:
    who = await allowed_on(visit.services, visit.caller, thread_id, "update")
    await run_in_threadpool(visit.services.visibility.check, who, thread_id)


async def _go_on(visit: Visit, thread_id: str, checkpoint_id: str | None) -> Response:
    """A run from a checkpoint; None: from where the thread is, with its subgraphs where they are."""
    row = await known_row(visit.services, thread_id)
    assistant = assistant_of(row, visit.services)
    if not assistant:
        raise InvalidRequest(
            "This server doesn't have the thread's graph.",
            remedy="start it with the project: `surgetank serve --config langgraph.json`.",
        )
    asked = {
        "assistant_id": assistant, **({"checkpoint_id": checkpoint_id} if checkpoint_id else {}),
        "multitask_strategy": "reject", "stream_mode": ["values", "messages"], "stream_subgraphs": True,
        "if_not_exists": "reject",
    }  # fmt: skip
    run = await start_run(visit.services, visit.caller, thread_id, asked)
    return RedirectResponse(url("thread", id=thread_id, run=run.run_id), 303)
