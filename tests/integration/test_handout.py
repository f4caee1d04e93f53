"""A run that is accepted where a worker has room is claimed for it in the same commit: never one too
many, never before others of its thread, and never lost with an answer or a worker that ends."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict
from unittest.mock import patch

import psycopg
import pytest
from langgraph.graph import START, StateGraph

from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.app.run_service import RunService
from surgetank.database.migrate import MigratedDatabase
from surgetank.exceptions import DatabaseUnavailable
from surgetank.workflows.execution import FixedGraphs
from surgetank.workflows.handout import Slots, UnderWay, slot_for
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import CancelAction, NewRun, Run, Strategy
from surgetank.workflows.status import Status


class State(TypedDict, total=False):
    n: int


def new_run(thread: str = "t", **more: Any) -> NewRun:
    return NewRun(thread_id=thread, assistant_id="agent", kwargs={"input": {"n": 1}}, **more)


@pytest.fixture
def queue(database_url: str) -> Iterator[RunQueue]:
    database = MigratedDatabase(database_url)
    yield RunQueue(database, node="host")
    database.close()


@contextmanager
def serving(tank: Surgetank, gate: threading.Event, most: int = 4) -> Iterator[RunService]:
    """A service whose runs wait for the gate."""

    async def wait(state: State) -> State:
        while not gate.is_set():  # noqa: ASYNC110 - set by the test's thread
            await asyncio.sleep(0.01)
        return state

    builder = StateGraph(State).add_node("wait", wait).add_edge(START, "wait")
    graphs = FixedGraphs({"agent": builder.compile(checkpointer=tank.checkpointer())})
    service = tank.runs.service(graphs, most=most)
    assert isinstance(service, RunService)
    service.start()
    try:
        wait_until(lambda: has_room(service), "the worker has looked at the queue")
        yield service
    finally:
        gate.set()
        service.stop(20)


def has_room(service: RunService) -> bool:
    new = new_run()
    kept = service.worker.slots.keep(new)
    service.worker.slots.free(new.run_id)
    return kept


def actions(url: str, run: Run) -> list[tuple[str, str]]:
    """What the audit has of a run, and in how many transactions."""
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT action, xid::text FROM surgetank.audit WHERE run_id = %s ORDER BY nth",
            (run.run_id,),
        ).fetchall()


# -- in the queue


def test_acceptance_and_claim_are_one_commit(queue: RunQueue, database_url: str) -> None:
    run, claimed = queue.accept_and_claim(new_run(), "w", actor="ada")
    assert (run.status, run.attempts, run.worker) == (Status.PENDING, 0, None)
    assert claimed is not None
    assert claimed == queue.get(run.run_id)
    assert (claimed.status, claimed.attempts, claimed.worker) == (Status.RUNNING, 1, "w")
    (accepted, one), (began, other) = actions(database_url, run)
    assert (accepted, began) == ("run_accepted", "run_claimed")
    assert one == other
    assert queue.renew([claimed]) == {claimed.run_id: None}
    assert queue.claim("other", 10) == []
    queue.end(claimed, Status.COMPLETED, actor="w")
    _, again = queue.accept_and_claim(new_run(), "w", actor="ada")
    assert again is not None
    assert again.fence > claimed.fence


def test_what_can_t_begin_at_once_is_in_the_queue(queue: RunQueue) -> None:
    first = queue.accept(new_run(), actor="ada")
    second, claimed = queue.accept_and_claim(new_run(), "w", actor="ada")
    assert claimed is None, "the thread has an older one"
    (running,) = queue.claim("w", 10)
    assert running.run_id == first.run_id
    _, claimed = queue.accept_and_claim(new_run(), "w", actor="ada")
    assert claimed is None, "the thread has one that runs"
    later, claimed = queue.accept_and_claim(new_run("later", after_s=60.0), "w", actor="ada")
    assert (later.status, claimed) == (Status.PENDING, None)
    assert queue.get(second.run_id).status is Status.PENDING


def test_a_run_that_is_known_is_claimed_for_nobody(queue: RunQueue) -> None:
    new = new_run()
    queue.accept(new, actor="ada")
    run, claimed = queue.accept_and_claim(new, "w", actor="ada")
    assert (run.run_id, claimed) == (new.run_id, None)
    assert queue.get(new.run_id).status is Status.PENDING


def test_the_quota_of_runs_that_run_at_once_holds(database_url: str) -> None:
    database = MigratedDatabase(database_url)
    queue = RunQueue(database, quotas={"runs_running_per_user": 1})
    claims = [
        queue.accept_and_claim(new_run(thread, owner="ada"), "w", actor="ada")[1]
        for thread in ("a", "b")
    ]
    assert [claimed is not None for claimed in claims] == [True, False]
    assert queue.counts()[Status.PENDING][0] == 1
    database.close()


# -- at a worker


def test_a_worker_with_room_begins_without_a_look_at_the_queue_and_never_takes_one_too_many(
    make_tank: MakeTank, database_url: str
) -> None:
    gate, tank = threading.Event(), make_tank()
    with serving(tank, gate, most=2) as service:
        runs = [tank.runs.accept(new_run(f"t{n}"), actor="ada") for n in range(3)]
        states = [tank.runs.get(run.run_id).status for run in runs]
        assert states == [Status.RUNNING, Status.RUNNING, Status.PENDING]
        for run in runs[:2]:
            (_, one), (_, other) = actions(database_url, run)
            assert one == other
        assert service.worker.under_way == 2
        gate.set()
        wait_until(lambda: tank.runs.counts() == {}, "all end, the one that waited too")
        assert {tank.runs.get(run.run_id).status for run in runs} == {Status.COMPLETED}


def test_what_was_asked_to_end_as_soon_as_it_was_accepted_ends(make_tank: MakeTank) -> None:
    gate, tank = threading.Event(), make_tank()
    with serving(tank, gate):
        run = tank.runs.accept(new_run(), actor="ada")
        tank.runs.cancel(run.run_id, actor="ada", action=CancelAction.INTERRUPT)
        wait_until(lambda: tank.runs.get(run.run_id).status is Status.CANCELLED, "it is cancelled")


def test_what_a_worker_that_ends_was_handed_is_given_back(make_tank: MakeTank) -> None:
    gate, tank = threading.Event(), make_tank()
    with serving(tank, gate) as service:
        accept = RunQueue.accept_and_claim

        def late(self: RunQueue, *given: Any, **named: Any) -> Any:
            done = accept(self, *given, **named)
            assert service.stop(20)
            return done

        with patch.object(RunQueue, "accept_and_claim", late):
            run = tank.runs.accept(new_run(), actor="ada")
        found = tank.runs.get(run.run_id)
        assert (found.status, found.worker) == (Status.PENDING, None)


def test_a_claim_whose_answer_was_lost_is_found(make_tank: MakeTank) -> None:
    gate, tank = threading.Event(), make_tank()
    gate.set()
    with serving(tank, gate) as service:
        accept, new = RunQueue.accept_and_claim, new_run()

        def lost(self: RunQueue, *given: Any, **named: Any) -> Any:
            accept(self, *given, **named)
            raise DatabaseUnavailable("The connection broke.", remedy="")

        with patch.object(RunQueue, "accept_and_claim", lost), pytest.raises(DatabaseUnavailable):
            tank.runs.accept(new, actor="ada")
        assert not service.worker.slots.keep(new_run()), "not before it knows what it has"
        service.worker.wake()
        wait_until(lambda: tank.runs.get(new.run_id).status is Status.COMPLETED, "it is run")


@pytest.mark.parametrize("action", [CancelAction.INTERRUPT, CancelAction.ROLLBACK])
def test_a_run_that_is_asked_to_end_between_its_start_and_its_first_step_ends(
    make_tank: MakeTank, action: CancelAction
) -> None:
    """It was under way for ever: its task was cancelled before it had begun, and never ran."""
    gate, tank = threading.Event(), make_tank()
    with serving(tank, gate) as service:
        worker = service.worker
        start = worker._start

        def cut_at_once(each: UnderWay) -> None:
            start(each)
            worker._queue.cancel(each.run.run_id, action, actor="ada")
            each.cut(lost=False)

        with patch.object(worker, "_start", cut_at_once):
            tank.runs.accept(new_run(), actor="ada")
            wait_until(lambda: not tank.runs.counts(), "the run to end", 20)
        wait_until(lambda: worker.under_way == 0, "the worker to be free")


# -- slots


def test_places_are_kept_once_for_each_run_while_they_are_open() -> None:
    begun, lost = list[Run](), list[None]()
    slots = Slots("w", lambda _, kept: kept < 2, begun.append, lambda: lost.append(None))
    a, b, c = new_run(), new_run(), new_run()
    assert not slots.keep(a), "the worker does not work yet"
    slots.open()
    assert [slots.keep(each) for each in (a, a, b, c)] == [True, False, True, False]
    assert set(slots.kept) == {a.run_id, b.run_id}
    slots.free(a.run_id)
    assert lost == []
    assert slots.keep(c)
    slots.free(b.run_id, unsure=True)
    assert lost == [None]
    slots.close()
    assert not slots.keep(a)
    assert slots.kept == {c.run_id}


def test_runs_that_wait_or_make_others_end_have_no_place() -> None:
    slots = Slots("w", lambda *_: True, lambda _: None, lambda: None)
    slots.open()
    assert slot_for(new_run(), []) is None
    assert slot_for(new_run(after_s=1.0), [slots]) is None
    for strategy in (Strategy.INTERRUPT, Strategy.ROLLBACK):
        assert slot_for(new_run(strategy=strategy), [slots]) is None
    assert slot_for(new_run(run_id=uuid.uuid4()), [slots]) is slots
