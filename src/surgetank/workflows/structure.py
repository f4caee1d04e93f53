"""Whether a graph is still the one that a thread stopped in.

Each checkpoint of a run carries the hash of its graph's structure. A run that goes on from a checkpoint
of another structure is flagged. One whose next nodes are all gone is refused: LangGraph would do
nothing, and call that done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from surgetank.events.types import EventType, Severity
from surgetank.exceptions import GraphChanged
from surgetank.notify.news import News
from surgetank.workflows.graphs.shape import Graph, structure_hash
from surgetank.workflows.runs import Run

HASH_KEY = "graph_hash"
_TRIGGER = "branch:to:"
_NAMED = 10
_known: WeakKeyDictionary[Any, tuple[frozenset[str], str]] = WeakKeyDictionary()

TellChange = Callable[[Run, "Change"], None]


@dataclass(frozen=True, slots=True)
class Change:
    """How a graph differs from the one that left a checkpoint.

    `gone` are nodes that had been reached then and are not in the graph any more, `waiting` those of
    them that were to run next. `stuck` says that nothing else was to run. `before` is None for a
    checkpoint that doesn't say its structure.
    """

    before: str | None
    now: str
    gone: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    stuck: bool = False

    @property
    def message(self) -> str:
        """It in words."""
        if self.waiting:
            what = f"its next node is gone: {_list(self.waiting)}"
        elif self.gone:
            what = f"it has no {_list(self.gone)} any more"
        else:
            what = "its nodes or edges are others"
        return f"The graph has changed since this conversation stopped: {what}."


def current_hash(graph: Graph) -> str:
    """`structure_hash`, made once for each graph: copies of a compiled graph share its builder."""
    key, nodes = getattr(graph, "builder", graph), frozenset(graph.nodes)
    known = _known.get(key)
    if known is None or known[0] != nodes:
        known = _known[key] = (nodes, structure_hash(graph))
    return known[1]


def marked(config: RunnableConfig, graph: Graph) -> RunnableConfig:
    """The config of a run whose checkpoints say of which structure they are."""
    return {**config, "metadata": {**config.get("metadata", {}), HASH_KEY: current_hash(graph)}}


def changed_since(saved: CheckpointTuple, graph: Graph) -> Change | None:
    """What changed since a checkpoint, as far as it can be told from it; None when nothing did."""
    metadata: Mapping[str, Any] = saved.metadata or {}
    before, now = metadata.get(HASH_KEY), current_hash(graph)
    if before == now:
        return None
    reached, due = _reached(saved.checkpoint)
    gone = tuple(sorted(reached - graph.nodes.keys()))
    waiting = tuple(name for name in gone if name in due)
    if before is None and not waiting:
        return None
    stuck = bool(waiting) and due <= set(waiting)
    return Change(str(before) if before is not None else None, now, gone, waiting, stuck)


async def check_structure(graph: Graph, run: Run, config: RunnableConfig) -> Change | None:
    """What changed since the checkpoint that the run goes on from; None when nothing did, or it
    begins something new."""
    if not isinstance(graph.checkpointer, BaseCheckpointSaver):
        return None
    saved = await _goes_on_from(graph.checkpointer, run, config)
    return changed_since(saved, graph) if saved is not None else None


def refuse_stuck(run: Run, change: Change) -> None:
    """Raise `GraphChanged` for a run that could do nothing. One that says where to go on can."""
    if change.stuck and not (run.kwargs.get("command") or {}).get("goto"):
        raise GraphChanged(
            f"The thread {run.thread_id!r} waits for {_list(change.waiting)}, which the graph "
            f"{run.graph!r} doesn't have any more.",
            remedy="bring the node back and retry the run, or go on elsewhere with "
            "`command.goto`. The state of the thread is as it was.",
        )


def news_of(run: Run, change: Change) -> News:
    """What people are told of it."""
    more = "It can't go on." if change.stuck else "It goes on with the graph that is there now."
    return News(
        f"{change.message} {more}",
        Severity.WARNING,
        run.thread_id,
        event=EventType.GRAPH_CHANGED,
        error_type="graph_changed",
        context={
            "graph": run.graph, "run_id": str(run.run_id), "workflow_id": str(run.workflow_id),
            "before": change.before, "now": change.now, "gone": list(change.gone),
            "waiting": list(change.waiting),
        },
        group=("graph_changed", run.graph),  # a factory may make another structure for each run
    )  # fmt: skip


async def _goes_on_from(
    saver: BaseCheckpointSaver[Any], run: Run, config: RunnableConfig
) -> CheckpointTuple | None:
    own = [*(run.kwargs.get("goes_on") or ()), str(run.run_id)]
    if run.attempts > 1 or len(own) > 1:
        newest = await saver.aget_tuple({"configurable": {"thread_id": run.thread_id}})
        if newest is not None and newest.metadata.get("run_id") in own:
            return newest
    goes_on = run.kwargs.get("command") or run.kwargs.get("input") is None
    return await saver.aget_tuple(config) if goes_on else None


def _reached(checkpoint: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """The nodes that a checkpoint knows, and those of them that are due."""
    versions, seen = checkpoint["channel_versions"], checkpoint["versions_seen"]
    values = checkpoint["channel_values"]
    triggers = {
        channel.removeprefix(_TRIGGER): channel
        for channel in versions
        if channel.startswith(_TRIGGER)
    }
    due = {
        name
        for name, channel in triggers.items()
        if channel in values  # one that was taken is empty, and newer
        and ((had := seen.get(name, {}).get(channel)) is None or had < versions[channel])
    }
    ran = {name for name in seen if not name.startswith("__")}
    return ran | triggers.keys(), due


def _list(names: tuple[str, ...]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
