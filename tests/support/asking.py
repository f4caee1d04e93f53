"""A graph that asks people one question."""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict, cast

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from surgetank import Surgetank
from surgetank.workflows.runs import NewRun


class State(TypedDict, total=False):
    answer: Any


def ask(tank: Surgetank, thread: str, value: Any) -> str:
    """Run it until it asks `value`: the question's id."""

    def node(_: State) -> State:
        return {"answer": interrupt(value)}

    builder = StateGraph(State)
    builder.add_node("ask", cast("Any", node))
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    graph = builder.compile(checkpointer=tank.checkpointer())

    async def until_asked() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()

        def on_end(*_: object) -> None:
            loop.call_soon_threadsafe(stop.set)

        work = asyncio.create_task(tank.runs.worker({"asking": graph}, on_end=on_end).work(stop))
        new = NewRun(thread_id=thread, assistant_id="asking", kwargs={"input": {}})
        tank.runs.accept(new, actor="ada")
        await asyncio.wait_for(work, 30)

    asyncio.run(until_asked())
    (question,) = tank.approvals(status="pending", thread_id=thread)
    return str(question.checkpoint_id)
