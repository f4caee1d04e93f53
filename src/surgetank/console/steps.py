"""What a thread did: its steps with the time that each took, and its messages."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from surgetank.console import talk
from surgetank.console.runs import RunShown, ThreadId, runs_of
from surgetank.console.showing import show
from surgetank.console.visits import Visit, Visitor
from surgetank.exceptions import ColdStateUnavailable, RunNotFound, SurgetankError
from surgetank.server.access.authorizing import allowed_on
from surgetank.server.access.roles import Caller
from surgetank.server.services import Services
from surgetank.server.shown import Shown, id_at, values_of
from surgetank.server.steps import Step, missing_parents, steps_of

router = APIRouter()
_PAGE = 60
_EVENTS = 400
_AWAY = (
    "The database, which has the older steps, can't be asked just now. "
    "Those that wait in the buffer are shown."
)
_MESSAGES_BYTES = 96 * 1024
Id = Annotated[str, Query(max_length=2048, pattern=r"^[^\x00]*$")]
RunId = Annotated[UUID | None, Query(alias="run")]


@dataclass(frozen=True, slots=True)
class Bar:
    """A step on the line of its run: `began` and `length` in hundredths of the run's time; `took` is None
    where it can't be told."""

    step: Step
    depth: int
    took: float | None
    began: float
    length: float


@dataclass(frozen=True, slots=True)
class Group:
    """Steps of one run, in the order of time. `run_id` is None for those that no server ran."""

    run_id: str | None
    bars: tuple[Bar, ...]
    took: float | None


@router.get("/thread/steps")
async def steps(
    visit: Visitor, thread_id: ThreadId, run: RunId = None, before: Id = ""
) -> Response:
    """The steps of a thread, or of one run, the newest run first."""
    who = await allowed_on(visit.services, visit.caller, thread_id, "read")
    return await run_in_threadpool(_steps, visit, who, thread_id, run, before or None)


def _steps(
    visit: Visit, who: Caller, thread_id: str, run_id: UUID | None, before: str | None
) -> Response:
    services = visit.services
    services.visibility.check(who, thread_id)
    runs, _ = runs_of(services, thread_id, services.tank.threads.unsaved(thread_id))
    known = {str(each.run.run_id): each for each in runs}
    found, more, problem = list[Step](), False, ""
    try:
        at = before or _until(services, known, run_id)
        found, more = _read(services, thread_id, at)
    except ColdStateUnavailable:
        problem = _AWAY
        hot = services.stored.hot_history(thread_id, None, limit=_PAGE, channels=())
        found = steps_of(hot, {}) if before is None else []
    if run_id is not None:
        found, more = [step for step in found if step.run_id == str(run_id)], False
    return show(
        visit,
        "thread_steps.html",
        thread_id=thread_id,
        run_id=run_id,
        groups=_groups(found, known),
        problem_text=problem,
        before=before,
        next=found[-1].checkpoint_id if more and found else None,
    )


def _until(services: Services, known: Mapping[str, RunShown], run_id: UUID | None) -> str | None:
    """From where on a run's steps are read: those of later runs are left out."""
    if run_id is None:
        return None
    try:
        run = known[str(run_id)].run if str(run_id) in known else services.tank.runs.get(run_id)
    except (RunNotFound, SurgetankError):
        return None
    return id_at(run.ended_at.timestamp() + 60) if run.ended_at is not None else None


def _read(services: Services, thread_id: str, before: str | None) -> tuple[list[Step], bool]:
    history = services.stored.history(thread_id, None, before=before, limit=_PAGE, channels=())
    found = list(history)
    parents = {}
    for ns, parent_id in missing_parents(found):
        raw = services.stored.read(thread_id, ns, parent_id, channels=())
        if raw is not None:
            parents[ns, parent_id] = raw
    return steps_of(found, parents), history.more


def _groups(found: Sequence[Step], known: Mapping[str, RunShown]) -> list[Group]:
    groups = []
    for run_id, members in itertools.groupby(found, lambda step: step.run_id):
        run = known.get(run_id or "")
        in_time = sorted(members, key=lambda step: (step.at or 0.0, len(step.path)))
        groups.append(_group(run_id, run, in_time))
    return groups


def _group(run_id: str | None, run: RunShown | None, steps: Sequence[Step]) -> Group:
    started = run.run.started_at.timestamp() if run is not None and run.run.started_at else None
    timed = [(step, *_times(step, started)) for step in steps]
    moments = [at for _, began, ended in timed for at in (began, ended) if at is not None]
    begin = min(moments, default=0.0)
    total = max(moments, default=0.0) - begin
    bars = []
    for step, began, ended in timed:
        took = ended - began if began is not None and ended is not None else None
        share = 100.0 / total if total > 0 else 0.0
        at = (began - begin) * share if began is not None else 0.0
        bars.append(Bar(step, len(step.path), took, at, max(0.8, (took or 0.0) * share)))
    return Group(run_id, tuple(bars), total if total > 0 else None)


def _times(step: Step, started: float | None) -> tuple[float | None, float | None]:
    """When a step began and ended. What came before its run is not its time: nobody worked on it."""
    began = step.began
    if began is not None and started is not None and step.at is not None:
        began = min(max(began, started), step.at)
    if step.source in ("input", "update", "fork"):
        began = step.at  # it was written, nothing ran
    return began, step.at


@router.get("/thread/talk")
async def messages(visit: Visitor, thread_id: ThreadId) -> Response:
    """The newest messages of a thread, and those that a run sends just now."""
    who = await allowed_on(visit.services, visit.caller, thread_id, "read")
    return await run_in_threadpool(_talk, visit, who, thread_id)


def _talk(visit: Visit, who: Caller, thread_id: str) -> Response:
    services = visit.services
    services.visibility.check(who, thread_id)
    said, before, problem = list[talk.Message](), 0, ""
    try:
        raw = services.stored.read(thread_id, channels=["messages"])
        if raw is not None:
            values = values_of(raw, ["messages"], Shown(_MESSAGES_BYTES))
            said, before = talk.messages_of(values.get("messages"))
    except ColdStateUnavailable:
        problem = "The messages are in the database, which can't be asked just now."
    runs, _ = runs_of(services, thread_id, services.tank.threads.unsaved(thread_id))
    active = next((each for each in runs if each.is_under_way and each.run.started_at), None)
    if active is not None:
        sent = services.streams.log.last(str(active.run.run_id), most=_EVENTS)
        said += talk.growing(((each.event, each.data) for each in sent), said)
    return show(
        visit,
        "thread_talk.html",
        thread_id=thread_id,
        messages=said,
        before=before,
        active=active,
        problem_text=problem,
    )
