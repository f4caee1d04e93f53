"""Real graphs for tests: an agent that asks a person, one with a subgraph, one whose state is a
DeltaChannel."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt


class Talk(TypedDict):
    """A conversation."""

    messages: Annotated[list[AnyMessage], add_messages]
    steps: int
    approved: str


def agent(saver: Any) -> Any:
    """Thinks four times, then asks; what it asks waits as pending writes."""

    def think(state: Talk) -> Any:
        return {
            "messages": [AIMessage(f"thought {state.get('steps', 0)}")],
            "steps": state.get("steps", 0) + 1,
        }

    def ask(state: Talk) -> Any:
        return {"approved": interrupt({"question": "go on?"})}

    builder = StateGraph(Talk)
    builder.add_node("think", think)
    builder.add_node("ask", ask)
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", lambda s: "think" if s["steps"] < 4 else "ask")
    builder.add_edge("ask", END)
    return builder.compile(checkpointer=saver)


class Count(TypedDict):
    """A number that nodes add to."""

    count: Annotated[int, operator.add]


def nested(saver: Any) -> Any:
    """A graph with a subgraph, whose checkpoints lie in a namespace of their own."""
    inner = StateGraph(Count)
    inner.add_node("inc", lambda state: {"count": 1})
    inner.add_node("again", lambda state: {"count": 1})
    inner.add_edge(START, "inc")
    inner.add_edge("inc", "again")
    outer = StateGraph(Count)
    outer.add_node("sub", inner.compile())
    outer.add_node("after", lambda state: {"count": 1})
    outer.add_edge(START, "sub")
    outer.add_edge("sub", "after")
    return outer.compile(checkpointer=saver)


def _join(old: list[str], new: Any) -> list[str]:
    return [*old, *(item for batch in new for item in batch)]


class Items(TypedDict):
    """A list that is kept as its writes, with a snapshot at every third of them."""

    items: Annotated[list[str], DeltaChannel(_join, list, snapshot_frequency=3)]


def delta_graph(saver: Any) -> Any:
    """Does nothing but take its input, which is added to the list."""
    builder = StateGraph(Items)
    builder.add_node("take", lambda state: None)
    builder.add_edge(START, "take")
    return builder.compile(checkpointer=saver)
