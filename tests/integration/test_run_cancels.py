"""Who is told that a run will end is not told wrong by a run that ends at that moment; and what a run asks
is not left in an inbox when something else has been asked of its thread meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypedDict, cast

import psycopg
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.exceptions import RunNotFound
from surgetank.workflows.queue import ASKED, RunQueue
from surgetank.workflows.runs import CancelAction, NewRun, Run, Strategy
from surgetank.workflows.status import Status

QUESTION = {"id": "0" * 32, "value": "?", "task_id": "t", "node": "n", "namespace": []}
NOT_OVER = (Status.PENDING, Status.RUNNING)


@pytest.fixture
def queue(tank: Surgetank) -> RunQueue:
    tank.parts.database.prepare()
    return RunQueue(tank.parts.database)


def accept(queue: RunQueue, thread: str = "t", **more: Any) -> Run:
    return queue.accept(NewRun(thread_id=thread, assistant_id="agent", **more), actor="ada")


def end(queue: RunQueue, run: Run, status: Status) -> str:
    asked = [QUESTION] if status is Status.AWAITING_CHECKPOINT else []
    retry_s = 60.0 if status is Status.PENDING else 0.0
    return queue.end(run, status, interrupts=asked, retry_s=retry_s, actor="w")


def open_questions(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM surgetank.user_checkpoints WHERE status = 'pending'"
        ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    ("action", "ended"),
    [
        (CancelAction.INTERRUPT, Status.AWAITING_CHECKPOINT),
        (CancelAction.INTERRUPT, Status.PENDING),
        (CancelAction.ROLLBACK, Status.AWAITING_CHECKPOINT),
        (CancelAction.ROLLBACK, Status.COMPLETED),
        (CancelAction.ROLLBACK, Status.FAILED),
    ],
)
def test_a_cancel_that_was_promised_is_not_overtaken_by_the_run_s_end(
    queue: RunQueue, database_url: str, action: CancelAction, ended: Status
) -> None:
    run = accept(queue)
    (mine,) = queue.claim("w", 1)
    assert not queue.cancel(run.run_id, action, actor="ada")
    assert end(queue, mine, ended) == ASKED
    assert queue.get(run.run_id).status is Status.RUNNING, "nothing is recorded"
    assert end(queue, mine, Status.CANCELLED) in ("interrupted", "idle")
    assert open_questions(database_url) == 0
    if action is CancelAction.INTERRUPT:
        assert queue.get(run.run_id).status is Status.CANCELLED
    else:
        with pytest.raises(RunNotFound):
            queue.get(run.run_id)


def test_of_runs_that_end_together_only_those_to_be_rolled_back_do_not(queue: RunQueue) -> None:
    for thread in ("done", "back", "late"):
        accept(queue, thread)
    mine = {run.thread_id: run for run in queue.claim("w", 10)}
    queue.cancel(mine["back"].run_id, CancelAction.ROLLBACK, actor="ada")
    queue.cancel(mine["late"].run_id, CancelAction.INTERRUPT, actor="ada")
    plain = {"status": "completed", "actor": "w", "origin": None, "buffer": None}
    rests = queue._end_together(
        [plain | {"run_id": run.run_id, "fence": run.fence} for run in mine.values()]
    )
    assert dict(zip(mine, rests, strict=True)) == {"done": "idle", "back": ASKED, "late": "idle"}
    assert queue.get(mine["late"].run_id).status is Status.COMPLETED, "all of it had been done"
    assert queue.get(mine["back"].run_id).status is Status.RUNNING


@pytest.mark.parametrize("strategy", [Strategy.ENQUEUE, Strategy.INTERRUPT])
def test_what_a_run_asks_after_new_input_has_come_is_not_left_in_an_inbox(
    queue: RunQueue, database_url: str, strategy: Strategy
) -> None:
    first = accept(queue)
    (mine,) = queue.claim("w", 1)
    new = accept(queue, strategy=strategy)
    rest = end(queue, mine, Status.AWAITING_CHECKPOINT)
    if strategy is Strategy.INTERRUPT:
        assert rest == ASKED
        rest = end(queue, mine, Status.CANCELLED)
    assert rest == "busy"
    (mine,) = queue.claim("w", 1)
    assert mine.run_id == new.run_id
    assert end(queue, mine, Status.COMPLETED) == "idle"
    assert open_questions(database_url) == 0
    with psycopg.connect(database_url) as connection:
        flow = connection.execute(
            "SELECT status FROM surgetank.workflows WHERE workflow_id = %s", (first.workflow_id,)
        ).fetchone()
    assert flow == ("cancelled",), "it waits for nobody"


class State(TypedDict, total=False):
    """Who did what."""

    steps: Annotated[list[str], lambda old, new: [*old, *new]]


def graph_of(tank: Surgetank, node: Callable[[State], Any]) -> Any:
    builder = StateGraph(State)
    builder.add_node("node", cast("Any", node))
    builder.add_edge(START, "node").add_edge("node", END)
    return builder.compile(checkpointer=tank.checkpointer())


@pytest.mark.parametrize("action", list(CancelAction))
async def test_a_worker_cancels_what_came_to_its_end_before_it_heard_of_it(
    tank: Surgetank, database_url: str, action: CancelAction
) -> None:
    run = tank.runs.accept(
        NewRun(thread_id="t", assistant_id="agent", kwargs={"input": {"steps": []}}), actor="ada"
    )
    queue = RunQueue(tank.parts.database)  # as another process: the worker is not woken

    def ask(_: State) -> State:
        queue.cancel(run.run_id, action, actor="ada")
        return {"steps": [interrupt("go on?")]}

    worker, stop = tank.runs.worker({"agent": graph_of(tank, ask)}), asyncio.Event()
    working = asyncio.create_task(worker.work(stop))
    await asyncio.to_thread(wait_until, lambda: is_over(queue, run), "its end")
    stop.set()
    await working
    assert open_questions(database_url) == 0
    (*_, last) = tank.runs.streams.last(str(run.run_id))
    assert b'"interrupted"' in last.data
    if action is CancelAction.INTERRUPT:
        assert queue.get(run.run_id).status is Status.CANCELLED
    else:
        found = tank.checkpointer().get_tuple({"configurable": {"thread_id": "t"}})
        assert found is None, "its steps went with it"


async def test_a_run_whose_end_takes_long_is_held_until_it_is_recorded(
    tank: Surgetank, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, deleting, let = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stay(_: State) -> State:
        begun.set()
        await asyncio.sleep(60)
        return {}

    worker, stop = tank.runs.worker({"agent": graph_of(tank, stay)}), asyncio.Event()
    plain = worker._saver.adelete_for_runs  # type: ignore[union-attr]

    async def delete(runs: Any) -> None:
        deleting.set()
        await let.wait()
        await plain(runs)

    monkeypatch.setattr(worker._saver, "adelete_for_runs", delete)
    renewed: list[bool] = []
    renew = worker._queue.renew

    def counted(runs: Any) -> Any:
        renewed.append(True)
        return renew(runs)

    monkeypatch.setattr(worker._queue, "renew", counted)
    run = tank.runs.accept(
        NewRun(thread_id="t", assistant_id="agent", kwargs={"input": {"steps": []}}), actor="ada"
    )
    working = asyncio.create_task(worker.work(stop))
    await asyncio.wait_for(begun.wait(), 20)
    tank.runs.cancel(run.run_id, actor="ada", action=CancelAction.ROLLBACK)
    worker.check_cancels()
    await asyncio.wait_for(deleting.wait(), 20)
    for _ in range(3):  # as when others are cancelled meanwhile
        renewed.clear()
        worker.check_cancels()
        await asyncio.to_thread(wait_until, lambda: renewed, "a heartbeat")
        await asyncio.sleep(0)
        assert worker.under_way == 1, "its lease is kept"
    stop.set()
    let.set()
    await asyncio.wait_for(working, 20)
    assert is_over(RunQueue(tank.parts.database), run), "not left to others"


def is_over(queue: RunQueue, run: Run) -> bool:
    try:
        return queue.get(run.run_id).status not in NOT_OVER
    except RunNotFound:
        return True
