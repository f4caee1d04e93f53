"""Nodes that are plain functions run on threads, which Python can't end: a run is over when they are."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, cast

import pytest
from langgraph.graph import START, StateGraph

from integration.test_run_worker import State, accept, ended, graph_of, steps, working
from surgetank import Surgetank
from surgetank.workflows.runs import Strategy
from surgetank.workflows.status import Status

LASTS_S = 0.4


class Node:
    """A plain function that takes its time, and counts how many of it are under way."""

    def __init__(self) -> None:
        self.inside = self.most = self.calls = 0
        self.may_return = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, _: State) -> State:
        with self._lock:
            self.calls += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(LASTS_S)
        with self._lock:
            self.inside -= 1
        return {"steps": ["one"]}

    def stays(self, _: State) -> State:
        """Until it may return, however often."""
        self.calls += 1
        self.may_return.wait(30)
        return {"steps": ["stayed"]}

    async def begun(self, calls: int = 1) -> None:
        async with asyncio.timeout(20):
            while self.calls < calls:  # noqa: ASYNC110 - it begins on another thread
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["interrupt", "rollback", "timeout"])
async def test_the_next_run_begins_when_the_function_of_the_one_before_has_returned(
    tank: Surgetank, how: str
) -> None:
    node = Node()

    async def act() -> None:
        first = accept(tank, timeout_s=LASTS_S / 2 if how == "timeout" else None)
        await node.begun()
        strategy = Strategy.ENQUEUE if how == "timeout" else Strategy(how)
        second = await ended(tank, accept(tank, strategy=strategy))
        assert second.status is Status.COMPLETED
        if how != "rollback":
            expected = Status.FAILED if how == "timeout" else Status.CANCELLED
            assert tank.runs.get(first.run_id).status is expected

    await working(tank, graph_of(tank, node), act)
    assert (node.calls, node.most) == (2, 1)
    assert steps(tank) == ["one"], "what a run does that is over is not in the state"


async def test_a_run_that_fails_waits_for_the_functions_beside_the_one_that_failed(
    tank: Surgetank,
) -> None:
    node = Node()

    async def fails(_: State) -> State:
        await node.begun()
        raise ValueError("no")

    builder = (
        StateGraph(State).add_node("works", cast("Any", node)).add_node("fails", cast("Any", fails))
    )
    builder.add_edge(START, "works").add_edge(START, "fails")
    graph = builder.compile(checkpointer=tank.checkpointer())

    async def act() -> None:
        run = await ended(tank, accept(tank))
        assert run.status is Status.FAILED
        assert node.inside == 0

    await working(tank, graph, act)


async def test_a_function_that_does_not_return_is_told_and_holds_no_thread_for_ever(
    tank: Surgetank,
) -> None:
    node, told = Node(), list[BaseException]()
    worker, stop = tank.runs.worker({"agent": graph_of(tank, node.stays)}), asyncio.Event()
    worker.heartbeat.every_s, worker._function_wait_s = 0.1, 0.3
    worker._tell = lambda error, _: told.append(error)
    working_on = asyncio.create_task(worker.work(stop))
    run = accept(tank)
    await node.begun()
    tank.runs.cancel(run.run_id, actor="ada")
    assert (await ended(tank, run)).status is Status.CANCELLED
    assert "goes on in thread 't'" in str(told[0])
    stop.set()
    await working_on
    node.may_return.set()


async def test_a_worker_that_is_told_to_stop_gives_a_run_back_when_its_function_has_returned(
    tank: Surgetank,
) -> None:
    node = Node()
    graph = graph_of(tank, node)

    async def act() -> None:
        await node.begun()

    run = accept(tank)
    await working(tank, graph, act)
    assert node.inside == 0
    assert tank.runs.get(run.run_id).status is Status.PENDING

    async def again() -> None:
        assert (await ended(tank, run)).status is Status.COMPLETED

    await working(tank, graph, again)
    assert (node.calls, node.most) == (2, 1)


async def test_many_functions_run_at_once(tank: Surgetank) -> None:
    """Also on a machine with few processors, where a loop has six threads by itself."""
    all_here = threading.Barrier(20)

    def node(_: State) -> Any:
        all_here.wait(20)
        return {"steps": ["met"]}

    async def act() -> None:
        runs = [accept(tank, f"t{number}") for number in range(20)]
        for run in runs:
            assert (await ended(tank, run)).status is Status.COMPLETED

    await working(tank, graph_of(tank, node), act)
