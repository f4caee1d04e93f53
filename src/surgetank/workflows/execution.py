"""One run on its graph: what the graph is given, what it sends, and how it ended. No database.

A run that was taken over goes on from its last checkpoint: nodes run at least once.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from langchain_core.runnables import RunnableConfig
from langgraph.constants import END
from langgraph.types import Command, Send

from surgetank.encode.jsontext import dumps
from surgetank.workflows.fencing import fence_of
from surgetank.workflows.graphs.shape import Graph
from surgetank.workflows.runs import AUTH_USER, Run
from surgetank.workflows.sending import Sender
from surgetank.workflows.streaming import Events, interrupts_of, modes_of
from surgetank.workflows.user import ProjectUser

_NOT_THEIRS = ("__", "langgraph_auth_")
_RESERVED = ("thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "run_id")


class Graphs(Protocol):
    """The graphs that a worker has. `GraphSet` is one."""

    @property
    def names(self) -> Sequence[str]:
        """The names of the graphs."""
        ...

    def open(
        self, name: str, config: RunnableConfig | None = None, *, access: str = ..., context: Any = None,
        user: Any = None,
    ) -> AbstractAsyncContextManager[Graph]:  # fmt: skip
        """A compiled graph with our checkpointer."""
        ...


class FixedGraphs:
    """`Graphs` that are compiled already."""

    def __init__(self, graphs: Mapping[str, Graph]) -> None:
        self._graphs = dict(graphs)

    @property
    def names(self) -> Sequence[str]:
        """The names of the graphs."""
        return sorted(self._graphs)

    @asynccontextmanager
    async def open(
        self, name: str, config: RunnableConfig | None = None, *, access: str = "", context: Any = None,  # noqa: ARG002
        user: Any = None,  # noqa: ARG002
    ) -> AsyncIterator[Graph]:  # fmt: skip
        """The graph of this name."""
        yield self._graphs[name]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a graph came to its end: it waits for people when it asks something, or has a next
    node."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    waits: bool = False
    values: Any = None


async def execute(graph: Graph, run: Run, config: RunnableConfig, sender: Sender) -> Outcome:
    """Run the graph to its end or to where it waits. Raises what the graph raises."""
    kwargs = run.kwargs
    events = Events(modes_of(kwargs), subgraphs=bool(kwargs.get("stream_subgraphs")))
    begin = {"run_id": str(run.run_id), "attempt": run.attempts}
    await sender.send("metadata", dumps(begin))
    if kwargs.get("held"):  # its answers wait for others
        return await _held(graph, config, events, sender)
    if (kwargs.get("command") or {}).get("goto") in (END, [END]):
        return await _ended(graph, config, events, sender)
    graph_input, config = await _beginning(graph, run, config)
    options: dict[str, Any] = {
        "durability": kwargs.get("durability") or "sync",
        **{
            name: kwargs[name]
            for name in ("interrupt_before", "interrupt_after", "context")
            if kwargs.get(name) is not None
        },
    }
    async for event, data in events.of(graph, graph_input, config, **options):
        await sender.send(event, data)
    await sender.flush()
    state = await graph.aget_state(_without_checkpoint(config))
    asked = interrupts_of(state)
    return Outcome(asked, bool(asked or state.next), state.values)


async def _held(graph: Graph, config: RunnableConfig, events: Events, sender: Sender) -> Outcome:
    """What the thread asks still; nothing is run."""
    state = await graph.aget_state(_without_checkpoint(config))
    asked = interrupts_of(state)
    if "values" in events.modes and isinstance(state.values, Mapping):
        await sender.send(
            "values", dumps({**state.values, "__interrupt__": list(state.interrupts)})
        )
    await sender.flush()
    return Outcome(asked, waits=True, values=state.values)


async def _ended(graph: Graph, config: RunnableConfig, events: Events, sender: Sender) -> Outcome:
    """The thread goes to its end without running what it waits for."""
    newest = _without_checkpoint(config)
    await graph.aupdate_state(newest, None, as_node=END)
    state = await graph.aget_state(newest)
    if "values" in events.modes:
        await sender.send("values", dumps(state.values))
    await sender.flush()
    return Outcome(values=state.values)


async def _beginning(graph: Graph, run: Run, config: RunnableConfig) -> tuple[Any, RunnableConfig]:
    """What the graph is given; nothing, from the newest checkpoint, when the run has some of its
    own."""
    if run.attempts > 1:
        newest = _without_checkpoint(config)
        state = await graph.aget_state(newest)
        if (state.metadata or {}).get("run_id") == str(run.run_id):
            return None, newest
    if tried := run.kwargs.get("goes_on"):  # runs that failed are tried again
        newest = _without_checkpoint(config)
        state = await graph.aget_state(newest)
        # without a checkpoint of theirs nothing of what they were given is saved: it is given again
        if state.next and (state.metadata or {}).get("run_id") in tried:
            return None, newest
    command = run.kwargs.get("command")
    return (command_of(command) if command else run.kwargs.get("input")), config


def command_of(given: Mapping[str, Any]) -> Command[Any]:
    """A command as it came over the wire: `goto` is a node, a list of them, or of `{node,
    input}`."""
    parts: dict[str, Any] = {name: given[name] for name in ("resume", "update") if name in given}
    if isinstance(parts.get("update"), list):
        parts["update"] = [tuple(pair) for pair in parts["update"]]
    goto = given.get("goto")
    if goto:
        targets = goto if isinstance(goto, list) else [goto]
        parts["goto"] = [
            Send(target["node"], target.get("input")) if isinstance(target, Mapping) else target
            for target in targets
        ]
    return Command(**parts)


def config_of(run: Run, *, owner_key: str) -> RunnableConfig:
    """The run's configuration: what clients may not set is ours."""
    given = dict(run.kwargs.get("config") or {})
    configurable = clean_configurable(given.get("configurable"), owner_key=owner_key)
    configurable |= {
        "thread_id": run.thread_id, "run_id": str(run.run_id), "assistant_id": run.assistant_id,
        "graph_id": run.graph, **fence_of(run),
    }  # fmt: skip
    if run.owner is not None:
        configurable[owner_key] = run.owner
    if (user := run.kwargs.get(AUTH_USER)) is not None:  # under LangGraph's names
        configurable |= {
            "langgraph_auth_user": ProjectUser(user), "langgraph_auth_user_id": user["identity"],
            "langgraph_auth_permissions": user.get("permissions", []),
        }  # fmt: skip
    checkpoint = run.kwargs.get("checkpoint") or {}
    checkpoint_id = run.kwargs.get("checkpoint_id") or checkpoint.get("checkpoint_id")
    if checkpoint_id:
        configurable |= {
            "checkpoint_id": checkpoint_id,
            "checkpoint_ns": checkpoint.get("checkpoint_ns") or "",
        }
    config: RunnableConfig = {
        "configurable": configurable,
        "metadata": {
            **(given.get("metadata") or {}),
            **run.metadata,
            "run_id": str(run.run_id),
            "assistant_id": run.assistant_id,
            "graph_id": run.graph,
        },
        "run_id": uuid.UUID(str(run.run_id)),
    }
    if given.get("tags"):
        config["tags"] = list(given["tags"])
    if given.get("recursion_limit"):
        config["recursion_limit"] = int(given["recursion_limit"])
    if run.owner is not None:
        config["metadata"][owner_key] = run.owner
    return config


def clean_configurable(given: Any, *, owner_key: str) -> dict[str, Any]:
    """What clients may set in `configurable`: not where a run is, whose it is, or what is
    LangGraph's own."""
    return {
        name: value
        for name, value in dict(given or {}).items()
        if name not in _RESERVED and name != owner_key and not name.startswith(_NOT_THEIRS)
    }


def _without_checkpoint(config: RunnableConfig) -> RunnableConfig:
    own = {
        name: value
        for name, value in config.get("configurable", {}).items()
        if name not in ("checkpoint_id", "checkpoint_ns")
    }
    return {**config, "configurable": own}
