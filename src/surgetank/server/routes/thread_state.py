"""States of threads: the newest, one of before, the history; writing into a state by hand."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from surgetank.server.access.authorizing import AskedRoute
from surgetank.server.agent.state import (
    VALUE_BYTES,
    config_for,
    known_row,
    read_history,
    read_state,
    write_state,
)
from surgetank.server.agent.wire import json_response
from surgetank.server.dependencies import CurrentCaller, Deps, VisibleThread, signed_in
from surgetank.server.http.problems import documented
from surgetank.server.schemas.agent import (
    CheckpointAnswer,
    CheckpointBody,
    HistoryQuery,
    StateAnswer,
    StateQuery,
    StateUpdate,
)

router = APIRouter(
    route_class=AskedRoute,
    prefix="/threads",
    tags=["threads"],
    dependencies=signed_in(),
    responses=documented(401, 403, 404, 409, 422, 429, 503),
)
MAX_HISTORY = 1000
Subgraphs = Annotated[bool, Query(description="With the states of subgraphs that are under way.")]
Namespace = Annotated[
    str, Query(max_length=2048, pattern=r"^[^\x00]*$", description="Empty for the root graph.")
]
ValueBytes = Annotated[
    int, Query(ge=64, le=4 * 1024 * 1024, description="Larger stored values are cut short.")
]
CheckpointId = Annotated[str | None, Query(max_length=2048, pattern=r"^[^\x00]*$")]


@router.get("/{thread_id:name}/state", response_model=StateAnswer)
async def state(
    thread_id: VisibleThread,
    services: Deps,
    checkpoint_id: CheckpointId = None,
    ns: Namespace = "",
    subgraphs: Subgraphs = False,
    value_bytes: ValueBytes = VALUE_BYTES,
) -> Response:
    """The newest state of a thread, or an older one.

    Without the thread's graph the values are shown as they are stored: `omitted` and `replaced`
    name what was cut or is no JSON, and nothing is said of what comes next.
    """
    row = await known_row(services, thread_id)
    config = config_for(thread_id, checkpoint_id or None, ns)
    found = await read_state(services, row, config, subgraphs=subgraphs, value_bytes=value_bytes)
    return json_response(found)


@router.post("/{thread_id:name}/state/checkpoint", response_model=StateAnswer)
async def state_at(thread_id: VisibleThread, body: StateQuery, services: Deps) -> Response:
    """The state that a checkpoint names."""
    row = await known_row(services, thread_id)
    at = body.checkpoint or CheckpointBody()
    config = config_for(thread_id, at.checkpoint_id, at.checkpoint_ns)
    return json_response(await read_state(services, row, config, subgraphs=body.subgraphs))


@router.get("/{thread_id:name}/state/{checkpoint_id}", response_model=StateAnswer)
async def state_of_checkpoint(
    thread_id: VisibleThread, checkpoint_id: str, services: Deps, subgraphs: Subgraphs = False
) -> Response:
    """An older state of a thread."""
    row = await known_row(services, thread_id)
    config = config_for(thread_id, checkpoint_id)
    return json_response(await read_state(services, row, config, subgraphs=subgraphs))


@router.post("/{thread_id:name}/state", response_model=CheckpointAnswer)
async def update_state(
    thread_id: VisibleThread, body: StateUpdate, services: Deps, who: CurrentCaller
) -> Response:
    """Write values into the state, as if a node had given them. 409 while a run is under way."""
    at = body.checkpoint or CheckpointBody()
    config = config_for(thread_id, body.checkpoint_id or at.checkpoint_id, at.checkpoint_ns)
    checkpoint = await write_state(services, who, config, body.values, as_node=body.as_node)
    return json_response({"checkpoint": checkpoint, "configurable": checkpoint, **checkpoint})


@router.get("/{thread_id:name}/history", response_model=list[StateAnswer])
async def history(
    thread_id: VisibleThread,
    services: Deps,
    limit: Annotated[int, Query(ge=1, le=MAX_HISTORY)] = 10,
    before: CheckpointId = None,
    ns: Namespace = "",
) -> Response:
    """The states of a thread, newest first."""
    row = await known_row(services, thread_id)
    config = config_for(thread_id, None, ns)
    return json_response(
        await read_history(services, row, config, limit=limit, before=before, metadata=None)
    )


@router.post("/{thread_id:name}/history", response_model=list[StateAnswer])
async def search_history(thread_id: VisibleThread, body: HistoryQuery, services: Deps) -> Response:
    """The states of a thread that a query names, newest first."""
    row = await known_row(services, thread_id)
    at = body.checkpoint or CheckpointBody()
    config = config_for(thread_id, None, at.checkpoint_ns)
    before = body.before
    earlier = before.checkpoint_id if isinstance(before, CheckpointBody) else before
    found = await read_history(
        services, row, config, limit=body.limit, before=earlier, metadata=body.metadata
    )
    return json_response(found)
