"""Workers of runs: a run goes from acceptance to its end, survives its worker, and waits for people."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast

import psycopg
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from support.postgres import PostgresServer
from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.exceptions import BufferUnavailable
from surgetank.workflows import worker as worker_module
from surgetank.workflows.execution import FixedGraphs
from surgetank.workflows.fencing import take_thread
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import CancelAction, NewRun, Run
from surgetank.workflows.status import Status
from surgetank.workflows.worker import RunWorker

TESTS = Path(__file__).parents[1]


def add(old: list[str], new: list[str]) -> list[str]:
    return [*old, *new]


class State(TypedDict, total=False):
    steps: Annotated[list[str], add]


def graph_of(tank: Surgetank, *nodes: Callable[[State], Any]) -> Any:
    builder = StateGraph(State)
    for number, node in enumerate(nodes):
        builder.add_node(f"n{number}", cast("Any", node))
        builder.add_edge(f"n{number - 1}" if number else START, f"n{number}")
    builder.add_edge(f"n{len(nodes) - 1}", END)
    return builder.compile(checkpointer=tank.checkpointer())


def step(name: str) -> Callable[[State], State]:
    return lambda _: {"steps": [name]}


def accept(tank: Surgetank, thread: str = "t", **more: Any) -> Run:
    kwargs = {"input": {"steps": []}, **more.pop("kwargs", {})}
    new = NewRun(
        thread_id=thread, assistant_id=more.pop("assistant", "agent"), kwargs=kwargs, **more
    )
    return tank.runs.accept(new, actor="ada")


async def ended(tank: Surgetank, run: Run) -> Run:
    async with asyncio.timeout(30):
        while (found := tank.runs.get(run.run_id)).status in (Status.PENDING, Status.RUNNING):  # noqa: ASYNC110 - its end is in the database
            await asyncio.sleep(0.02)
    return found


async def working(
    tank: Surgetank, graph: Any, act: Callable[[], Awaitable[None]], **options: Any
) -> None:
    """A worker of the graph, while `act` goes on."""
    worker, stop = tank.runs.worker({"agent": graph}, **options), asyncio.Event()
    worker.heartbeat.every_s = 0.1
    task = asyncio.create_task(worker.work(stop))
    try:
        await act()
    finally:
        stop.set()
        await task


def steps(tank: Surgetank, thread: str = "t") -> list[str]:
    found = tank.checkpointer().get_tuple({"configurable": {"thread_id": thread}})
    assert found is not None
    values: list[str] = found.checkpoint["channel_values"]["steps"]
    return values


@pytest.mark.parametrize("where", ["before", "within"])
def test_a_run_is_tried_again_while_the_buffer_is_away_but_its_nodes_not_for_ever(
    tank: Surgetank, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(worker_module, "_RETRY_S", 0.0)
    monkeypatch.setattr(worker_module, "_MOST_TRIES", 3)
    take, tries, begun = take_thread, list[int](), list[int]()

    async def taken(saver: object, run: Run) -> None:
        tries.append(run.attempts)
        if where == "before" and len(tries) < 6:
            raise BufferUnavailable("It is away.")
        await take(saver, run)

    def node(_: State) -> State:
        begun.append(len(tries))
        if where == "within":
            raise BufferUnavailable("It is away.")
        return {"steps": ["one"]}

    monkeypatch.setattr(worker_module, "take_thread", taken)
    run = accept(tank)

    async def act() -> None:
        await ended(tank, run)

    asyncio.run(working(tank, graph_of(tank, node), act))
    found = tank.runs.get(run.run_id)
    if where == "before":
        assert (found.status, begun, len(tries)) == (Status.COMPLETED, [6], 6)
    else:
        assert (found.status, begun) == (Status.FAILED, [1, 2, 3])
        assert "It is away." in (found.error or "")


async def test_a_run_goes_to_its_end_and_its_state_is_the_thread_s(tank: Surgetank) -> None:
    graph = graph_of(tank, step("one"), step("two"))

    async def act() -> None:
        run = await ended(tank, accept(tank))
        assert (run.status, run.attempts, run.error) == (Status.COMPLETED, 1, None)
        assert steps(tank) == ["one", "two"]

    await working(tank, graph, act)
    assert tank.runs.counts() == {}


async def test_it_waits_for_people_and_goes_on_with_their_answer(
    tank: Surgetank, database_url: str
) -> None:
    graph = graph_of(tank, step("one"), lambda _: {"steps": [interrupt({"ask": "really?"})]})

    async def act() -> None:
        run = await ended(tank, accept(tank))
        assert run.status is Status.AWAITING_CHECKPOINT, run.error
        with psycopg.connect(database_url) as connection:
            row = connection.execute(
                "SELECT status, interrupts FROM surgetank.thread_status"
            ).fetchone()
        assert row is not None
        assert row[0] == "interrupted"
        assert [each["value"] for each in row[1]] == [{"ask": "really?"}]
        answer = {"input": None, "command": {"resume": "yes"}}
        resumed = await ended(tank, accept(tank, workflow_id=run.workflow_id, kwargs=answer))
        assert (resumed.status, resumed.workflow_id) == (Status.COMPLETED, run.workflow_id)
        assert steps(tank) == ["one", "yes"]
        assert [row["action"] for row in tank.runs.audit(run.workflow_id)] == [
            "run_accepted", "run_claimed", "run_awaiting_checkpoint", "checkpoint_created",
            "checkpoint_resolved", "run_accepted", "run_claimed", "run_completed",
        ]  # fmt: skip

    await working(tank, graph, act)


async def test_what_the_graph_raises_is_its_end_and_other_graphs_wait_for_who_has_them(
    tank: Surgetank,
) -> None:
    def fail(_: State) -> State:
        raise ValueError("the plan is broken")

    async def act() -> None:
        run = await ended(tank, accept(tank))
        assert (run.status, run.error) == (Status.FAILED, "ValueError: the plan is broken")
        other = accept(tank, "u", assistant="other")
        await ended(tank, accept(tank, "v"))
        assert tank.runs.get(other.run_id).status is Status.PENDING

    await working(tank, graph_of(tank, fail), act)


async def test_a_run_that_takes_too_long_is_ended(tank: Surgetank) -> None:
    async def wait(_: State) -> State:
        await asyncio.sleep(60)
        return {}

    async def act() -> None:
        run = await ended(tank, accept(tank, timeout_s=0.2))
        assert (run.status, run.timed_out) == (Status.FAILED, True)
        assert run.error == "It took longer than 0.2 s."

    await working(tank, graph_of(tank, wait), act)


async def test_a_run_under_way_is_cancelled_by_its_worker(tank: Surgetank) -> None:
    begun = asyncio.Event()

    async def wait(_: State) -> State:
        begun.set()
        await asyncio.sleep(60)
        return {}

    async def act() -> None:
        run = accept(tank)
        await asyncio.wait_for(begun.wait(), 20)
        assert not tank.runs.cancel(run.run_id, actor="ada", action=CancelAction.INTERRUPT)
        assert (await ended(tank, run)).status is Status.CANCELLED

    await working(tank, graph_of(tank, wait), act)


async def test_a_worker_that_stops_gives_its_runs_back_and_the_next_goes_on_from_the_last_step(
    tank: Surgetank,
) -> None:
    begun, let = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    async def first(_: State) -> State:
        ran.append("first")
        return {"steps": ["first"]}

    async def second(_: State) -> State:
        ran.append("second")
        begun.set()
        await let.wait()
        return {"steps": ["second"]}

    graph, run = graph_of(tank, first, second), accept(tank)

    async def until_begun() -> None:
        await asyncio.wait_for(begun.wait(), 20)

    await working(tank, graph, until_begun)
    given_back = tank.runs.get(run.run_id)
    assert (given_back.status, given_back.worker) == (Status.PENDING, None)
    let.set()

    async def act() -> None:
        after = await ended(tank, run)
        assert (after.status, after.attempts) == (Status.COMPLETED, 2)

    await working(tank, graph, act)
    assert steps(tank) == ["first", "second"]
    assert ran == ["first", "second", "second"], "only what was not finished is run again"


async def test_what_clients_may_not_set_is_ours(tank: Surgetank) -> None:
    seen: list[dict[str, Any]] = []

    def look(_: State, config: RunnableConfig) -> State:
        seen.append(dict(config["configurable"]))
        return {}

    builder = StateGraph(State)
    builder.add_node("look", cast("Any", look))
    builder.add_edge(START, "look")
    graph: Any = builder.compile(checkpointer=tank.checkpointer())
    hostile = {
        "configurable": {
            "thread_id": "another", "checkpoint_id": "1", "checkpoint_ns": "x", "user_id": "root",
            "__pregel_resuming": True, "model": "m",
        }
    }  # fmt: skip

    async def act() -> None:
        await ended(tank, accept(tank, owner="ada", kwargs={"config": hostile}))

    await working(tank, graph, act)
    (found,) = seen
    assert (found["thread_id"], found["user_id"], found["model"]) == ("t", "ada", "m")
    assert tank.checkpointer().get_tuple({"configurable": {"thread_id": "another"}}) is None


async def test_a_run_ends_although_the_database_is_away_when_it_does(
    make_tank: MakeTank, private_postgres: PostgresServer
) -> None:
    url = private_postgres.url_of(private_postgres.create_database())
    tank = make_tank(database_url=url, flush_in_process=True)
    tank.parts.database.prepare()
    reached, let = asyncio.Event(), asyncio.Event()

    async def wait(_: State) -> State:
        reached.set()
        await let.wait()
        return {"steps": ["through the outage"]}

    graph, run = graph_of(tank, wait), accept(tank)

    async def act() -> None:
        await asyncio.wait_for(reached.wait(), 20)
        await asyncio.to_thread(private_postgres.stop)
        let.set()
        await asyncio.sleep(0.5)  # the end of the run is tried in vain
        await asyncio.to_thread(private_postgres.start)
        after = await ended(tank, run)
        assert (after.status, after.attempts) == (Status.COMPLETED, 1)

    await working(tank, graph, act)
    assert steps(tank) == ["through the outage"]


PROGRAM = """
import asyncio, os, sys
from test_run_worker import graph_of
from surgetank import Surgetank

