"""Runs as the console shows them: their state in colour and words, and what may be done with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from surgetank.app.threads import Unsaved
from surgetank.console.showing import url
from surgetank.console.visits import UserVisit
from surgetank.exceptions import InvalidTransition, SurgetankError
from surgetank.server.access.authorizing import allowed_on
from surgetank.server.agent.requests import run_on
from surgetank.server.services import Services
from surgetank.workflows.runs import Run
from surgetank.workflows.status import Status

router = APIRouter()
MOST = 20
_OF_THREADS = {
    "busy": ("info", "Running"), "interrupted": ("info", "Waits for a person"), "error": ("critical", "Failed"),
    "idle": ("plain", "Idle"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunShown:
    """A run with its colour and words."""

    run: Run
    kind: str
    words: str

    @classmethod
    def of(cls, run: Run, unsaved: Unsaved, *, is_newest: bool) -> RunShown:
        """One whose data may not be saved is never just completed. `unsaved`: what of its thread is not."""
        is_saved = unsaved.is_saved or not (
            is_newest
            or unsaved.parked
            or run.ended_at is None
            or run.ended_at.timestamp() >= (unsaved.since or 0.0)
        )
        return cls(run, *_state(run, is_saved=is_saved))

    @property
    def is_under_way(self) -> bool:
        """Whether it has not ended."""
        return self.run.status in (Status.PENDING, Status.RUNNING)

    @property
    def took(self) -> float | None:
        """Seconds from its first step to its end, of one that has ended."""
        began, ended = self.run.started_at, self.run.ended_at
        if began is None or ended is None or self.is_under_way:
            return None
        return max(0.0, (ended - began).total_seconds())


def why_not_away(services: Services) -> str:
    """Why runs can't be asked for just now; empty where they can."""
    if any(state.value != "closed" for state in services.tank.breakers().values()):
        return "Runs can't be listed while the database is away."
    return ""


def runs_of(services: Services, thread_id: str, unsaved: Unsaved) -> tuple[list[RunShown], str]:
    """The newest runs of a thread, or why they can't be listed."""
    if why := why_not_away(services):
        return [], why
    try:
        runs = services.tank.runs.of_thread(thread_id, limit=MOST)
    except SurgetankError:
        return [], "Runs can't be listed just now: the database can't be asked."
    return [RunShown.of(run, unsaved, is_newest=n == 0) for n, run in enumerate(runs)], ""


def state_of_thread(status: str | None) -> tuple[str, str]:
    """How a thread is shown; None for one that no run of a server was on."""
    return ("plain", "") if status is None else _OF_THREADS.get(status, ("plain", status))


def _state(run: Run, *, is_saved: bool) -> tuple[str, str]:
    match run.status:
        case Status.COMPLETED:
            return ("ok", "Completed") if is_saved else ("warning", "Completed, not saved yet")
        case Status.FAILED:
            return "critical", "Took too long" if run.timed_out else "Failed"
        case Status.CANCELLED:
            return "plain", "Cancelled"
        case Status.AWAITING_CHECKPOINT:
            return "info", "Waits for a person"
        case Status.RUNNING:
            return "info", "Running" if run.cancel_action is None else "Is being stopped"
        case _:
            return "plain", "Waits to begin"


ThreadId = Annotated[str, Query(alias="id", min_length=1, max_length=2048, pattern=r"^[^\x00]+$")]


@router.post("/thread/cancel")
async def cancel(visit: UserVisit, thread_id: ThreadId, run: UUID) -> Response:
    """Ask a run to end. Its steps stay."""
    services = visit.services
    who = await allowed_on(services, visit.caller, thread_id, "update")

    def ask() -> None:
        services.visibility.check(who, thread_id)
        there = run_on(services, thread_id, str(run))
        try:
            services.tank.runs.cancel(there.run_id, actor=who.user)
        except InvalidTransition:
            return  # it has ended: the page says how

    await run_in_threadpool(ask)
    return RedirectResponse(url("thread", id=thread_id, run=run), 303)
