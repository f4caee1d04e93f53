"""A run's fence, from its config to the buffer: whoever lost a thread writes nothing into it."""

from __future__ import annotations

import asyncio
import operator
import uuid
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from support.projects import HEAD, MakeProject
from support.savers import put
from support.tanks import MakeTank
from surgetank import Surgetank
from surgetank.exceptions import LeaseLost
from surgetank.streams.checkpoints.fencing import FENCE_KEY
from surgetank.workflows.fencing import fence_of, take_thread
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet
from surgetank.workflows.runs import NewRun, Run
from surgetank.workflows.status import Status


class State(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]


def at(thread: str, fence: int, of: str | None = None) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, FENCE_KEY: (of or thread, fence)}}


def graph_of(tank: Surgetank, *nodes: Any) -> Any:
    builder = StateGraph(State)
    for number, node in enumerate(nodes):
        builder.add_node(f"n{number}", node)
        builder.add_edge(f"n{number - 1}" if number else START, f"n{number}")
    builder.add_edge(f"n{len(nodes) - 1}", END)
    return builder.compile(checkpointer=tank.checkpointer())


def steps(tank: Surgetank, thread: str = "t") -> list[str]:
    found = tank.checkpointer().get_tuple({"configurable": {"thread_id": thread}})
    return [] if found is None else found.checkpoint["channel_values"].get("steps", [])


def run(graph: Any, how: str, config: RunnableConfig, durability: Any) -> None:
    if how == "invoke":
        graph.invoke({"steps": ["input"]}, config, durability=durability)
    else:
        asyncio.run(graph.ainvoke({"steps": ["input"]}, config, durability=durability))


def overtaken(tank: Surgetank) -> Any:
    """A node in whose time a newer worker takes the thread."""

    def node(state: State) -> State:
        tank.checkpointer().raise_fence("t", 8)
        return {"steps": ["late"]}

    return node