async def main():
    tank = Surgetank(sys.argv[1], database_url=sys.argv[2], flush_in_process=False).open()

    async def first(_):
        print("first", flush=True)
        return {"steps": ["first"]}

    async def second(_):
        print("second", flush=True)
        await asyncio.sleep(60)
        return {}

    worker = tank.runs.worker({"agent": graph_of(tank, first, second)})
    await worker.work(asyncio.Event())

asyncio.run(main())
"""


async def test_the_run_of_a_worker_that_was_killed_is_taken_over_once(
    tank: Surgetank, database_url: str
) -> None:
    run = accept(tank)
    killed = subprocess.Popen(  # noqa: ASYNC220 - starting it takes no time
        [sys.executable, "-c", PROGRAM, str(tank.settings.home), database_url],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS / 'integration'}"},
    )  # fmt: skip
    assert killed.stdout is not None
    lines = [await asyncio.to_thread(killed.stdout.readline) for _ in range(2)]
    assert lines == ["first\n", "second\n"]
    killed.send_signal(signal.SIGKILL)
    killed.wait(20)
    killed.stdout.close()
    assert tank.runs.get(run.run_id).status is Status.RUNNING
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE surgetank.runs SET lease_until = now() - interval '1 second'")
    assert tank.runs.reap() == {run.run_id: Status.PENDING}
    ran: list[str] = []

    def named(name: str) -> Callable[[State], State]:
        def node(_: State) -> State:
            ran.append(name)
            return {"steps": [name]}

        return node

    async def act() -> None:
        after = await ended(tank, run)
        assert (after.status, after.attempts) == (Status.COMPLETED, 2)

    await working(tank, graph_of(tank, named("first"), named("second")), act)
    assert ran == ["second"], "the first step was saved"
    assert steps(tank) == ["first", "second"]


async def test_a_worker_takes_over_what_a_silent_one_held_but_gives_it_the_time_of_a_lease(
    tank: Surgetank, database_url: str
) -> None:
    run = accept(tank)
    queue = RunQueue(tank.parts.database, lease_s=0.1)
    (held,) = queue.claim("silent", 1)
    worker = RunWorker(RunQueue(tank.parts.database, lease_s=1.0), FixedGraphs({}), name="w")
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE surgetank.runs SET lease_until = now() - interval '1 second'")
    began = time.monotonic()
    worker.heartbeat.beat()
    assert tank.runs.get(run.run_id).worker == held.worker, "it may have had the same gap as we"
    while tank.runs.get(run.run_id).status is Status.RUNNING:
        worker.heartbeat.beat()
    assert time.monotonic() - began >= 1.0


async def test_nobody_is_reaped_by_who_had_a_gap_or_by_a_statement_that_was_late(
    tank: Surgetank, database_url: str
) -> None:
    tank.parts.database.prepare()
    queue, gap = RunQueue(tank.parts.database, lease_s=10.0), timedelta(seconds=6)
    run = accept(tank)
    queue.claim("alive", 1)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE surgetank.runs SET lease_until = now() - interval '1 second'")
    now, _ = queue.reap_in_contact(None, None, gap, actor="w")
    long = now - timedelta(seconds=60)
    for since, last in (
        (long, now - timedelta(seconds=7)),  # sent seven seconds ago, or after such a gap
        (now - timedelta(seconds=9), now),
        (None, now), (long, None),
    ):  # fmt: skip
        assert queue.reap_in_contact(since, last, gap, actor="w")[1] == {}
    assert queue.reap_in_contact(long, now, gap, actor="w")[1] == {run.run_id: Status.PENDING}


async def test_a_heartbeat_cuts_no_run_off_that_has_just_ended(
    tank: Surgetank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is not running any more, and its end is yet to be told to who follows."""
    recorded, beats = threading.Event(), list[int]()
    renew = RunQueue.renew

    def renewing(self: RunQueue, runs: Any) -> Any:
        held = renew(self, runs)
        if recorded.is_set() and runs and not held:
            beats.append(len(runs))
        return held

    def on_end(_run: Run, _status: Status) -> None:
        recorded.set()
        wait_until(lambda: len(beats) > 1, "a second heartbeat, after what the first one did")

    monkeypatch.setattr(RunQueue, "renew", renewing)
    run = accept(tank)

    async def act() -> None:
        await ended(tank, run)
        await asyncio.to_thread(
            wait_until, lambda: tank.runs.streams.has_ended(str(run.run_id)), "its end is told"
        )

    await working(tank, graph_of(tank, step("a")), act, on_end=on_end)
    assert len(beats) > 1


@pytest.mark.parametrize("most", [1, 8])
async def test_many_runs_all_end_and_nothing_of_them_stays(tank: Surgetank, most: int) -> None:
    graph = graph_of(tank, step("only"))
    runs = [accept(tank, f"t{number % 10}") for number in range(40)]
    worker, stop = tank.runs.worker({"agent": graph}, most=most), asyncio.Event()
    task = asyncio.create_task(worker.work(stop))
    for run in runs:
        assert (await ended(tank, run)).status is Status.COMPLETED
    stop.set()
    await task
    assert worker._under_way == {}
    assert steps(tank, "t3") == ["only"] * 4


def test_ids_are_uuids(tank: Surgetank) -> None:
    assert isinstance(accept(tank).run_id, uuid.UUID)
    wait_until(lambda: tank.runs.counts()[Status.PENDING][0] == 1, "it to be counted")
