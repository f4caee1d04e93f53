"""The graphs that the JavaScript clients run."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AnyMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt


class State(TypedDict, total=False):
    """What is said, and how the nodes shall behave."""

    messages: Annotated[list[AnyMessage], add_messages]
    said: Annotated[list[Any], operator.add]
    note: str
    seconds: float
    ask: Any
    events: int


model = FakeListChatModel(responses=["hello there friend"])


async def first(state: State) -> dict[str, Any]:
    """Waits as long as it is told, and says how it goes on."""
    send = get_stream_writer()
    for number in range(state.get("events", 1)):
        send({"number": number})
        await asyncio.sleep(state.get("seconds", 0))
    return {"said": ["first"]}


class Inner(TypedDict, total=False):
    """What the graph within shares."""

    note: str


async def within(state: Inner) -> dict[str, Any]:
    """A node of a graph within the graph."""
    del state
    get_stream_writer()({"inner": True})
    return {"note": "inner"}


async def talk(state: State) -> dict[str, Any]:
    """A model that answers word by word."""
    del state
    return {"messages": [await model.ainvoke("hi")]}


def ask(state: State) -> dict[str, Any]:
    """Asks people, if it is told to."""
    return {"said": [interrupt(state["ask"])]} if state.get("ask") is not None else {}


def fail(state: State) -> dict[str, Any]:
    """Raises."""
    del state
    raise ValueError("the plan is broken")


inner = StateGraph(Inner).add_node("within", within).add_edge(START, "within").compile()
agent = StateGraph(State)
agent.add_node("first", first).add_node("inner", inner).add_node("talk", talk).add_node("ask", ask)
for before, after in ((START, "first"), ("first", "inner"), ("inner", "talk"), ("talk", "ask")):
    agent.add_edge(before, after)
failing = StateGraph(State).add_node("fail", fail).add_edge(START, "fail")