def test_what_an_older_run_puts_is_refused_and_the_state_stays(tank: Surgetank) -> None:
    graph = graph_of(tank, lambda _: {"steps": ["a"]}, lambda _: {"steps": ["b"]})
    graph.invoke({"steps": []}, at("t", 8))
    before = list(tank.checkpointer().list({"configurable": {"thread_id": "t"}}))
    with pytest.raises(LeaseLost):
        graph.invoke({"steps": ["late"]}, at("t", 7))
    assert list(tank.checkpointer().list({"configurable": {"thread_id": "t"}})) == before
    assert steps(tank) == ["a", "b"]
    graph.invoke({"steps": []}, at("t", 9))
    assert steps(tank) == ["a", "b", "a", "b"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_a_run_that_is_overtaken_in_a_node_leaves_nothing_of_it(
    tank: Surgetank, how: str, durability: Any
) -> None:
    graph = graph_of(tank, overtaken(tank), lambda _: {"steps": ["later"]})
    with pytest.raises(LeaseLost):
        run(graph, how, at("t", 7), durability)
    assert [s for s in steps(tank) if s != "input"] == []
    found = tank.checkpointer().get_tuple({"configurable": {"thread_id": "t"}})
    assert found is None or "late" not in repr(found.pending_writes)


def test_a_subgraph_s_checkpoints_carry_the_fence_too(tank: Surgetank) -> None:
    inner = StateGraph(State)
    inner.add_node("overtaken", overtaken(tank))
    inner.add_node("after", lambda _: {"steps": ["inner"]})
    inner.add_edge(START, "overtaken")
    inner.add_edge("overtaken", "after")
    graph = graph_of(tank, inner.compile())
    with pytest.raises(LeaseLost):
        graph.invoke({"steps": ["input"]}, at("t", 7), durability="sync")
    inside = tank.checkpointer().list({"configurable": {"thread_id": "t"}})
    assert "late" not in [
        s for c in inside for s in c.checkpoint["channel_values"].get("steps", [])
    ]


def test_a_large_put_carries_it_as_well(tank: Surgetank) -> None:
    graph = graph_of(tank, lambda _: {"steps": ["x" * 400_000]})
    graph.invoke({"steps": []}, at("t", 8))
    with pytest.raises(LeaseLost):
        asyncio.run(graph.ainvoke({"steps": ["y" * 400_000]}, at("t", 7)))
    assert len(steps(tank)) == 1


def test_the_fence_of_a_thread_does_not_hold_for_another_one(tank: Surgetank) -> None:
    """A node that runs another graph hands its config on."""
    other = graph_of(tank, lambda _: {"steps": ["other"]})
    other.invoke({"steps": []}, at("other", 100))

    def calls(state: State) -> State:
        other.invoke({"steps": []}, {"configurable": {"thread_id": "other"}})
        return {"steps": ["called"]}

    graph_of(tank, calls).invoke({"steps": []}, at("t", 7))
    assert steps(tank) == ["called"]
    assert steps(tank, "other") == ["other", "other"]


def test_neither_key_nor_number_gets_into_what_is_stored_or_given_back(tank: Surgetank) -> None:
    given = at("t", 7)
    given["metadata"] = {"run_id": "r"}
    graph = graph_of(tank, lambda _: {"steps": ["a"]})
    sent = list(
        graph.stream({"steps": []}, given, stream_mode=["checkpoints", "debug", "messages"])
    )
    assert "checkpoint_id" in repr(sent)
    assert "fence" not in repr(sent)
    state = graph.get_state({"configurable": {"thread_id": "t"}})
    assert state.metadata["run_id"] == "r"
    assert "fence" not in repr([state.metadata, state.config, state.parent_config])
    for found in tank.checkpointer().list({"configurable": {"thread_id": "t"}}):
        assert "fence" not in repr(found)
    tank.flush()
    with tank.parts.database.connection() as connection:
        rows = connection.execute(
            "SELECT metadata::text FROM surgetank.checkpoint_history"
        ).fetchall()
    assert rows
    assert "fence" not in repr(rows)


def test_applications_that_put_without_a_run_are_not_refused(tank: Surgetank) -> None:
    saver = tank.checkpointer()
    saver.raise_fence("t", 8)
    put(saver, "t", {"a": 1})
    graph = graph_of(tank, lambda _: {"steps": ["a"]})
    graph.invoke({"steps": []}, {"configurable": {"thread_id": "t"}})
    assert steps(tank) == ["a"]


def test_a_thread_that_was_deleted_is_not_filled_again_by_a_run_of_before(tank: Surgetank) -> None:
    graph = graph_of(tank, lambda _: {"steps": ["a"]})
    graph.invoke({"steps": []}, at("t", 8))
    tank.checkpointer().delete_thread("t")
    with pytest.raises(LeaseLost):
        graph.invoke({"steps": ["late"]}, at("t", 7))
    assert steps(tank) == []
    graph.invoke({"steps": []}, at("t", 9))
    assert steps(tank) == ["a"]


def test_every_process_on_the_buffer_refuses_it(make_tank: MakeTank) -> None:
    one, two = make_tank(), make_tank()
    graph_of(one, lambda _: {"steps": ["a"]}).invoke({"steps": []}, at("t", 8))
    with pytest.raises(LeaseLost):
        graph_of(two, lambda _: {"steps": ["late"]}).invoke({"steps": []}, at("t", 7))
    assert steps(two) == ["a"]


async def test_a_worker_takes_the_thread_before_it_reads_it(tank: Surgetank) -> None:
    """Claimed, and then claimed by another one: the first to claim is refused whatever it does."""
    graph = graph_of(tank, lambda _: {"steps": ["a"]})
    tank.parts.database.prepare()
    queue = tank.runs._queue
    new = NewRun(thread_id="t", assistant_id="agent")
    tank.runs.accept(new, actor="ada")
    (first,) = queue.claim("one", 1)
    await take_thread(graph.checkpointer, first)
    second = reclaimed(tank, first)
    assert fence_of(second)[FENCE_KEY] > fence_of(first)[FENCE_KEY]
    await take_thread(graph.checkpointer, second)
    for late in (
        lambda: take_thread(graph.checkpointer, first),
        lambda: graph.ainvoke({}, config(first)),
    ):
        with pytest.raises(LeaseLost):
            await late()
    await graph.ainvoke({"steps": []}, config(second))
    assert steps(tank) == ["a"]


async def test_what_a_worker_runs_is_written_under_its_fence(
    tank: Surgetank, project: MakeProject
) -> None:
    """With graphs as a server has them."""
    code = HEAD + "graph = builder_of('a').compile()\n"
    path = project({"probe_fenced.py": code}, {"it": "./probe_fenced.py:graph"})
    graphs = GraphSet(load(path), checkpointer=tank.checkpointer())
    worker, stop = tank.runs.worker(graphs), asyncio.Event()
    working = asyncio.create_task(worker.work(stop))
    tank.parts.database.prepare()
    run = tank.runs.accept(
        NewRun(thread_id="t", assistant_id="it", kwargs={"input": {"text": "a"}}), actor="ada"
    )
    async with asyncio.timeout(30):
        while not tank.runs.get(run.run_id).ended_at:  # noqa: ASYNC110 - its end is in the database
            await asyncio.sleep(0.02)
    stop.set()
    await working
    run = tank.runs.get(run.run_id)
    assert (run.status, run.error) == (Status.COMPLETED, None)
    tank.checkpointer().raise_fence("t", run.fence)
    with pytest.raises(LeaseLost):
        tank.checkpointer().raise_fence("t", run.fence - 1)


def config(run: Run) -> RunnableConfig:
    return {"configurable": {"thread_id": run.thread_id, **fence_of(run)}}


def reclaimed(tank: Surgetank, run: Run) -> Run:
    """The run as another worker claims it, after its lease."""
    with tank.parts.database.connection() as connection:
        connection.execute("UPDATE surgetank.runs SET lease_until = now() - interval '1 s'")
    assert tank.runs.reap() != {}
    (again,) = tank.runs._queue.claim(f"two-{uuid.uuid4()}", 1)
    assert again.run_id == run.run_id
    return again
