"""kill -9 of writer, flusher and database at every point: nothing accepted is lost, doubled or
reordered.

The final rows are compared with those of the same history in a run that nothing disturbed.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support import workload
from support.commands import run_module
from support.waiting import wait_until
from surgetank import LeaseLost
from surgetank.buffer.coordination import Due
from surgetank.model import JobStatus
from surgetank.sinks.protocol import Slice


def run_program(mode: str, home: Path, database_url: str, point: str, occurrence: int) -> list[str]:
    """Run the workload in a process that kills itself; returns the names of the steps that it
    reported."""
    done = run_module("support.workload", mode, home, database_url, point, occurrence)
    assert done.returncode in (-9, 0), done.stderr
    assert done.returncode == -9 or "survived" in done.stdout
    return done.stdout.splitlines()


@pytest.mark.parametrize("occurrence", [1, 2, 5])
@pytest.mark.parametrize(
    "point",
    [
        "after_lease",
        "after_read",
        "before_write",
        "after_write",
        "before_ack",
        "after_ack",
        "before_release",
    ],
)
def test_a_flusher_that_is_killed_anywhere_leaves_what_an_undisturbed_one_leaves(
    make_tank, tmp_path, database_url, undisturbed, point, occurrence
):
    tank = make_tank(lease_ttl=0.2)
    for _ in workload.steps(tank.checkpointer()):
        pass
    before = workload.picture(tank)["seen"]

    run_program("flush", tmp_path / "home", database_url, point, occurrence)

    assert workload.picture(tank)["seen"] == before
    job = tank.flush()
    assert job.ok, job.result
    assert workload.picture(tank) == undisturbed
    assert tank.status().buffer.entries == 0


@pytest.mark.parametrize("occurrence", [1, 2, 17, 40, 76])
@pytest.mark.parametrize("point", ["before_append", "after_append"])
def test_a_writer_that_is_killed_loses_nothing_that_was_accepted(
    make_tank, tmp_path, database_url, undisturbed, point, occurrence
):
    accepted = run_program("play", tmp_path / "home", database_url, point, occurrence)
    assert len(accepted) == occurrence - 1

    tank = make_tank(flush_batch_entries=5)
    entries = tank.status().buffer.entries
    assert entries == occurrence - (point == "before_append")
    names = []
    # the same history again, over what is there
    for number, name in enumerate(workload.steps(tank.checkpointer())):
        names.append(name)
        if number == occurrence:
            assert tank.flush().ok
    assert names[: len(accepted)] == accepted
    assert tank.flush().ok
    assert workload.picture(tank)["seen"] == undisturbed["seen"]


def test_flushing_in_any_portions_leaves_the_same_rows(make_tank, undisturbed):
    tank = make_tank(flush_batch_entries=1)
    for number, _ in enumerate(workload.steps(tank.checkpointer())):
        if number % 3 == 0:
            assert tank.flush().ok
    assert tank.flush().ok
    # Deleting before flushing or after it makes no difference in what remains, only in how blobs
    # are numbered.
    assert workload.picture(tank)["seen"] == undisturbed["seen"]


def test_several_flushers_at_once_leave_the_same_rows(make_tank, undisturbed):
    tanks = [make_tank(flush_batch_entries=3, node=f"node-{n}") for n in range(3)]
    for _ in workload.steps(tanks[0].checkpointer()):
        pass
    jobs: list[Any] = []
    workers = [threading.Thread(target=lambda t=t: jobs.append(t.flush())) for t in tanks]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(job.status is JobStatus.COMPLETED for job in jobs), [j.result for j in jobs]
    assert workload.picture(tanks[0]) == undisturbed


def test_a_worker_that_lost_its_lease_can_not_write_or_acknowledge(tank):
    for _ in workload.steps(tank.checkpointer()):
        pass
    buffer, sink = tank.parts.buffer, tank.parts.flushers["checkpoints"].sink
    due = Due(force=True, partition="alpha")
    (old,) = buffer.lease("checkpoints", due, owner="old", ttl_s=0.0)
    entries = buffer.read(old.lease, max_entries=3, max_bytes=10**9)
    (new,) = buffer.lease("checkpoints", due, owner="new", ttl_s=60)
    everything = buffer.read(new.lease, max_entries=1000, max_bytes=10**9)
    sink.write([Slice(new.lease, everything)], buffer_id=buffer.id)
    with pytest.raises(LeaseLost):
        sink.write([Slice(old.lease, entries)], buffer_id=buffer.id)


def test_writing_the_same_entries_again_changes_nothing(tank, undisturbed):
    for _ in workload.steps(tank.checkpointer()):
        pass
    buffer, sink = tank.parts.buffer, tank.parts.flushers["checkpoints"].sink
    leased = buffer.lease("checkpoints", Due(force=True), owner="me", ttl_s=60)
    slices = [
        Slice(x.lease, buffer.read(x.lease, max_entries=1000, max_bytes=10**9)) for x in leased
    ]
    first = sink.write(slices, buffer_id=buffer.id)
    assert sum(w.rows for w in first) > 0
    again = sink.write(slices, buffer_id=buffer.id)
    assert sum(w.rows for w in again) == 0
    assert workload.tables(tank) == undisturbed["rows"]


# -- the database


def slow_inserts(url: str, seconds: float) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM "
            f"pg_sleep({seconds});"
            " RETURN NULL; END $$"
        )
        connection.execute(
            "CREATE TRIGGER slow AFTER INSERT ON surgetank.checkpoint_blobs EXECUTE FUNCTION slow()"
        )


def test_a_database_that_is_killed_in_the_middle_of_a_flush_loses_nothing(
    make_tank, private_postgres, undisturbed
):
    url = private_postgres.url
    tank = make_tank(database_url=url)
    tank.parts.database.prepare()
    slow_inserts(url, 30)
    for _ in workload.steps(tank.checkpointer()):
        pass
    jobs: list[Any] = []
    flusher = threading.Thread(target=lambda: jobs.append(tank.flush()))
    flusher.start()
    with psycopg.connect(url, autocommit=True) as connection:
        asleep = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        wait_until(
            lambda: connection.execute(asleep).fetchone(), "the flush to be in its transaction"
        )
    private_postgres.kill()
    flusher.join()

    assert jobs[0].status is JobStatus.FAILED
    assert jobs[0].result["rows_flushed"] == 0
    assert {e["kind"] for e in jobs[0].result["errors"]} == {"transient"}
    assert all(e["stack_trace"] for e in jobs[0].result["errors"])
    assert tank.status().notices

    put_while_down = tank.checkpointer()
    workload.put(put_while_down, "delta", 1, None, ["accepted while the database was down"])
    assert put_while_down.get_tuple(workload.config("delta", 1)) is not None
    put_while_down.delete_thread("delta")

    private_postgres.start()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TRIGGER slow ON surgetank.checkpoint_blobs")
    job = tank.flush()
    assert job.ok, job.result
    assert workload.picture(tank) == undisturbed
    assert tank.status().notices == ()


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [("53100", "transient"), ("40P01", "transient"), ("42501", "fatal"), ("57014", "transient")],
)
def test_a_failure_that_is_not_the_data_s_fault_parks_nothing(
    tank, database_url, undisturbed, sqlstate, kind
):
    refuse(database_url, "TRUE", sqlstate)
    for _ in workload.steps(tank.checkpointer()):
        pass
    job = tank.flush()
    assert job.status is JobStatus.FAILED
    assert {(e["kind"], e["sqlstate"]) for e in job.result["errors"]} == {(kind, sqlstate)}
    assert tank.parked() == []
    states = tank.parts.buffer.states(failing=True)
    assert {s.partition for s in states} == set(workload.THREADS)
    assert all(s.attempts == 1 and s.failure.sqlstate == sqlstate for s in states)
    accept(database_url)
    assert tank.flush().ok
    assert workload.picture(tank) == undisturbed


def refuse(url: str, condition: str, sqlstate: str = "23514") -> None:
    """Make the database refuse checkpoints for which the condition holds."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" RAISE EXCEPTION 'refused by the test' USING ERRCODE = '{sqlstate}'; END $$"
        )
        connection.execute("DROP TRIGGER IF EXISTS refuse ON surgetank.checkpoints")
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON surgetank.checkpoints"
            f" FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse()"
        )


