"""What the agent servers of the benchmark run: five nodes that do nothing, and events with their
time."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    """A number that grows, and how many events are asked for."""

    n: int
    events: int


async def _add(state: State) -> dict[str, Any]:
    return {"n": state.get("n", 0) + 1}


async def _tick(state: State) -> dict[str, Any]:
    send = get_stream_writer()
    for _ in range(state.get("events", 0)):
        await asyncio.sleep(0.01)
        send({"sent": time.time()})
    return {"n": 1}


def _five() -> StateGraph[State]:
    graph, before = StateGraph(State), START
    for name in "abcde":
        graph.add_node(name, _add)
        graph.add_edge(before, name)
        before = name
    return graph


five = _five()
ticker = StateGraph(State).add_node("tick", _tick).add_edge(START, "tick")
