"""PostgreSQL that goes back in time: a restored base backup, a replica that was behind and took
over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from support.postgres import PostgresServer, base_backup, programs, restore, standby_of
from support.savers import config
from support.servers import run
from support.travel import Life, checkpoints, flush_all, lines, occurrences, told
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.sinks.standing import Finding

MakeTank = Callable[..., Surgetank]


@pytest.fixture
def backup(private_postgres: PostgresServer) -> Callable[[], Path]:
    """Makes a base backup of the test's own server."""

    def make() -> Path:
        to = private_postgres.folder / "backup"
        base_backup(private_postgres, to)
        return to

    return make


def test_what_the_restored_database_lost_within_the_last_minute_is_saved_again(
    make_tank: MakeTank, private_postgres: PostgresServer, backup: Callable[[], Path]
) -> None:
    life, tank = Life(), make_tank(database_url=private_postgres.url)
    life.step(tank, "before")
    flush_all(tank)
    copy = backup()
    for n in range(4):
        life.step(tank, f"lost by the database {n}")
        flush_all(tank)
    restore(private_postgres, copy)

    assert tank.flush().ok  # nothing new was written to the thread
    flush_all(tank)

    assert checkpoints(tank) == dict(life.steps)
    assert lines(tank) == [text for _, text in life.steps]
    assert occurrences(tank) == len(life.steps)
    errors = told(tank, "database_went_back")
    assert errors
    assert all("nothing is lost" in error.error_message for error in errors)
    assert any("database went back in time" in notice.message for notice in tank.status().notices)


def test_it_is_found_by_the_flush_thread_without_a_new_entry(
    make_tank: MakeTank, private_postgres: PostgresServer, backup: Callable[[], Path]
) -> None:
    life = Life()
    tank = make_tank(
        database_url=private_postgres.url,
        flush_in_process=True,
        flush_age=0.0,
        flush_tick=0.02,
        breaker_max=0.2,
    )
    life.step(tank, "before")
    wait_until(lambda: tank.parts.buffer.depth().entries == 0, "all is saved")
    copy = backup()
    life.step(tank, "lost by the database")
    wait_until(lambda: tank.parts.buffer.depth().entries == 0, "all is saved")
    restore(private_postgres, copy)

    wait_until(lambda: len(checkpoints(tank)) == 2 and len(lines(tank)) == 2, "it is saved again")
    assert checkpoints(tank) == dict(life.steps)


def test_what_is_lost_for_good_is_told_for_each_thread_and_its_newest_state_is_put_back(
    make_tank: MakeTank, private_postgres: PostgresServer, backup: Callable[[], Path]
) -> None:
    life, tank = Life(), make_tank(database_url=private_postgres.url)
    other = Life("other")
    life.step(tank, "before")
    other.step(tank, "other")
    flush_all(tank)
    copy = backup()
    for n in range(3):
        life.step(tank, f"lost for good {n}")
        flush_all(tank)
    tank.parts.buffer.forget_kept(all_=True)  # a minute passes
    life.step(tank, "kept")
    flush_all(tank)
    newest = tank.checkpointer().get_tuple(config("t"))
    restore(private_postgres, copy)

    tank.parts.guards.check.run()
    flush_all(tank)

    found = tank.checkpointer().get_tuple(config("t"))
    assert found is not None
    assert newest is not None
    assert found.checkpoint == newest.checkpoint
    assert list(checkpoints(tank)) == [life.steps[-1][0], life.steps[0][0]]
    assert lines(tank) == ["before", "kept"]
    assert checkpoints(tank, "other") == dict(other.steps)
    lost = [
        p
        for error in told(tank, "database_went_back")
        for p in error.error_context["partitions"]
        if "lost" in p
    ]
    assert {(p["stream"], p["partition"]) for p in lost} >= {
        ("checkpoints", "t"),
        ("thread_logs", "t"),
    }
    assert all(first <= last for p in lost for first, last in [p["lost"]])
    assert all(p["newest_state_restored"] for p in lost if p["stream"] == "checkpoints")
    assert any("lost" in line.message for line in tank.logs("t", limit=1000))
    assert any(notice.severity == "critical" for notice in tank.status().notices)


def test_a_thread_that_is_written_again_first_is_not_patched_against_what_is_gone(
    make_tank: MakeTank,
    private_postgres: PostgresServer,
    backup: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fence finds it, although nobody looked before."""
    life, tank = Life(), make_tank(database_url=private_postgres.url)
    life.step(tank, "before")
    flush_all(tank)
    copy = backup()
    for n in range(3):
        life.step(tank, f"lost by the database {n}")
        flush_all(tank)
    restore(private_postgres, copy)
    monkeypatch.setattr(tank.parts.guards.check, "run", list)

    life.step(tank, "after")
    flush_all(tank)

    assert checkpoints(tank) == dict(life.steps)
    assert lines(tank) == [text for _, text in life.steps]
    assert occurrences(tank) == len(life.steps)


def test_a_promoted_replica_that_was_behind_gets_what_it_missed(
    make_tank: MakeTank, private_postgres: PostgresServer
) -> None:
    life = Life()
    with standby_of(private_postgres) as replica:
        both = f"host={private_postgres.folder},{replica.folder} user=postgres dbname=postgres"
        tank = make_tank(database_url=f"{both} target_session_attrs=read-write")
        life.step(tank, "before")
        flush_all(tank)
        _caught_up(private_postgres, replica)
        replica.stop()
        for n in range(3):
            life.step(tank, f"the replica never saw {n}")
            flush_all(tank)
        private_postgres.kill()
        replica.start()
        run(programs() / "pg_ctl", "promote", "-D", replica.data, "-w")

        life.step(tank, "after")
        wait_until(lambda: tank.flush().ok, "the replica takes it")
        flush_all(tank)

        assert checkpoints(tank) == dict(life.steps)
        assert lines(tank) == [text for _, text in life.steps]
        assert occurrences(tank) == len(life.steps)
        assert told(tank, "database_went_back")


def test_a_database_that_lost_nothing_is_not_suspected(make_tank: MakeTank) -> None:
    life, tank = Life(), make_tank()
    for n in range(3):
        life.step(tank, str(n))
        flush_all(tank)
        tank.parts.database.reset()
        assert tank.parts.guards.check.run() == []
    tank.close()
    tank = make_tank()
    assert tank.parts.guards.check.run() == []


def test_a_lost_progress_row_is_found_for_each_partition_and_not_for_its_neighbours(
    make_tank: MakeTank, database_url: str
) -> None:
    tank = make_tank()
    for name in ("a", "b", "c"):
        tank.emit_log(name, thread_id=name)
    assert tank.flush("thread_logs").ok
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM surgetank.partition_progress WHERE partition = 'b'")
        connection.execute("DELETE FROM surgetank.thread_logs WHERE thread_id = 'b'")
    found = tank.parts.guards.check.run()
    assert [(one.partition, one.finding) for one in found] == [("b", Finding.WENT_BACK)]
    flush_all(tank)
    assert [lines(tank, name) for name in ("a", "b", "c")] == [["a"], ["b"], ["c"]]


def _caught_up(primary: PostgresServer, replica: PostgresServer) -> None:
    with primary.admin() as connection:
        (position,) = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone() or ("",)

    def reached() -> bool:
        with replica.admin() as connection:
            query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            (there,) = connection.execute(query, (position,)).fetchone() or (False,)
        return bool(there)

    wait_until(reached, "the replica has caught up")