def accept(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TRIGGER refuse ON surgetank.checkpoints")


@pytest.mark.parametrize("position", range(1, 13))
def test_a_hostile_entry_in_any_position_is_parked_and_its_neighbours_arrive(
    tank, database_url, undisturbed, position
):
    refuse(
        database_url,
        f"NEW.metadata ->> 'step' = '{position}' AND NEW.scalars ->> 'same' = 'unchanged'",
    )
    history = workload.steps(tank.checkpointer())
    for name in history:  # stop before the deletions: parked entries of a deleted thread go with it
        if name == "writes gamma 12":
            break
    before = workload.picture(tank)["seen"]

    job = tank.flush()

    assert job.status is JobStatus.COMPLETED
    assert len(job.warnings) == 3
    assert job.result["entries_parked"] == 3
    assert {p.partition for p in tank.parked()} == set(workload.THREADS)
    assert all(
        p.failure.sqlstate == "23514" and "refused by the test" in p.failure.message
        for p in tank.parked()
    )
    assert workload.picture(tank)["seen"] == before, "parked entries stay readable"
    rows = workload.tables(tank)
    assert len(rows["checkpoints"]) == 3 * 11
    assert len(rows["checkpoint_writes"]) == 3 * 12
    assert all(others for *_, others in rows["checkpoint_writes"]), (
        "each with the small one of its call beside it"
    )

    accept(database_url)
    retried = tank.parked.retry()
    assert retried is not None
    assert retried.ok, retried.result
    assert tank.parked() == []
    for _ in history:
        pass
    assert tank.flush().ok
    assert workload.picture(tank)["seen"] == undisturbed["seen"]


def test_parked_entries_of_a_deleted_thread_go_with_it(tank, database_url):
    refuse(database_url, "NEW.metadata ->> 'step' = '1'")
    saver = tank.checkpointer()
    workload.put(saver, "alpha", 1, None, ["x"])
    assert tank.flush().result["entries_parked"] == 1
    saver.delete_thread("alpha")
    assert tank.parked() == []
    assert saver.get_tuple(workload.config("alpha", None)) is None
    accept(database_url)
    assert tank.flush().ok
    assert workload.tables(tank)["checkpoints"] == []
