"""A real LangGraph graph: supersteps that each add two messages with `add_messages`, in the three
durabilities.

"No checkpointer" shows what LangGraph itself takes. With nodes that wait, as a model's answer makes
them wait, LangGraph's own `durability="async"` writes while the next node waits, and hides most of
a slow saver's time.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

from bench import chat
from bench.harness import BenchError, Recorder, Scene, seconds
from bench.peers import NO_SAVER, Contestant, contestants

TITLE = "A real graph"
DURABILITIES = ("sync", "async", "exit")


class State(TypedDict):
    """A growing chat and the number of the step."""

    messages: Annotated[list[Any], add_messages]
    step: int


def build(
    said: list[Any], *, node_ms: float = 0, state: type[Any] = State
) -> StateGraph[Any, Any, Any, Any]:
    """A graph of one node that says the next two messages, again and again, until all is said."""

    def say(state: Any) -> dict[str, Any]:
        if node_ms:
            time.sleep(node_ms / 1000)
        step = state["step"]
        return {"messages": said[2 * step : 2 * step + 2], "step": step + 1}

    def again(state: Any) -> str:
        return "say" if 2 * state["step"] < state.get("until", len(said)) else END

    graph = StateGraph(state)
    graph.add_node("say", say)
    graph.add_edge(START, "say")
    graph.add_conditional_edges("say", again, ["say", END])
    return graph


def run(scene: Scene) -> Recorder:
    """All savers in turn, and no saver."""
    recorder, scale = Recorder("graph"), scene.scale
    quick = build(chat.messages(scale.steps, seed=1))
    slow = build(chat.messages(scale.slow_steps, seed=2), node_ms=scale.slow_node_ms)
    with contestants(scene) as all_:
        players = [Contestant(NO_SAVER, None, lambda: 0), *all_]
        for durability in DURABILITIES:
            label = f"{scale.steps} supersteps, {durability}"
            for number, who in scene.turns(players):
                took = [_play(quick, who, scale.steps, durability) for _ in range(scale.graph_runs)]
                recorder.add(number, who.name, durability, took, label=label)
        for durability in ("sync", "async"):
            label = f"{scale.slow_steps} supersteps of {scale.slow_node_ms} ms nodes, {durability}"
            for number, who in scene.turns(players):
                took = [_play(slow, who, scale.slow_steps, durability)]
                recorder.add(number, who.name, f"slow {durability}", took, label=label)
    return recorder


def _play(graph: Any, who: Contestant, steps: int, durability: Any) -> float:
    """Milliseconds of one run on a thread of its own."""
    compiled = graph.compile(checkpointer=who.saver)
    config = {"configurable": {"thread_id": str(uuid6())}, "recursion_limit": steps + 5}
    more = {"durability": durability} if who.saver else {}
    took = seconds(lambda: compiled.invoke({"messages": [], "step": 0}, config, **more))
    if who.saver:
        reached = compiled.get_state(config).values
        if reached["step"] != steps or len(reached["messages"]) != 2 * steps:
            raise BenchError(f"{who.name} lost steps of a run with durability {durability}")
    who.settle()
    return took * 1000
