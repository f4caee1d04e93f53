"""Questions to people on real PostgreSQL: recorded when they are asked, answered by one way whatever
door the answer comes through, delivered once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict, cast

import psycopg
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from surgetank import Surgetank
from surgetank.acting import acting_from
from surgetank.exceptions import CheckpointAnswered, CheckpointNotFound, DecisionRefused
from surgetank.workflows.approvals.rows import UserCheckpoint
from surgetank.workflows.runs import NewRun, Run
from surgetank.workflows.status import Status


def add(old: list[Any], new: list[Any]) -> list[Any]:
    return [*old, *new]


class State(TypedDict, total=False):
    said: Annotated[list[Any], add]


BATCH = {
    "action_requests": [{"name": "send", "args": {"to": "ada"}}],
    "review_configs": [{"action_name": "send", "allowed_decisions": ["approve", "edit", "reject"]}],
}


def asking(tank: Surgetank, *values: Any, **schema: Any) -> Any:
    """A graph that asks each value, all at once, and says what was answered."""
    builder = StateGraph(State)
    for number, value in enumerate(values):

        def node(_: State, value: Any = value) -> State:
            return {"said": [interrupt(value, **schema)]}

        builder.add_node(f"ask{number}", cast("Any", node))
        builder.add_edge(START, f"ask{number}")
        builder.add_edge(f"ask{number}", END)
    return builder.compile(checkpointer=tank.checkpointer())


@asynccontextmanager
async def working(tank: Surgetank, graph: Any) -> AsyncIterator[None]:
    stop = asyncio.Event()
    work = asyncio.create_task(tank.runs.worker({"agent": graph}).work(stop))
    try:
        yield
    finally:
        stop.set()
        await work


def new(thread: str = "t", **more: Any) -> NewRun:
    kwargs = {"input": {"said": []}, **more.pop("kwargs", {})}
    return NewRun(thread_id=thread, assistant_id="agent", kwargs=kwargs, owner="ada", **more)


async def ended(tank: Surgetank, run: Run) -> Run:
    async with asyncio.timeout(30):
        while (found := tank.runs.get(run.run_id)).status in (Status.PENDING, Status.RUNNING):  # noqa: ASYNC110 - its end is in the database
            await asyncio.sleep(0.01)
    return found


async def asked(tank: Surgetank, **more: Any) -> list[UserCheckpoint]:
    """A thread that asks, and what it asks."""
    run = await ended(tank, tank.runs.accept(new(**more), actor="ada"))
    assert run.status is Status.AWAITING_CHECKPOINT, run.error
    return tank.approvals(status="pending", thread_id=run.thread_id)


def said(tank: Surgetank, thread: str = "t") -> Any:
    found = tank.checkpointer().get_tuple({"configurable": {"thread_id": thread}})
    assert found is not None
    return found.checkpoint["channel_values"].get("said")


def answer(thread: str, resume: Any, **more: Any) -> NewRun:
    return new(thread, kwargs={"input": None, "command": {"resume": resume}, **more})


async def test_a_question_is_recorded_when_it_is_asked_and_answered_by_its_id(
    tank: Surgetank,
) -> None:
    async with working(tank, asking(tank, BATCH)):
        (row,) = await asked(tank)
        assert (row.kind, row.step_name, row.owner, row.iteration) == ("batched", "ask0", "ada", 1)
        assert row.actions[0]["allowed"] == ["approve", "edit", "reject"]
        after, run = tank.approvals.resolve(
            row.checkpoint_id, "edit", edited={"to": "ben"}, notes="not her", actor="eve"
        )
        assert run is not None
        assert (await ended(tank, run)).status is Status.COMPLETED
    assert (after.status, after.resolved_by, after.user_notes) == ("edited", "eve", "not her")
    assert (
        after.diff == [{"op": "replace", "path": "/0/to", "before": "ada", "value": "ben"}]
        or after.diff
    )
    assert said(tank)[0]["decisions"][0]["edited_action"] == {"name": "send", "args": {"to": "ben"}}
    assert run.workflow_id == row.workflow_id
    actions = [each["action"] for each in tank.runs.audit(row.workflow_id)]
    assert actions == [
        "run_accepted", "run_claimed", "run_awaiting_checkpoint", "checkpoint_created",
        "checkpoint_resolved", "run_accepted", "run_claimed", "run_completed",
    ]  # fmt: skip


async def test_the_audit_says_from_where_people_decide_assign_cancel_and_delete(
    tank: Surgetank,
) -> None:
    async with working(tank, asking(tank, BATCH)):
        (row,) = await asked(tank)
        token = acting_from.set("10.0.0.7")
        try:
            tank.approvals.assign(row.checkpoint_id, assignee="eve", role=None, actor="op")
            _, run = tank.approvals.resolve(row.checkpoint_id, "approve", actor="eve")
        finally:
            acting_from.reset(token)
        assert run is not None
        assert (await ended(tank, run)).status is Status.COMPLETED
    tank.runs.delete(run.run_id, actor="eve")
    tank.threads.rows.delete("t", actor="eve")
    rows = tank.audit.list()
    origins = {each["action"]: each["origin"] for each in reversed(rows)}
    here = tank.settings.node
    assert (origins["checkpoint_assigned"], origins["checkpoint_resolved"]) == ("10.0.0.7",) * 2
    assert [each["action"] for each in rows if each["origin"] is None] == []
    assert {origins["checkpoint_created"], origins["run_deleted"], origins["thread_deleted"]} == {
        here
    }


async def test_what_is_not_allowed_is_refused_before_anything_is_written(tank: Surgetank) -> None:
    async with working(tank, asking(tank, BATCH)):
        (row,) = await asked(tank)
        for act in (
            lambda: tank.approvals.resolve(row.checkpoint_id, "respond", notes="x", actor="eve"),
            lambda: tank.runs.accept(answer("t", {"decisions": []}), actor="eve"),
            lambda: tank.runs.accept(answer("t", "yes"), actor="eve"),
        ):
            with pytest.raises(DecisionRefused):
                act()
        with pytest.raises(CheckpointNotFound):
            tank.approvals.resolve(uuid.uuid4(), "approve", actor="eve")
        with pytest.raises(CheckpointNotFound):
            tank.runs.accept(
                answer("t", {"0" * 32: {"decisions": [{"type": "approve"}]}}), actor="eve"
            )
        assert tank.approvals.get(row.checkpoint_id).status == "pending"
        assert len(tank.runs.of_thread("t")) == 1
        run = tank.runs.accept(answer("t", {"decisions": [{"type": "approve"}]}), actor="eve")
        assert (await ended(tank, run)).status is Status.COMPLETED
    with pytest.raises(CheckpointAnswered, match="approved by eve"):
        tank.approvals.resolve(row.checkpoint_id, "reject", actor="ben")
    with pytest.raises(CheckpointAnswered):
        tank.runs.accept(answer("t", {row.interrupt_id: "late"}), actor="ben")
    with pytest.raises(CheckpointAnswered, match="waits for no answer"):
        tank.runs.accept(answer("t", "late"), actor="ben")
    assert len(tank.runs.of_thread("t")) == 2


async def test_of_two_who_answer_at_once_one_wins(tank: Surgetank) -> None:
    async with working(tank, asking(tank, "sure?")):
        (row,) = await asked(tank)

        def decide(who: int) -> str | None:
            action = "approve" if who % 2 else "reject"
            try:
                return tank.approvals.resolve(row.checkpoint_id, action, actor=f"p{who}")[
                    0
                ].resolved_by
            except CheckpointAnswered:
                return None

        with ThreadPoolExecutor(8) as pool:
            won = [w for w in pool.map(decide, range(8)) if w is not None]
        assert len(won) == 1
        runs = tank.runs.of_thread("t")
        assert len(runs) == 2
        assert (await ended(tank, runs[0])).status is Status.COMPLETED
    assert said(tank) == [tank.approvals.get(row.checkpoint_id).status == "approved"]


async def test_several_questions_are_kept_until_all_are_answered_and_the_graph_goes_on_once(
    tank: Surgetank,
) -> None:
    async with working(tank, asking(tank, "one?", "two?", "three?")):
        rows = await asked(tank)
        assert len(rows) == 3
        with pytest.raises(DecisionRefused, match="3 questions"):
            tank.runs.accept(answer("t", "yes"), actor="eve")
        with pytest.raises(DecisionRefused, match="leaves 2 questions open"):
            tank.runs.accept(
                answer("t", {rows[0].interrupt_id: 1}, strict_resume=True), actor="eve"
            )
        _, run = tank.approvals.resolve(rows[0].checkpoint_id, "respond", response=1, actor="eve")
        assert run is None
        # a client that sends a part gets a run, which ends asking still
        held = tank.runs.accept(answer("t", {rows[1].interrupt_id: 2}), actor="eve")
        assert (await ended(tank, held)).status is Status.AWAITING_CHECKPOINT
        (left,) = tank.approvals(status="pending", thread_id="t")
        assert left.checkpoint_id == rows[2].checkpoint_id
        _, run = tank.approvals.resolve(left.checkpoint_id, "respond", response=3, actor="ben")
        assert run is not None
        assert (await ended(tank, run)).status is Status.COMPLETED
    assert sorted(said(tank)) == [1, 2, 3]


async def test_new_input_instead_of_an_answer_closes_the_question(tank: Surgetank) -> None:
    async with working(tank, asking(tank, "sure?")):
        (row,) = await asked(tank)
        (again,) = await asked(tank)
    assert tank.approvals.get(row.checkpoint_id).status == "superseded"
    assert again.checkpoint_id != row.checkpoint_id
    assert tank.workflows.get(row.workflow_id).status == "cancelled"


async def test_going_to_the_end_closes_the_question_as_ignored(tank: Surgetank) -> None:
    async with working(tank, asking(tank, "sure?")):
        (row,) = await asked(tank)
        end = new(kwargs={"input": None, "command": {"goto": "__end__"}})
        await ended(tank, tank.runs.accept(end, actor="eve"))
    assert tank.approvals.get(row.checkpoint_id).status == "ignored"
    assert tank.approvals(status="pending") == []


async def test_a_second_person_has_to_approve_where_that_is_asked(tank: Surgetank) -> None:
    async with working(tank, asking(tank, {"q": "pay?", "surgetank": {"approvals": 2}})):
        (row,) = await asked(tank)
        after, run = tank.approvals.resolve(row.checkpoint_id, "approve", actor="eve")
        assert (after.status, after.first_approver, run) == ("pending", "eve", None)
        with pytest.raises(CheckpointAnswered, match="a second person"):
            tank.approvals.resolve(row.checkpoint_id, "approve", actor="eve")
        _, run = tank.approvals.resolve(row.checkpoint_id, "approve", actor="ben")
        assert run is not None
        await ended(tank, run)
    assert said(tank) == [True]


def pass_time(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "UPDATE surgetank.user_checkpoints SET expires_at = now() - interval '1 second',"
            " created_at = now() - interval '1 hour' WHERE status = 'pending'"
        )


async def test_a_question_that_nobody_answers_in_time_takes_its_default_or_fails(
    tank: Surgetank, database_url: str
) -> None:
    terms = {"expires_in": "1h", "default_action": "reject"}
    async with working(tank, asking(tank, {"q": "pay?", "surgetank": terms})):
        (row,) = await asked(tank)
        assert tank.approvals.expire_due() == 0
        pass_time(database_url)
        with pytest.raises(CheckpointAnswered, match="time to answer"):
            tank.approvals.resolve(row.checkpoint_id, "approve", actor="late")
        assert tank.approvals.expire_due() == 1
        (run, _) = tank.runs.of_thread("t")
        assert (await ended(tank, run)).status is Status.COMPLETED
        assert said(tank) == [False]
        expired = tank.approvals.get(row.checkpoint_id)
        assert (expired.status, expired.resolved_by) == ("expired", "expiry")
    async with working(tank, asking(tank, {"q": "?", "surgetank": {"expires_in": 60}})):
        (row,) = await asked(tank, thread="u")
        pass_time(database_url)
        assert tank.approvals.expire_due() == 1
    assert tank.approvals.get(row.checkpoint_id).status == "expired"
    assert tank.workflows.get(row.workflow_id).status == "failed"


async def test_lists_assignments_and_figures(tank: Surgetank) -> None:
    async with working(tank, asking(tank, "sure?")):
        for thread in ("a", "b"):
            await asked(tank, thread=thread)
        first, second = tank.approvals(status="pending")
        assert [r.thread_id for r in tank.approvals(after=first.checkpoint_number)] == ["b"]
        tank.approvals.assign(second.checkpoint_id, assignee="eve", role=None, actor="ada")
        assert [r.thread_id for r in tank.approvals(assignee="eve")] == ["b"]
        _, run = tank.approvals.resolve(first.checkpoint_id, "edit", edited=1, actor="ada")
        assert run is not None
        await ended(tank, run)
        with pytest.raises(CheckpointAnswered):
            tank.approvals.assign(first.checkpoint_id, assignee="x", role=None, actor="ada")
    (row,) = tank.approvals.stats()
    assert (row["asked"], row["edited"], row["pending"], row["share_edited"]) == (2, 1, 1, 1.0)
    assert row["p50_s"] >= 0


async def test_workflows_are_listed_cancelled_and_tried_again(tank: Surgetank) -> None:
    failing = True

    def node(_: State) -> State:
        if failing:
            raise ValueError("not yet")
        return {"said": ["done"]}

    builder = StateGraph(State)
    builder.add_node("n", cast("Any", node))
    builder.add_edge(START, "n")
    graph = builder.compile(checkpointer=tank.checkpointer())
    async with working(tank, graph):
        run = await ended(tank, tank.runs.accept(new("f"), actor="ada"))
        assert tank.workflows.get(run.workflow_id).status == "failed"
        failing = False
        again = tank.workflows.retry(run.workflow_id, actor="ada")
        assert (await ended(tank, again)).status is Status.COMPLETED
    assert said(tank, "f") == ["done"]
    assert [r.run_id for r in tank.workflows.runs(run.workflow_id)] == [run.run_id, again.run_id]
    async with working(tank, asking(tank, "sure?")):
        (row,) = await asked(tank)
    assert tank.workflows.cancel(row.workflow_id, actor="ada")
    assert tank.approvals.get(row.checkpoint_id).status == "superseded"
    assert [w.status for w in tank.workflows(owner="ada")] == ["cancelled", "completed"]


@pytest.mark.parametrize("where", ["in the node that asked", "after it"])
async def test_an_answer_whose_run_failed_is_used_again_when_it_is_tried_again(
    tank: Surgetank, where: str
) -> None:
    failing = True

    def ask(_: State) -> State:
        answer = interrupt("sure?")
        if failing and where == "in the node that asked":
            raise ValueError("not yet")
        return {"said": [str(answer)]}

    def use(_: State) -> State:
        if failing:
            raise ValueError("not yet")
        return {"said": ["done"]}

    builder = StateGraph(State)
    builder.add_node("ask", cast("Any", ask))
    builder.add_node("use", cast("Any", use))
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "use")
    graph = builder.compile(checkpointer=tank.checkpointer())
    async with working(tank, graph):
        (row,) = await asked(tank)
        _, run = tank.approvals.resolve(row.checkpoint_id, "respond", response="yes", actor="eve")
        assert run is not None
        for _ in range(2):
            assert (await ended(tank, run)).status is Status.FAILED
            run = tank.workflows.retry(row.workflow_id, actor="ada")
        assert (await ended(tank, run)).status is Status.FAILED
        failing = False
        run = tank.workflows.retry(row.workflow_id, actor="ada")
        assert (await ended(tank, run)).status is Status.COMPLETED
    assert said(tank) == ["yes", "done"]
    assert len(tank.approvals()) == 1, "nobody is asked again"


@pytest.mark.parametrize("step", ["before", "after"])
async def test_an_answer_whose_worker_dies_is_delivered_by_the_next(
    tank: Surgetank, database_url: str, step: str
) -> None:
    graph = asking(tank, "sure?")
    async with working(tank, graph):
        (row,) = await asked(tank)
    _, run = tank.approvals.resolve(row.checkpoint_id, "approve", actor="eve")
    assert run is not None
    if step == "after":  # claimed by one that dies
        from surgetank.workflows.queue import RunQueue

        assert RunQueue(tank.parts.database).claim("dead", 1)
        with psycopg.connect(database_url) as connection:
            connection.execute("UPDATE surgetank.runs SET lease_until = now() - interval '1 hour'")
        assert tank.runs.reap()
    async with working(tank, graph):
        assert (await ended(tank, run)).status is Status.COMPLETED
    assert said(tank) == [True]
