"""Quotas of users and the forgetting of old runs, on real PostgreSQL, also in races."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest

from surgetank.database.migrate import MigratedDatabase
from surgetank.exceptions import QuotaExceeded
from surgetank.workflows.audit import Audit
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.retention import RunRetention
from surgetank.workflows.runs import NewRun, Run
from surgetank.workflows.status import Status

DAY = 86_400.0


@pytest.fixture
def database(database_url: str) -> Iterator[MigratedDatabase]:
    made = MigratedDatabase(database_url)
    yield made
    made.close()


def queue_of(database: MigratedDatabase, **quotas: int | None) -> RunQueue:
    return RunQueue(database, node="host", quotas=quotas)


def accept(
    queue: RunQueue, thread: str, owner: str | None = "ada", *, temporary: bool = False
) -> Run:
    new = NewRun(thread_id=thread, assistant_id="agent", owner=owner, temporary=temporary)
    return queue.accept(new, actor="ada")


def at_once(work: Callable[[int], None], number: int = 8) -> None:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("limit", ["runs_waiting_per_user", "runs_per_minute_per_user"])
def test_racing_acceptances_never_pass_the_limit_and_the_refusal_names_it(
    database: MigratedDatabase, limit: str
) -> None:
    queue = queue_of(database, **{limit: 10})
    refused: list[str] = []

    def work(number: int) -> None:
        for step in range(5):
            try:
                accept(queue, f"t{number}-{step}")
            except QuotaExceeded as error:
                refused.append(error.what)

    at_once(work)
    assert len(refused) == 8 * 5 - 10
    assert all(limit in said for said in refused)
    accept(queue, "of-bob", "bob")
    accept(queue, "of-nobody", None)
    assert len(queue.claim("w", 100)) == 12


def test_without_a_limit_any_number_is_accepted(database: MigratedDatabase) -> None:
    queue = queue_of(database, runs_waiting_per_user=0, runs_running_per_user=None)
    for number in range(30):
        accept(queue, f"t{number}")
    assert len(queue.claim("w", 100)) == 30


def test_a_limit_far_away_makes_nobody_wait(database: MigratedDatabase, database_url: str) -> None:
    queue = queue_of(database, runs_waiting_per_user=10_000)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT pg_advisory_xact_lock_shared(1398033235, hashtext('ada'))")
        accept(queue, "t")


def test_racing_claims_never_run_more_than_the_limit_and_others_are_not_held_up(
    database: MigratedDatabase, database_url: str
) -> None:
    queue = queue_of(database, runs_running_per_user=3)
    for number in range(12):
        accept(queue, f"t{number}")
    most = 0
    done: list[Run] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        nonlocal most
        deadline = time.monotonic() + 30
        while len(done) < 13 and time.monotonic() < deadline:
            for run in queue.claim(f"w{number}", 5):
                with psycopg.connect(database_url) as connection:
                    row = connection.execute(
                        "SELECT count(*) FROM surgetank.runs WHERE status = 'running' AND owner = 'ada'"
                    ).fetchone()
                assert row is not None
                with lock:
                    most = max(most, row[0])
                queue.end(run, Status.COMPLETED, actor=f"w{number}")
                with lock:
                    done.append(run)

    accept(queue, "of-bob", "bob")
    at_once(work, 4)
    assert len(done) == 13
    assert 1 <= most <= 3


def test_runs_of_one_thread_keep_their_order_when_they_are_held_back(
    database: MigratedDatabase,
) -> None:
    queue = queue_of(database, runs_running_per_user=1)
    first = accept(queue, "a")
    (mine,) = queue.claim("w", 10)
    assert mine.run_id == first.run_id
    wanted = [accept(queue, "b").run_id for _ in range(3)]
    assert queue.claim("w", 10) == []
    queue.end(mine, Status.COMPLETED, actor="w")
    got: list[uuid.UUID] = []
    deadline = time.monotonic() + 20
    while len(got) < 3 and time.monotonic() < deadline:
        for run in queue.claim("w", 10):
            got.append(run.run_id)
            queue.end(run, Status.COMPLETED, actor="w")
    assert got == wanted


# -- forgetting


def end_all(queue: RunQueue, status: Status = Status.COMPLETED) -> None:
    for run in queue.claim("w", 100):
        queue.end(run, status, actor="w")


def older(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "UPDATE surgetank.workflows SET ended_at = ended_at - interval '100 days',"
            " created_at = created_at - interval '100 days'"
        )
        connection.execute(
            "UPDATE surgetank.thread_status SET updated_at = updated_at - interval '100 days'"
        )


def test_old_workflows_go_with_their_runs_and_those_that_wait_stay(
    database: MigratedDatabase, database_url: str
) -> None:
    queue = queue_of(database)
    accept(queue, "ended")
    accept(queue, "stateless", temporary=True)
    end_all(queue)
    accept(queue, "asks")
    accept(queue, "asks-too", temporary=True)
    end_all(queue, Status.AWAITING_CHECKPOINT)
    older(database_url)
    accept(queue, "young")
    end_all(queue)
    retention = RunRetention(
        database, runs_keep_s=90 * DAY, stateless_keep_s=7 * DAY, audit_keep_s=400 * DAY, actor="h"
    )
    gone = retention.run(time.time())
    assert (gone["forget_workflows"], gone["forget_stateless"]) in ((2, 1), (1, 1))
    with psycopg.connect(database_url) as connection:
        left = connection.execute("SELECT DISTINCT thread_id FROM surgetank.runs").fetchall()
        threads = connection.execute("SELECT thread_id FROM surgetank.thread_status").fetchall()
    assert {row[0] for row in left} == {"asks", "asks-too", "young"}
    assert {row[0] for row in threads} == {"ended", "asks", "asks-too", "young"}
    found = Audit(database).verify()
    assert found.sound
    assert found.seal == 1, "the audit was sealed"
    retention.run(time.time())
    assert Audit(database).verify().seal == 1, "not again within minutes"


def test_with_limits_of_zero_everything_stays(
    database: MigratedDatabase, database_url: str
) -> None:
    queue = queue_of(database)
    accept(queue, "ended")
    end_all(queue)
    older(database_url)
    retention = RunRetention(database, runs_keep_s=0, stateless_keep_s=0, audit_keep_s=0, actor="h")
    assert not any(retention.run(time.time()).values())
