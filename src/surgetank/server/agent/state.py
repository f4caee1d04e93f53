"""The state of threads: through their graph where this server has it, else as it is stored.

What is stored is shown without importing or building any class; what comes next and what is asked
only a graph can tell.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from surgetank.exceptions import DatabaseUnavailable, InvalidRequest, ThreadBusy
from surgetank.server.access.roles import Caller
from surgetank.server.agent.wire import address_of, state_json
from surgetank.server.http.problems import Problem, not_found
from surgetank.server.services import Services
from surgetank.server.shown import Shown, head_of, values_of, writes_of
from surgetank.workflows.threads import ThreadRow

if TYPE_CHECKING:
    from surgetank.workflows.graphs.shape import Graph

VALUE_BYTES = 256 * 1024
_OWN = ("__", "branch:")  # channels that are LangGraph's own


@asynccontextmanager
async def graph_of(
    services: Services, row: ThreadRow | None, config: Mapping[str, Any]
) -> AsyncIterator[Graph | None]:
    """The graph of a thread, opened for reading; None where this server doesn't have it."""
    graphs = services.graphs
    name = str((row.metadata if row is not None else {}).get("graph_id") or "")
    if graphs is not None and not name and len(graphs.names) == 1:
        (name,) = graphs.names
    if graphs is None or name not in graphs.names:
        yield None
        return
    async with graphs.open(name, {"configurable": dict(config)}, access="threads.read") as graph:
        yield graph


def config_for(
    thread_id: str, checkpoint_id: str | None = None, checkpoint_ns: str | None = None
) -> dict[str, Any]:
    """The `configurable` that names a state."""
    config = {"thread_id": thread_id, "checkpoint_ns": checkpoint_ns or ""}
    return config | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})


async def read_state(
    services: Services, row: ThreadRow | None, config: dict[str, Any], *, subgraphs: bool = False,
    value_bytes: int = VALUE_BYTES,
) -> dict[str, Any]:  # fmt: skip
    """A state as clients know it. Raises `Problem` 404 for a checkpoint that is not there."""
    async with graph_of(services, row, config) as graph:
        if graph is not None:
            state = await graph.aget_state({"configurable": config}, subgraphs=subgraphs)
            if config.get("checkpoint_id") and state.created_at is None:
                raise _no_checkpoint(config)
            return state_json(state)
    return await run_in_threadpool(_stored_state, services, config, value_bytes)


async def read_values(services: Services, row: ThreadRow) -> Any:
    """The newest values of a thread; None when it has none, or when the graph can't be had."""
    try:
        return (await read_state(services, row, config_for(row.thread_id)))["values"]
    except Problem:
        return None


def _stored_state(
    services: Services, config: Mapping[str, Any], value_bytes: int = VALUE_BYTES
) -> dict[str, Any]:
    thread_id, ns = config["thread_id"], config.get("checkpoint_ns", "")
    raw = services.stored.read(thread_id, ns, config.get("checkpoint_id"))
    if raw is None:
        if config.get("checkpoint_id") or ns:
            raise _no_checkpoint(config)
        return {
            "values": {}, "next": [], "tasks": [], "checkpoint": dict(config), "metadata": {},
            "parent_checkpoint": None, "created_at": None, "interrupts": [],
        }  # fmt: skip
    shown = Shown(value_bytes)
    head = head_of(raw, shown)
    channels = [c for c in raw.record.present if not str(c).startswith(_OWN)]
    parent = head["parent_checkpoint_id"]
    at = {"thread_id": thread_id, "checkpoint_ns": ns}
    return {
        "values": values_of(raw, channels, shown),
        "next": [],
        "tasks": [],
        "checkpoint": at | {"checkpoint_id": raw.checkpoint_id},
        "parent_checkpoint": at | {"checkpoint_id": parent} if parent else None,
        "metadata": head["metadata"],
        "created_at": head["created_at"],
        "interrupts": [],
        "pending_writes": writes_of(raw, shown),
        "omitted": shown.omitted,
        "replaced": shown.replaced,
    }


