"""The queue of runs on real PostgreSQL: what is accepted is run, once at a time for each thread, in
order, and never lost."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.database.migrate import MigratedDatabase
from surgetank.exceptions import (
    InvalidTransition,
    LeaseLost,
    RunNotFound,
    ThreadBusy,
    ThreadNotFound,
)
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import CancelAction, NewRun, Run, Strategy
from surgetank.workflows.status import RUN_TRANSITIONS, WORKFLOW_TRANSITIONS, Status

ADA = "ada-l"  # no part of a hexadecimal number


@pytest.fixture
def database(database_url: str) -> Iterator[MigratedDatabase]:
    made = MigratedDatabase(database_url)
    yield made
    made.close()


@pytest.fixture
def queue(database: MigratedDatabase) -> RunQueue:
    return RunQueue(database, lease_s=30.0)


def accept(queue: RunQueue, thread: str = "t", **more: Any) -> Run:
    return queue.accept(NewRun(thread_id=thread, assistant_id="agent", **more), actor=ADA)


def claim(queue: RunQueue, most: int = 10, worker: str = "w") -> list[Run]:
    return queue.claim(worker, most)


def end(queue: RunQueue, run: Run, status: Status = Status.COMPLETED, **more: Any) -> str:
    return queue.end(run, status, actor=run.worker or "w", **more)


def thread_row(url: str, thread: str = "t") -> tuple[Any, ...]:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT status, running_run, interrupts, error FROM surgetank.thread_status"
            " WHERE thread_id = %s",
            (thread,),
        ).fetchone()
    assert row is not None
    return row


# -- a run's life


def test_what_is_accepted_is_stored_claimed_and_ended_and_the_audit_tells_it(
    queue: RunQueue, database_url: str
) -> None:
    run = accept(queue, kwargs={"input": {"n": 1, "odd": float("nan")}}, metadata={"k": "v"})
    assert (run.status, run.attempts, run.owner) == (Status.PENDING, 0, None)
    assert run.kwargs == {"input": {"n": 1, "odd": None}}
    assert thread_row(database_url)[0] == "busy"
    (mine,) = claim(queue)
    assert (mine.run_id, mine.status, mine.attempts) == (run.run_id, Status.RUNNING, 1)
    assert mine.fence > run.fence
    assert thread_row(database_url)[1] == run.run_id
    assert claim(queue) == []
    assert end(queue, mine) == "idle"
    after = queue.get(run.run_id)
    assert (after.status, after.worker, after.lease_until) == (Status.COMPLETED, None, None)
    assert after.ended_at is not None
    assert thread_row(database_url)[:2] == ("idle", None)
    assert [(row["action"], row["actor"], row["thread_id"]) for row in queue.audit(run.workflow_id)] == [
        ("run_accepted", ADA, "t"), ("run_claimed", "w", "t"), ("run_completed", "w", "t"),
    ]  # fmt: skip


def test_runs_that_end_at_the_same_moment_end_in_one_transaction_each_with_its_own_outcome(
    queue: RunQueue, database_url: str
) -> None:
    webhook = {"webhook": "https://example.org/hook"}
    for thread in ("done", "more", "lost", "failed", "asks", "asked"):
        accept(queue, thread, kwargs=webhook if thread == "done" else {})
    accept(queue, "more")
    mine = {run.thread_id: run for run in claim(queue)}
    end(queue, mine["lost"], Status.FAILED, error="first")
    ends: dict[str, Any] = {
        "done": (Status.COMPLETED, {}), "more": (Status.COMPLETED, {}), "lost": (Status.COMPLETED, {}),
        "failed": (Status.FAILED, {"error": "no"}), "asks": (Status.AWAITING_CHECKPOINT, {"interrupts": [
            {"id": "0" * 32, "value": "?", "task_id": "t", "node": "n", "namespace": []}]}),
        "asked": (Status.PENDING, {"retry_s": 60.0}),
    }  # fmt: skip
    queue._ends._led = True  # as if somebody's call were under way
    with ThreadPoolExecutor(len(ends)) as pool:
        calls = {
            name: pool.submit(end, queue, mine[name], status, **more)
            for name, (status, more) in ends.items()
        }
        wait_until(lambda: len(queue._ends._waiting) == len(ends), "all wait")
        queue._ends._waiting[0].heard.set()
        with pytest.raises(LeaseLost):
            calls.pop("lost").result(20)
        rests = {name: call.result(20) for name, call in calls.items()}
    assert rests == {
        "done": "idle", "more": "busy", "failed": "error", "asks": "interrupted", "asked": "busy",
    }  # fmt: skip
    for name, (status, _) in ends.items():
        after = queue.get(mine[name].run_id)
        assert after.status is (Status.FAILED if name == "lost" else status), name
        assert thread_row(database_url, name)[1] is None, name
    with psycopg.connect(database_url) as connection:
        told = connection.execute(
            "SELECT array_agg(action ORDER BY id) FROM surgetank.audit_log"
            " WHERE thread_id IN ('done', 'more', 'failed') GROUP BY thread_id ORDER BY thread_id"
        ).fetchall()
        assert [row[0][-1] for row in told] == ["run_completed", "run_failed", "run_completed"]
        hooks = connection.execute("SELECT thread_id FROM surgetank.webhook_deliveries").fetchall()
        assert hooks == [("done",)]


def test_the_same_run_accepted_twice_is_one(queue: RunQueue) -> None:
    run_id = uuid.uuid4()
    first = accept(queue, run_id=run_id)
    (mine,) = claim(queue)
    again = accept(queue, run_id=run_id)
    assert (again.run_id, again.seq, again.status) == (first.run_id, first.seq, Status.RUNNING)
    assert end(queue, mine) == "idle"


def test_a_workflow_goes_on_with_a_new_run_when_it_waits_and_only_then(queue: RunQueue) -> None:
    run = accept(queue)
    with pytest.raises(InvalidTransition):
        accept(queue, workflow_id=run.workflow_id)
    (mine,) = claim(queue)
    interrupts = [{"id": "i1", "value": {"question": "?"}}]
    assert end(queue, mine, Status.AWAITING_CHECKPOINT, interrupts=interrupts) == "interrupted"
    resumed = accept(queue, workflow_id=run.workflow_id)
    assert resumed.workflow_id == run.workflow_id
    (mine,) = claim(queue)
    assert end(queue, mine, Status.FAILED, error="no") == "error"
    assert accept(queue, workflow_id=run.workflow_id).status is Status.PENDING, "tried again"
    with pytest.raises(InvalidTransition):
        accept(queue, "other", workflow_id=run.workflow_id)


def test_a_thread_that_is_not_there_is_made_or_refused_and_a_stranger_s_is_not_there(
    queue: RunQueue,
) -> None:
    with pytest.raises(ThreadNotFound):
        accept(queue, make_thread=False)
    accept(queue, owner="ada")
    with pytest.raises(ThreadNotFound):
        accept(queue, owner="bob")
    with pytest.raises(RunNotFound):
        queue.get(uuid.uuid4())


# -- order


def test_runs_of_a_thread_run_one_at_a_time_in_the_order_of_acceptance(queue: RunQueue) -> None:
    runs = [accept(queue) for _ in range(3)]
    for run in runs:
        (mine,) = claim(queue)
        assert mine.run_id == run.run_id
        assert claim(queue) == []
        end(queue, mine)


def test_what_is_urgent_comes_first_and_what_is_for_later_later(
    queue: RunQueue, database_url: str
) -> None:
    accept(queue, "a")
    urgent = accept(queue, "b", priority=5)
    later = accept(queue, "c", after_s=3600)
    assert [run.run_id for run in claim(queue, 1)] == [urgent.run_id]
    assert [run.thread_id for run in claim(queue)] == ["a"]
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "UPDATE surgetank.runs SET due_at = now() WHERE run_id = %s", (later.run_id,)
        )
    assert [run.run_id for run in claim(queue)] == [later.run_id]


def test_racing_claimers_never_run_two_runs_of_one_thread(
    queue: RunQueue, database_url: str
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    threads, each = 12, 10
    expected = defaultdict(list)
    for number in range(each):
        for thread in range(threads):
            expected[f"t{thread}"].append(accept(queue, f"t{thread}").run_id)
        assert number < each
    under_way: dict[str, uuid.UUID] = {}
    ran = defaultdict(list)
    wrong: list[str] = []
    lock, left = threading.Lock(), [threads * each]

    def work(name: str) -> None:
        chance = random.Random(f"{seed}{name}")
        while left[0] > 0:
            for run in queue.claim(name, chance.randint(1, 4)):
                with lock:
                    if run.thread_id in under_way:
                        wrong.append(f"{run.thread_id}: two")
                    under_way[run.thread_id] = run.run_id
                    ran[run.thread_id].append(run.run_id)
                with lock:
                    del under_way[run.thread_id]
                    left[0] -= 1
                queue.end(run, Status.COMPLETED, actor=name)

    workers = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert wrong == []
    assert dict(ran) == dict(expected), "each once, in order"
    with psycopg.connect(database_url) as connection:
        states = connection.execute(
            "SELECT DISTINCT status FROM surgetank.runs UNION SELECT DISTINCT status"
            " FROM surgetank.workflows"
        ).fetchall()
    assert states == [("completed",)]


# -- the four strategies


def test_reject_refuses_while_another_is_not_over(queue: RunQueue) -> None:
    accept(queue)
    with pytest.raises(ThreadBusy):
        accept(queue, strategy=Strategy.REJECT)
    (mine,) = claim(queue)
    with pytest.raises(ThreadBusy):
        accept(queue, strategy=Strategy.REJECT)
    end(queue, mine)
    assert accept(queue, strategy=Strategy.REJECT).status is Status.PENDING


@pytest.mark.parametrize("strategy", [Strategy.INTERRUPT, Strategy.ROLLBACK])
def test_interrupt_and_rollback_end_the_others_and_wait_for_the_one_that_runs(
    queue: RunQueue, strategy: Strategy
) -> None:
    running, waiting = accept(queue), accept(queue)
    (mine,) = claim(queue)
    new = accept(queue, strategy=strategy)
    if strategy is Strategy.ROLLBACK:
        with pytest.raises(RunNotFound):  # it is rolled back: nothing of it stays
            queue.get(waiting.run_id)
    else:
        assert queue.get(waiting.run_id).status is Status.CANCELLED
    assert claim(queue) == [], "not before the holder has acknowledged"
    assert queue.renew([mine]) == {running.run_id: CancelAction(strategy.value)}
    assert end(queue, mine, Status.CANCELLED) == "busy"
    assert [run.run_id for run in claim(queue)] == [new.run_id]


# -- cancelling


def test_what_has_not_begun_is_cancelled_at_once_and_what_runs_by_its_worker(
    queue: RunQueue,
) -> None:
    run = accept(queue)
    assert queue.cancel(run.run_id, CancelAction.INTERRUPT, actor=ADA)
    assert queue.get(run.run_id).status is Status.CANCELLED
    with pytest.raises(InvalidTransition, match="is cancelled and can't become cancelled"):
        queue.cancel(run.run_id, CancelAction.INTERRUPT, actor=ADA)
    with pytest.raises(RunNotFound):
        queue.cancel(uuid.uuid4(), CancelAction.INTERRUPT, actor=ADA)
    accept(queue)
    (mine,) = claim(queue)
    assert not queue.cancel(mine.run_id, CancelAction.ROLLBACK, actor=ADA)
    assert not queue.cancel(mine.run_id, CancelAction.INTERRUPT, actor=ADA)
    assert queue.renew([mine]) == {mine.run_id: CancelAction.ROLLBACK}, "the harder one stays"
    assert end(queue, mine, Status.CANCELLED) == "idle"
    with pytest.raises(RunNotFound):
        queue.get(mine.run_id)


def test_what_is_rolled_back_is_so_though_its_worker_dies(
    queue: RunQueue, database_url: str
) -> None:
    accept(queue)
    (mine,) = claim(queue)
    new = accept(queue, strategy=Strategy.ROLLBACK, priority=5)
    expire(database_url)
    assert queue.reap(actor="reaper") == {mine.run_id: Status.PENDING}
    (again,) = claim(queue)
    assert (again.run_id, again.cancel_action) == (mine.run_id, CancelAction.ROLLBACK)
    assert end(queue, again, Status.CANCELLED) == "busy"
    assert [run.run_id for run in claim(queue)] == [new.run_id]


def test_a_worker_takes_only_the_graphs_that_it_has_and_no_more_of_an_assistant_than_it_may(
    queue: RunQueue,
) -> None:
    for number in range(4):
        accept(queue, f"t{number}", graph_id="a")
    accept(queue, "other", graph_id="b")
    assert [run.graph for run in queue.claim("w", 10, graphs=["b"])] == ["b"]
    assert len(queue.claim("w", 10, graphs=["a", "b"], most_of_assistant=3)) == 2
    assert queue.claim("w", 10, most_of_assistant=3) == []
    assert len(queue.claim("w", 10)) == 2


# -- workers that go silent


def expire(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE surgetank.runs SET lease_until = now() - interval '1 second'"
                           " WHERE status = 'running'")  # fmt: skip


def test_a_silent_worker_s_run_is_taken_over_and_it_can_write_no_more(
    queue: RunQueue, database_url: str
) -> None:
    accept(queue)
    (old,) = claim(queue, worker="old")
    assert queue.reap(actor="reaper") == {}
    expire(database_url)
    assert queue.reap(actor="reaper") == {old.run_id: Status.PENDING}
    (new,) = claim(queue, worker="new")
    assert new.attempts == 2
    assert new.fence > old.fence
    assert queue.renew([old]) == {}
    with pytest.raises(LeaseLost):
        end(queue, old)
    assert queue.renew([new]) == {new.run_id: None}
    assert end(queue, new) == "idle"
    with pytest.raises(LeaseLost):
        end(queue, new)


def test_each_claim_of_a_thread_has_a_greater_fence_than_all_before(
    queue: RunQueue, database_url: str
) -> None:
    fences = []
    for urgency in (0, 0, 5):
        accept(queue, priority=urgency)
    for _ in range(3):
        (mine,) = claim(queue)
        fences.append(mine.fence)
        end(queue, mine)
    assert fences == sorted(set(fences)), "also where a later run went first"
    ahead = fences[-1] + 10**15  # a clock that was years ahead, and was put right
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE surgetank.thread_status SET fence = %s", (ahead,))
    accept(queue)
    (mine,) = claim(queue)
    assert mine.fence == ahead + 1


def test_a_thread_that_was_deleted_and_made_again_has_greater_fences(
    queue: RunQueue, database_url: str
) -> None:
    accept(queue)
    (old,) = claim(queue)
    end(queue, old)
    with psycopg.connect(database_url) as connection:
        connection.execute("SELECT surgetank.delete_thread('t', 'ada')")
    accept(queue)
    (new,) = claim(queue)
    assert new.fence > old.fence


def test_a_run_that_kills_its_workers_fails_with_the_reason(
    queue: RunQueue, database_url: str
) -> None:
    run = accept(queue, max_attempts=3)
    for attempt in range(1, 4):
        (mine,) = claim(queue, worker=f"w{attempt}")
        expire(database_url)
        ended = queue.reap(actor="reaper")[mine.run_id]
        assert ended is (Status.FAILED if attempt == 3 else Status.PENDING)
    after = queue.get(run.run_id)
    assert after.error == "The worker w3 went silent at attempt 3 of 3."
    assert thread_row(database_url)[0] == "error"
    assert [row["action"] for row in queue.audit(run.workflow_id)][-1] == "run_failed"


def test_a_cancelled_run_of_a_dead_worker_is_ended_by_the_reaper(
    queue: RunQueue, database_url: str
) -> None:
    accept(queue)
    (mine,) = claim(queue)
    new = accept(queue, strategy=Strategy.INTERRUPT)
    expire(database_url)
    assert queue.reap(actor="reaper") == {mine.run_id: Status.CANCELLED}
    assert [run.run_id for run in claim(queue)] == [new.run_id]


def test_a_run_that_is_given_back_is_due_when_it_says(queue: RunQueue) -> None:
    run = accept(queue)
    (mine,) = claim(queue)
    assert end(queue, mine, Status.PENDING, retry_s=3600) == "busy"
    assert claim(queue) == []
    assert queue.get(run.run_id).due_at.timestamp() > time.time() + 3000


def test_to_be_given_back_is_no_attempt_of_a_worker_that_went_silent(
    queue: RunQueue, database_url: str
) -> None:
    run = accept(queue)
    for _ in range(4):  # as workers do that are told to stop
        (mine,) = claim(queue)
        end(queue, mine, Status.PENDING)
    for silent in range(3):
        assert [each.run_id for each in claim(queue)] == [run.run_id]
        expire(database_url)
        expected = Status.FAILED if silent == 2 else Status.PENDING
        assert queue.reap(actor="reaper") == {run.run_id: expected}


# -- whose data it is


def test_erasing_a_user_removes_runs_and_names_and_leaves_the_audit(
    tank: Surgetank, database_url: str
) -> None:
    queue = RunQueue(tank.parts.database)
    accept(queue, "of-ada", owner=ADA, kwargs={"input": "marker-of-ada"})
    (mine,) = claim(queue)
    end(queue, mine, Status.FAILED, error="marker-of-ada")
    other = queue.accept(NewRun(thread_id="of-bob", assistant_id="agent", owner="bob"), actor="bob")
    queue.cancel(other.run_id, CancelAction.INTERRUPT, actor=ADA)
    report = tank.erase_user(ADA)
    assert report.state == "completed", report
    with psycopg.connect(database_url) as connection:
        for table in ("runs", "workflows", "thread_status", "audit", "audit_names"):
            rows = connection.execute(
                f"SELECT t::text FROM surgetank.{table} t".encode()
            ).fetchall()
            assert rows, f"{table}: bob's stay"
            assert not [row for (row,) in rows if ADA in row], table
        audit = connection.execute("SELECT count(*) FROM surgetank.audit").fetchone()
    assert audit == (6,), "and that somebody was erased"
    assert [row["actor"] for row in queue.audit(other.workflow_id)] == ["bob", None]


# -- what the database itself refuses


def test_the_transitions_of_code_and_database_are_the_same(
    database: MigratedDatabase,
) -> None:
    with database.reading() as connection:
        stored = set(
            connection.execute("SELECT kind, before, after FROM surgetank.status_transitions")
        )
    tables = {"runs": RUN_TRANSITIONS, "workflows": WORKFLOW_TRANSITIONS}
    assert stored == {
        (kind, before.value, after.value)
        for kind, table in tables.items()
        for before, ways in table.items()
        for after in ways
    }


@pytest.mark.parametrize("table", ["runs", "workflows"])
def test_no_statement_makes_a_step_that_is_not_in_the_table(
    queue: RunQueue, database_url: str, table: str
) -> None:
    accept(queue)
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.CheckViolation, match="pending does not become completed"),
    ):
        connection.execute(f"UPDATE surgetank.{table} SET status = 'completed'".encode())


@pytest.mark.parametrize(
    "statement",
    ["UPDATE surgetank.audit SET action = 'x'", "DELETE FROM surgetank.audit",
     "TRUNCATE surgetank.audit"],
)  # fmt: skip
def test_the_audit_is_only_added_to(queue: RunQueue, database_url: str, statement: str) -> None:
    accept(queue)
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="only added to"),
    ):
        connection.execute(statement.encode())


def test_two_runs_of_one_thread_can_t_run_whatever_is_written(
    queue: RunQueue, database_url: str
) -> None:
    accept(queue)
    second = accept(queue)
    claim(queue)
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.UniqueViolation, match="runs_running"),
    ):
        connection.execute(
            "UPDATE surgetank.runs SET status = 'running' WHERE run_id = %s", (second.run_id,)
        )
