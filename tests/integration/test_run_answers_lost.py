"""The database does what a worker asks, and its answer is lost: nothing waits for a lease to run out, and
nothing is forgotten."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from integration.test_run_worker import accept, ended, graph_of, step, steps, working
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.exceptions import DatabaseUnavailable
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import CancelAction
from surgetank.workflows.status import Status

AWAY = DatabaseUnavailable("The connection broke: no answer.", remedy="look at the database.")


def lose_answers(
    monkeypatch: pytest.MonkeyPatch, name: str, *, when: Callable[[Any], bool], times: int = 1
) -> list[Any]:
    """The method of queues does what it does, and raises when its answer is such a one."""
    method, lost = getattr(RunQueue, name), list[Any]()

    def losing(self: RunQueue, *arguments: Any, **named: Any) -> Any:
        answer = method(self, *arguments, **named)
        if when(answer) and len(lost) < times:
            lost.append(answer)
            raise AWAY
        return answer

    monkeypatch.setattr(RunQueue, name, losing)
    return lost


async def test_what_a_claim_took_whose_answer_was_lost_is_run_at_once_and_once(
    tank: Surgetank, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = lose_answers(monkeypatch, "claim", when=bool, times=2)
    runs = [accept(tank, f"t{number}") for number in range(4)]
    began = time.monotonic()

    async def act() -> None:
        for run in runs:
            after = await ended(tank, run)
            assert (after.status, after.attempts) == (Status.COMPLETED, 1)
            assert steps(tank, run.thread_id) == ["once"]

    await working(tank, graph_of(tank, step("once")), act, most=2)
    assert len(lost) == 2
    assert time.monotonic() - began < tank.runs.lease_s / 2


async def test_a_claim_that_is_carried_out_late_is_found_as_well(
    tank: Surgetank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server stood still when the claim was sent, and the worker's next one came before it."""
    claim, late = RunQueue.claim, list[Any]()

    def standing_still(self: RunQueue, worker: str, most: int, **named: Any) -> Any:
        if not late:
            late.append(self)
            raise AWAY
        if len(late) == 1:
            late.append(claim(self, worker, most, **named))  # nobody hears of it
            return []
        return claim(self, worker, most, **named)

    monkeypatch.setattr(RunQueue, "claim", standing_still)
    run = accept(tank)

    async def act() -> None:
        after = await ended(tank, run)
        assert (after.status, after.attempts) == (Status.COMPLETED, 1)

    await working(tank, graph_of(tank, step("once")), act)
    assert [each.run_id for each in late[1]] == [run.run_id]


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled", "rollback"])
async def test_an_end_whose_answer_was_lost_is_told_and_its_state_goes_as_asked(
    tank: Surgetank, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    lost = lose_answers(monkeypatch, "_end_together", when=lambda _: True)
    ends = list[Status]()

    async def node(state: Any) -> Any:
        if how == "failed":
            raise ValueError("no")
        if how != "completed":
            action = CancelAction.ROLLBACK if how == "rollback" else CancelAction.INTERRUPT
            tank.runs.cancel(run.run_id, actor="ada", action=action)
            await asyncio.Event().wait()
        return {"steps": ["done"]}

    run = accept(tank, kwargs={"on_completion": "delete"})

    async def act() -> None:
        await asyncio.to_thread(
            wait_until, lambda: tank.runs.streams.has_ended(str(run.run_id)), "its end"
        )

    await working(tank, graph_of(tank, node), act, on_end=lambda _, status: ends.append(status))
    assert len(lost) == 1
    expected = Status.CANCELLED if how == "rollback" else Status(how)
    assert ends == [expected]
    if how != "rollback":
        assert tank.runs.get(run.run_id).status is expected
    if how == "completed":
        found = tank.checkpointer().get_tuple({"configurable": {"thread_id": "t"}})
        assert found is None, "the state of a run without a thread goes with it"


def test_a_heartbeat_waits_for_nobody_who_ends_its_runs(tank: Surgetank, database_url: str) -> None:
    """It has locked some of them: to wait for the others was a deadlock with who ends these as well."""
    first, second = accept(tank, "a"), accept(tank, "b")
    held = tank.runs._queue.claim("w", 2)
    assert {run.run_id for run in held} == {first.run_id, second.run_id}
    with psycopg.connect(database_url) as ending:
        ending.execute(
            "UPDATE surgetank.runs SET cancel_action = 'interrupt' WHERE run_id = %s",
            (first.run_id,),
        )
        before = tank.runs.get(second.run_id).lease_until
        assert tank.runs._queue.renew(held) == {first.run_id: None, second.run_id: None}
        after = tank.runs.get(second.run_id).lease_until
        assert before is not None
        assert after is not None
        assert after > before
    assert tank.runs._queue.renew(held) == {
        first.run_id: CancelAction.INTERRUPT,
        second.run_id: None,
    }


def test_those_who_end_runs_and_renew_them_never_lock_each_other_out(
    tank: Surgetank, database_url: str
) -> None:
    runs = [accept(tank, f"t{number}") for number in range(30)]
    queue, over = tank.runs._queue, threading.Event()
    held = queue.claim("w", len(runs))

    def renew() -> None:
        while not over.is_set():
            queue.renew(random.sample(held, len(held)))

    with ThreadPoolExecutor(6) as pool:
        renewing = [pool.submit(renew) for _ in range(4)]
        try:
            for _ in range(40):
                ends = [end_of(queue, run) for run in random.sample(held, len(held))]
                answers = queue._end_all(ends)
                assert not [each for each in answers if isinstance(each, Exception)]
                held = queue.claim("w", len(runs))
        finally:
            over.set()
        for each in renewing:
            each.result(30)


def end_of(queue: RunQueue, run: Any) -> dict[str, Any]:
    """What ends a run so that it is to be run again."""
    return queue._acting(
        {
            "run_id": run.run_id, "fence": run.fence, "status": "pending", "error": None,
            "interrupts": Jsonb([]), "timed_out": False, "retry_s": 0.0, "actor": "w",
            "thread_id": run.thread_id,
        }
    )  # fmt: skip
