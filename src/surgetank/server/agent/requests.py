"""From what a client asks for to a run that is accepted."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool

from surgetank.exceptions import RunNotFound
from surgetank.server.access.authorizing import allowed_command
from surgetank.server.access.roles import Caller, Role
from surgetank.server.agent.assistants import chosen
from surgetank.server.http.problems import Problem, not_found
from surgetank.server.schemas.agent import RunCreate
from surgetank.server.services import Services
from surgetank.workflows.runs import AUTH_USER, NewRun, Run, Strategy

_NAMED_ELSEWHERE = {
    "assistant_id", "metadata", "multitask_strategy", "if_not_exists", "after_seconds", "priority",
    "timeout_s", "run_id",
}  # fmt: skip


def accept_run(services: Services, who: Caller, body: RunCreate, thread_id: str | None) -> Run:
    """Accept a run on a thread, or without one on a temporary thread of its own.

    Raises `Problem`, `ThreadBusy`, `ThreadNotFound`, `QuotaExceeded`.
    """
    assistant = chosen(services, who, body.assistant_id)
    if body.webhook is not None:
        services.tank.webhooks.check_url(body.webhook)
    temporary = thread_id is None
    thread = thread_id if thread_id is not None else str(uuid.uuid4())
    make_thread = temporary or body.if_not_exists == "create"
    owner: str | None = who.user
    # A thread that is made for the run starts with its metadata, as on LangGraph's server.
    metadata = dict(body.metadata or {})
    if not temporary:
        ownership = services.owners.of(thread)
        if ownership.exists or not make_thread:
            services.visibility.check(who, thread)
            make_thread = ownership.exists  # by its checkpoints only, perhaps
            # Who may read it without owning it works for its owner.
            if ownership.exists:
                owner, metadata = ownership.owner, {}
    new = NewRun(
        thread_id=thread,
        assistant_id=assistant.id,
        graph_id=assistant.graph_id,
        owner=owner,
        run_id=_run_id(body.run_id),
        strategy=Strategy(body.multitask_strategy or "enqueue"),
        priority=body.priority,
        after_s=body.after_seconds or 0.0,
        kwargs=assistant.given({**_kwargs(body, temporary=temporary), **given_of(who)}),
        metadata=dict(body.metadata or {}),
        max_attempts=max(3, body.retries + 1),
        timeout_s=body.timeout_s,
        make_thread=make_thread,
        temporary=temporary,
        thread_metadata={**metadata, "graph_id": assistant.graph_id, "assistant_id": assistant.id},
    )
    return services.tank.runs.accept(new, actor=who.user)


async def start_run(
    services: Services, who: Caller, thread_id: str, asked: Mapping[str, Any]
) -> Run:
    """Accept a run as if a client had sent it: the project's handlers are asked, and may change what it
    is given. Raises what `accept_run` raises."""
    who, left = await allowed_command(services, who, thread_id, asked, starts=True)
    body = RunCreate.model_validate(left)
    return await run_in_threadpool(accept_run, services, who, body, thread_id)


def given_of(who: Caller) -> dict[str, Any]:
    """What a run keeps of the user whom the project's own handler let in, for its graph."""
    return {AUTH_USER: dict(who.given)} if who.given is not None else {}


def _kwargs(body: RunCreate, *, temporary: bool) -> dict[str, Any]:
    kwargs = {
        name: value
        for name, value in body.model_dump(exclude_unset=True).items()
        if name not in _NAMED_ELSEWHERE and value is not None
    }
    if body.command is not None:
        kwargs["command"] = body.command.model_dump(exclude_unset=True)
    if temporary:
        kwargs.setdefault("on_completion", "delete")
    else:
        kwargs.pop("on_completion", None)
    return kwargs


def _run_id(text: str | None) -> uuid.UUID:
    return uuid.uuid4() if text is None else uuid_of(text, "run_id")


def uuid_of(text: str, what: str) -> uuid.UUID:
    """An id. Raises `Problem` 422 for text that is none."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise Problem(
            422, "invalid-request", f"The {what} is no UUID.", remedy="use the id as it was given."
        ) from None


def run_on(services: Services, thread_id: str, run_id: str) -> Run:
    """A run of a thread. Raises `Problem` 404."""
    try:
        run = services.tank.runs.get(uuid_of(run_id, "run_id"))
    except RunNotFound:
        run = None
    if run is None or run.thread_id != thread_id:
        raise not_found("run of this thread", run_id, remedy="list the runs of the thread.")
    return run


def run_of(services: Services, who: Caller, run_id: str) -> Run:
    """A run by its id alone, on a thread that the caller may read. Raises `Problem` 404."""
    try:
        run = services.tank.runs.get(uuid_of(run_id, "run_id"))
    except RunNotFound:
        raise not_found("run", run_id) from None
    if not services.visibility.reads(who, run.thread_id):
        raise not_found("run", run_id)
    return run


def whose(who: Caller) -> str | None:
    """The owner that a caller's lists are limited to; None for administrators, who see all."""
    return None if who.role is Role.ADMIN else who.user


def headers_of(run: Run, ending: str) -> Mapping[str, str]:
    """Where a client finds the run again."""
    at = f"/threads/{quote(run.thread_id, safe='')}/runs/{run.run_id}"
    return {"Location": f"{at}/{ending}", "Content-Location": at}
