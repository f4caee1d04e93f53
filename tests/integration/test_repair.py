"""Threads that are stuck, on real PostgreSQL: what holds them is found, let go once, and nothing is done
to threads that nothing holds."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from integration.test_approvals import State, answer, asked, asking, ended, new, said, working
from surgetank import Surgetank
from surgetank.exceptions import ThreadBusy, ThreadNotFound
from surgetank.workflows.status import Status


def kinds(tank: Surgetank, thread: str = "t", **more: Any) -> list[str]:
    return [f.kind for f in tank.threads.repair(thread, actor="op", **more).findings]


def sql(tank: Surgetank, text: str) -> None:
    with tank.database.connection() as connection:
        connection.execute(cast("Any", text))


def lines(tank: Surgetank) -> int:
    return sum(row["action"] == "thread_repaired" for row in tank.audit.list(limit=1000))


async def test_nothing_holds_a_thread_that_asks_or_has_ended(tank: Surgetank) -> None:
    inner = asking(tank, "in a subgraph?")
    outer = StateGraph(State)
    outer.add_node("inner", inner)
    outer.add_edge(START, "inner")
    outer.add_edge("inner", END)
    for graph in (asking(tank, "a?", "b?"), outer.compile(checkpointer=tank.checkpointer())):
        thread = f"t{id(graph)}"
        async with working(tank, graph):
            rows = await asked(tank, thread=thread)
            assert kinds(tank, thread, dry_run=False) == []
            for row in rows:
                _, run = tank.approvals.resolve(
                    row.checkpoint_id, "respond", actor="ada", response="y"
                )
                assert kinds(tank, thread, dry_run=False) == [] or run is not None
            assert run is not None
            assert (await ended(tank, run)).status is Status.COMPLETED
            assert kinds(tank, thread, dry_run=False) == []
    assert lines(tank) == 0
    with pytest.raises(ThreadNotFound):
        kinds(tank, "nobody")
    graph = asking(tank, "a?")
    await graph.ainvoke({"said": []}, {"configurable": {"thread_id": "only checkpoints"}})
    assert kinds(tank, "only checkpoints") == []


async def test_an_answer_that_the_node_refuses_is_taken_back_and_asked_again(
    tank: Surgetank,
) -> None:
    def node(_: State) -> State:
        if (given := interrupt("a number?")) != 1:
            raise ValueError(given)
        return {"said": [given]}

    builder = StateGraph(State)
    builder.add_node("node", cast("Any", node))
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    graph = builder.compile(checkpointer=tank.checkpointer())
    async with working(tank, graph):
        await asked(tank)
        failed = await ended(tank, tank.runs.accept(answer("t", "x"), actor="ada"))
        assert failed.status is Status.FAILED
        assert kinds(tank) == ["answer_refused"]
        done = tank.threads.repair("t", actor="op", dry_run=False)
        assert (done.done, done.status) == (True, "idle")
        assert kinds(tank, dry_run=False) == []
        again = await ended(tank, tank.runs.accept(new(kwargs={"input": None}), actor="ada"))
        assert again.status is Status.AWAITING_CHECKPOINT
        await ended(tank, tank.runs.accept(answer("t", "y"), actor="ada"))
        assert kinds(tank, dry_run=False) == ["answer_refused"], "as often as that happens"
        await ended(tank, tank.runs.accept(new(kwargs={"input": None}), actor="ada"))
        good = await ended(tank, tank.runs.accept(answer("t", 1), actor="ada"))
        assert (good.status, said(tank)) == (Status.COMPLETED, [1])
    assert lines(tank) == 2


async def test_a_question_that_is_not_recorded_is_asked_again(tank: Surgetank) -> None:
    async with working(tank, asking(tank, "a?")):
        (row,) = await asked(tank)
        sql(
            tank, "UPDATE surgetank.user_checkpoints SET status = 'superseded', resolved_at = now()"
        )
        assert kinds(tank, dry_run=False) == ["question_lost"]
        (again,) = tank.approvals(status="pending")
        assert (again.interrupt_id, again.step_name) == (row.interrupt_id, "ask0")
        _, run = tank.approvals.resolve(again.checkpoint_id, "respond", actor="ada", response="y")
        assert run is not None
        assert (await ended(tank, run)).status is Status.COMPLETED


async def test_a_question_that_the_state_does_not_ask_is_closed(tank: Surgetank) -> None:
    async with working(tank, asking(tank, "a?")):
        await asked(tank)
    tank.checkpointer().delete_thread("t")
    sql(tank, "UPDATE surgetank.thread_status SET status = 'busy'")
    found = ["not_busy", "question_not_asked", "nothing_asked"]
    assert kinds(tank) == found
    assert kinds(tank, dry_run=False) == found
    assert kinds(tank, dry_run=False) == []
    assert tank.approvals(status="pending") == []
    (flow,) = tank.workflows(thread_id="t")
    row = tank.threads.rows.find("t")
    assert row is not None
    assert (flow.status, row.status, row.interrupts) == ("cancelled", "idle", [])


async def test_what_a_thread_asks_is_given_up_on_demand_but_not_under_a_run(
    tank: Surgetank,
) -> None:
    async with working(tank, asking(tank, "a?")):
        await asked(tank)
        assert kinds(tank) == []
        done = await asyncio.gather(  # two at once
            *(asyncio.to_thread(kinds, tank, dry_run=False, forget=True) for _ in range(2))
        )
        assert sorted(done) == [[], ["forgotten"]]
        assert tank.approvals(status="pending") == []
    run = tank.runs.accept(new(), actor="ada")
    with pytest.raises(ThreadBusy):
        kinds(tank, dry_run=False, forget=True)
    assert tank.runs.get(run.run_id).status is Status.PENDING


async def test_the_run_of_a_silent_worker_is_given_back(tank: Surgetank) -> None:
    run = tank.runs.accept(new(), actor="ada")
    sql(tank, "SELECT surgetank.claim_runs('dead', 1, 60, NULL, NULL)")
    assert kinds(tank, dry_run=False) == [], "its worker lives"
    sql(tank, "UPDATE surgetank.runs SET lease_until = now() - interval '1 second'")
    assert kinds(tank, dry_run=False) == ["worker_silent"]
    assert kinds(tank, dry_run=False) == []
    async with working(tank, asking(tank, "a?")):
        assert (await ended(tank, run)).status is Status.AWAITING_CHECKPOINT