async def read_history(
    services: Services, row: ThreadRow | None, config: dict[str, Any], *, limit: int,
    before: str | None, metadata: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """States, newest first."""
    async with graph_of(services, row, config) as graph:
        if graph is not None:
            earlier: Any = {"configurable": {**config, "checkpoint_id": before}} if before else None
            found = graph.aget_state_history(
                {"configurable": config},
                limit=limit,
                before=earlier,
                filter=dict(metadata) if metadata else None,
            )
            return [state_json(state) async for state in found]
    return await run_in_threadpool(_stored_history, services, config, limit, before)


def _stored_history(
    services: Services, config: Mapping[str, Any], limit: int, before: str | None
) -> list[dict[str, Any]]:
    thread_id, ns = config["thread_id"], config.get("checkpoint_ns", "")
    found = services.stored.history(thread_id, ns, before=before, limit=limit, channels=[])
    ids = [raw.checkpoint_id for raw in found]
    return [_stored_state(services, {**config, "checkpoint_id": id_}) for id_ in ids]


def _no_checkpoint(config: Mapping[str, Any]) -> Problem:
    return not_found(
        "checkpoint",
        str(config.get("checkpoint_id")),
        remedy="see the history of the thread for those that there are.",
    )


async def write_state(
    services: Services, who: Caller, config: dict[str, Any], values: Any, *, as_node: str | None
) -> dict[str, Any]:
    """Write values into a state, as if a node had given them; the checkpoint that it made. Raises
    `ThreadBusy` while a run is under way, `InvalidRequest`, `Problem`."""
    thread_id = config["thread_id"]
    row = await known_row(services, thread_id)
    if row is not None and row.status == "busy":
        raise ThreadBusy(
            f"The thread {thread_id!r} has a run that is not over.",
            remedy="wait for it or cancel it.",
        )
    async with graph_of(services, row, config) as graph:
        if graph is None:
            raise graph_needed()
        written = await _written(graph, config, values, as_node)
        if as_node == "__end__":  # as agent-inbox ignores what a thread asks
            await run_in_threadpool(
                services.tank.approvals.close, thread_id, "ignored", actor=who.user
            )
        newest = await graph.aget_state({"configurable": config_for(thread_id)})
        await _record(services, thread_id, newest)
    return address_of(written)


async def _written(
    graph: Graph, config: Mapping[str, Any], values: Any, as_node: str | None
) -> Mapping[str, Any]:
    from langgraph.errors import InvalidUpdateError  # noqa: PLC0415 - needs the extra

    given: Any = {"configurable": config}
    try:
        made: Any = await graph.aupdate_state(given, values, as_node=as_node)
    except InvalidUpdateError as error:
        raise InvalidRequest(
            f"The graph refuses this update: {error}", remedy="name a node of it with as_node."
        ) from error
    return dict(made)


async def _record(services: Services, thread_id: str, state: Any) -> None:
    from surgetank.workflows.streaming import interrupts_of  # noqa: PLC0415 - needs the extra

    asked = interrupts_of(state)
    await run_in_threadpool(
        services.tank.threads.rows.rest, thread_id, asked, waits=bool(asked or state.next)
    )


async def known_row(services: Services, thread_id: str) -> ThreadRow | None:
    """The row of a thread; None for one that only checkpoints know. Raises `Problem` 404."""
    return await run_in_threadpool(_known_row, services, thread_id)


def _known_row(services: Services, thread_id: str) -> ThreadRow | None:
    away: DatabaseUnavailable | None = None
    row = None
    try:
        row = services.tank.threads.rows.find(thread_id)
    except DatabaseUnavailable as error:  # what is hot is served
        away = error
    if row is None and not services.owners.of(thread_id).exists:
        if away is not None:
            raise away
        raise not_found("thread", thread_id, remedy="see GET /threads for those that you may see.")
    return row


def graph_needed() -> Problem:
    """The refusal of what only a graph can do."""
    return Problem(
        409, "graph-needed", "This needs the graph of the thread, which this server does not have.",
        remedy="start the server with --config langgraph.json, and name the graph in the thread's "
        "metadata as graph_id.",
    )  # fmt: skip
