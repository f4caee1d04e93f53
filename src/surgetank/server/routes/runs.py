"""Runs: asked for, awaited, streamed, cancelled; on a thread, or without one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from surgetank.exceptions import InvalidTransition, RunNotFound
from surgetank.server.access.authorizing import AskedRoute
from surgetank.server.access.roles import Caller
from surgetank.server.agent.answers import RunResult, RunStream, result_of
from surgetank.server.agent.requests import (
    accept_run,
    headers_of,
    run_of,
    run_on,
    whose,
)
from surgetank.server.agent.state import known_row
from surgetank.server.agent.wire import json_response
from surgetank.server.dependencies import CurrentCaller, Deps, ThreadId, VisibleThread, signed_in
from surgetank.server.http.problems import Problem, documented
from surgetank.server.schemas.agent import RunAnswer, RunCreate, RunPart, RunsCancel
from surgetank.server.services import Services
from surgetank.workflows.runs import CancelAction, Run
from surgetank.workflows.status import Status, wire_status
from surgetank.workflows.wire import run_json

router = APIRouter(
    route_class=AskedRoute,
    tags=["runs"],
    dependencies=signed_in(),
    responses=documented(401, 403, 404, 409, 422, 429, 503),
)
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "Server-sent events."}
}
_VALUES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}}, "description": "The last values of the run."}
}
Action = Annotated[
    Literal["interrupt", "rollback"],
    Query(description="Whether its steps stay or go."),
]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", max_length=100)]
Modes = Annotated[list[str] | None, Query(description="Only events of these modes.")]


async def _accepted(services: Services, who: Caller, body: RunCreate, thread: str | None) -> Run:
    return await run_in_threadpool(accept_run, services, who, body, thread)


def _run(run: Run) -> Response:
    return json_response(run_json(run), headers=headers_of(run, "join"))


def _stream(services: Services, who: Caller, run: Run, body: RunCreate) -> RunStream:
    return RunStream(
        services, who, run, after=0, modes=None,
        cancel_on_disconnect=body.on_disconnect == "cancel",
    )  # fmt: skip


@router.post("/runs", response_model=RunAnswer)
async def create_stateless(body: RunCreate, who: CurrentCaller, services: Deps) -> Response:
    """Run a graph without a thread, in the background."""
    return _run(await _accepted(services, who, body, None))


@router.post("/runs/wait", responses=_VALUES)
async def wait_stateless(body: RunCreate, who: CurrentCaller, services: Deps) -> Response:
    """Run a graph without a thread, and wait for its last values."""
    run = await _accepted(services, who, body, None)
    return RunResult(services, who, run, cancel_on_disconnect=body.on_disconnect == "cancel")


@router.post("/runs/stream", responses=_STREAM)
async def stream_stateless(body: RunCreate, who: CurrentCaller, services: Deps) -> Response:
    """Run a graph without a thread, and follow it."""
    return _stream(services, who, await _accepted(services, who, body, None), body)


@router.post("/runs/batch", response_model=list[RunAnswer])
async def create_batch(body: list[RunCreate], who: CurrentCaller, services: Deps) -> Response:
    """Run several graphs without threads, in the background. At most 1000."""
    if len(body) > 1000:
        raise Problem(422, "invalid-request", "These are more than 1000 runs.", remedy="send less.")
    runs = [await _accepted(services, who, each, None) for each in body]
    return json_response([run_json(run) for run in runs])


@router.post("/runs/cancel", status_code=204)
async def cancel_runs(
    body: RunsCancel, who: CurrentCaller, services: Deps, action: Action = "interrupt"
) -> Response:
    """Ask several runs to end: those named, or those of a thread, or all of the caller's, in a
    state."""

    def cancel() -> None:
        if body.run_ids is not None:
            runs = [run_of(services, who, run_id) for run_id in body.run_ids]
        else:
            wanted = body.status or "all"
            states = ("pending", "running") if wanted == "all" else (wanted,)
            found = services.tank.runs.unfinished(body.thread_id, owner=whose(who))
            runs = [run for run in found if run.status in states]
            if who.filters:
                mine = services.visibility.readable(who, {run.thread_id for run in runs})
                runs = [run for run in runs if run.thread_id in mine]
        for run in runs:
            try:
                services.tank.runs.cancel(run.run_id, actor=who.user, action=CancelAction(action))
            except (InvalidTransition, RunNotFound):
                continue  # it has ended meanwhile

    await run_in_threadpool(cancel)
    return Response(status_code=204)


@router.post("/threads/{thread_id:name}/runs", response_model=RunAnswer)
async def create_run(
    thread_id: ThreadId, body: RunCreate, who: CurrentCaller, services: Deps
) -> Response:
    """Run a graph on a thread, in the background."""
    return _run(await _accepted(services, who, body, thread_id))


@router.post("/threads/{thread_id:name}/runs/wait", responses=_VALUES)
async def wait_run(
    thread_id: ThreadId, body: RunCreate, who: CurrentCaller, services: Deps
) -> Response:
    """Run a graph on a thread, and wait for its last values.

    A run that asks people gives `__interrupt__` beside the values, one that failed `__error__`.
    """
    run = await _accepted(services, who, body, thread_id)
    return RunResult(services, who, run, cancel_on_disconnect=body.on_disconnect == "cancel")


@router.post("/threads/{thread_id:name}/runs/stream", responses=_STREAM)
async def stream_run(
    thread_id: ThreadId, body: RunCreate, who: CurrentCaller, services: Deps
) -> Response:
    """Run a graph on a thread, and follow it. The header `Location` is where to go on after a
    break, with `Last-Event-ID`."""
    return _stream(services, who, await _accepted(services, who, body, thread_id), body)


@router.get("/threads/{thread_id:name}/runs", response_model=list[RunPart])
async def list_runs(
    thread_id: VisibleThread,
    services: Deps,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    status: Annotated[
        Literal["pending", "running", "success", "error", "timeout", "interrupted"] | None, Query()
    ] = None,
    select: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """The runs of a thread, newest first."""
    await known_row(services, thread_id)
    wanted = None if status is None else [s for s in Status if _shown_as(s, status)]
    found = await run_in_threadpool(
        services.tank.runs.of_thread, thread_id, statuses=wanted, limit=limit, offset=offset
    )
    rows = [run_json(run) for run in found]
    if status in ("error", "timeout"):
        rows = [row for row in rows if row["status"] == status]
    if select is not None:
        rows = [{name: row[name] for name in select if name in row} for row in rows]
    return json_response(rows)


def _shown_as(status: Status, wire: str) -> bool:
    return wire in (wire_status(status), wire_status(status, timed_out=True))


@router.get("/threads/{thread_id:name}/runs/{run_id}", response_model=RunAnswer)
async def get_run(thread_id: VisibleThread, run_id: str, services: Deps) -> Response:
    """One run of a thread, with its status."""
    return json_response(run_json(await run_in_threadpool(run_on, services, thread_id, run_id)))


@router.delete("/threads/{thread_id:name}/runs/{run_id}", status_code=204)
async def delete_run(
    thread_id: VisibleThread, run_id: str, services: Deps, who: CurrentCaller
) -> Response:
    """Delete the record of a run that has ended. 409 while it is under way."""
    run = await run_in_threadpool(run_on, services, thread_id, run_id)
    await run_in_threadpool(services.tank.runs.delete, run.run_id, actor=who.user)
    return Response(status_code=204)


@router.post("/threads/{thread_id:name}/runs/{run_id}/cancel")
async def cancel_run(
    thread_id: VisibleThread,
    run_id: str,
    who: CurrentCaller,
    services: Deps,
    wait: Annotated[bool, Query(description="Answer when it has ended.")] = False,
    action: Action = "interrupt",
) -> Response:
    """Ask a run to end. 404 for one that has ended."""
    run = await run_in_threadpool(run_on, services, thread_id, run_id)
    try:
        await run_in_threadpool(
            services.tank.runs.cancel, run.run_id, actor=who.user, action=CancelAction(action)
        )
    except InvalidTransition as error:
        raise Problem(
            404, "not-found", f"The run {run.run_id} has ended.", remedy=error.remedy
        ) from error
    if wait:
        await result_of(services, run)
    return json_response({})


@router.get("/threads/{thread_id:name}/runs/{run_id}/join", responses=_VALUES)
async def join_run(
    thread_id: VisibleThread,
    run_id: str,
    who: CurrentCaller,
    services: Deps,
    cancel_on_disconnect: bool = False,
) -> Response:
    """Wait for the last values of a run."""
    run = await run_in_threadpool(run_on, services, thread_id, run_id)
    return RunResult(services, who, run, cancel_on_disconnect=cancel_on_disconnect)


@router.get("/threads/{thread_id:name}/runs/{run_id}/stream", responses=_STREAM)
async def join_stream(
    thread_id: VisibleThread,
    run_id: str,
    who: CurrentCaller,
    services: Deps,
    stream_mode: Modes = None,
    cancel_on_disconnect: bool = False,
    last_event_id: LastEventId = None,
) -> Response:
    """Follow a run: what comes from now on, or with `Last-Event-ID` all that came after that
    (`0` or `-1`: all)."""
    run = await run_in_threadpool(run_on, services, thread_id, run_id)
    if last_event_id is None:
        after = (await services.streams.read(thread_id, limit=1)).last
    else:
        after = int(last_event_id) if last_event_id.isdecimal() else 0
    return RunStream(
        services, who, run, after=after, modes=[mode for mode in stream_mode or () if mode] or None,
        cancel_on_disconnect=cancel_on_disconnect,
    )  # fmt: skip
