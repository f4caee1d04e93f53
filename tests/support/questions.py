"""Questions to people, asked by a graph that a worker runs beside a test that is not async."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.workflows.approvals.rows import UserCheckpoint
from surgetank.workflows.runs import NewRun


class State(TypedDict, total=False):
    """What is asked, and what was answered."""

    asks: Any
    schema: Any
    answer: Any


def graph_of(tank: Surgetank, step: str) -> Any:
    """A graph that asks what its input says, in a step of this name."""

    def ask(state: State) -> State:
        given = {"response_schema": state["schema"]} if state.get("schema") else {}
        return {"answer": interrupt(state["asks"], **given)}

    builder = StateGraph(State)
    builder.add_node(step, ask)
    builder.add_edge(START, step)
    builder.add_edge(step, END)
    return builder.compile(checkpointer=tank.checkpointer())


@contextmanager
def working(tank: Surgetank, step: str = "ask_first") -> Iterator[None]:
    """Runs of the assistant `agent` are worked on, on a thread."""
    loop, begun = asyncio.new_event_loop(), threading.Event()
    stop = asyncio.Event()

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.call_soon(begun.set)
        loop.run_until_complete(tank.runs.worker({"agent": graph_of(tank, step)}).work(stop))

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(10)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


def ask(
    tank: Surgetank, thread: str, asks: Any, *, schema: Any = None, owner: str = "ada"
) -> UserCheckpoint:
    """Start a run that asks, and wait until it does."""
    given = {"asks": asks, "schema": schema}
    tank.runs.accept(
        NewRun(thread_id=thread, assistant_id="agent", owner=owner, kwargs={"input": given}),
        actor=owner,
    )

    def asked() -> list[UserCheckpoint]:
        return tank.approvals(status="pending", thread_id=thread)

    return wait_until(asked, "the question")[0]
