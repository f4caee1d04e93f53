"""A buffer that goes back in time (restored, copied, resumed) loses nothing that it accepts
afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.travel import (
    Life,
    checkpoints,
    copy_home,
    flush_all,
    lines,
    occurrences,
    set_back,
    told,
)
from surgetank import Surgetank
from surgetank.buffer.coordination import Due
from surgetank.buffer.sqlite import buffer as sqlite

MakeTank = Callable[..., Surgetank]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def go_back(tank: Surgetank, home: Path, copy: Path) -> None:
    tank.close()
    set_back(home, copy)


def test_what_a_restored_buffer_accepts_is_saved_although_its_numbers_were_used(
    make_tank: MakeTank, home: Path, tmp_path: Path
) -> None:
    life, tank = Life(), make_tank()
    life.step(tank, "before")
    flush_all(tank)
    backup = copy_home(home, tmp_path / "backup")
    for n in range(5):
        life.step(tank, f"lost from the buffer {n}")
    flush_all(tank)
    go_back(tank, home, backup)

    tank = make_tank()
    for n in range(3):
        life.step(tank, f"after {n}")
    flush_all(tank)

    assert checkpoints(tank) == dict(life.steps)
    assert sorted(lines(tank)) == sorted(text for _, text in life.steps)
    assert occurrences(tank) == len(life.steps)


def test_what_waited_in_the_backup_and_was_saved_since_is_not_lost_and_said_to_be_perhaps_doubled(
    make_tank: MakeTank, home: Path, tmp_path: Path
) -> None:
    life, tank = Life(), make_tank()
    life.step(tank, "waits in the backup")
    backup = copy_home(home, tmp_path / "backup")
    life.step(tank, "later")
    flush_all(tank)
    go_back(tank, home, backup)

    tank = make_tank()
    life.step(tank, "after")
    flush_all(tank)

    assert checkpoints(tank) == dict(life.steps)
    assert set(lines(tank)) == {text for _, text in life.steps}
    assert occurrences(tank) >= len(life.steps)
    errors = told(tank, "buffer_went_back")
    assert {error.severity for error in errors} == {"critical"}
    partitions = {
        (p["stream"], p["partition"]) for e in errors for p in e.error_context["partitions"]
    }
    assert {("thread_logs", "t"), ("checkpoints", "t")} < partitions
    notices = [notice.message for notice in tank.status().notices]
    assert any("went back in time" in message for message in notices)


def test_new_lines_have_numbers_that_a_follower_of_the_log_has_not_passed(
    make_tank: MakeTank, home: Path, tmp_path: Path
) -> None:
    life, tank = Life(), make_tank()
    backup = copy_home(home, tmp_path / "backup")
    for n in range(20):
        life.step(tank, str(n))
    flush_all(tank)
    cursor = max(line.seq for line in tank.logs("t"))
    go_back(tank, home, backup)

    tank = make_tank()
    life.step(tank, "after")
    flush_all(tank)

    assert [line.message for line in tank.logs("t", after=cursor) if line.level == "info"] == [
        "after"
    ]


def test_a_machine_resumed_from_a_snapshot_loses_nothing_and_is_told(
    make_tank: MakeTank, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory and disk go back together: the process goes on in the epoch that it had."""
    epochs = iter([4711, 4711, *range(5000, 5100)])
    monkeypatch.setattr(sqlite, "random_epoch", lambda: next(epochs))
    life, tank = Life(), make_tank()
    life.step(tank, "before")
    flush_all(tank)
    snapshot = copy_home(home, tmp_path / "snapshot")
    for n in range(4):
        life.step(tank, f"original {n}")
    flush_all(tank)
    go_back(tank, home, snapshot)

    tank = make_tank()
    assert tank.parts.buffer.epoch == 4711
    for n in range(4):
        life.step(tank, f"resumed {n}")
    flush_all(tank)

    assert tank.parts.buffer.epoch != 4711
    assert checkpoints(tank) == dict(life.steps)
    assert sorted(lines(tank)) == sorted(text for _, text in life.steps)
    assert occurrences(tank) == len(life.steps)
    assert told(tank, "buffer_went_back")


def test_two_copies_of_a_home_lose_nothing_of_either(
    make_tank: MakeTank, home: Path, tmp_path: Path
) -> None:
    life, one = Life(), make_tank()
    life.step(one, "before")
    flush_all(one)
    other_home = copy_home(home, tmp_path / "copy")
    other = make_tank(home=other_home)
    for n in range(4):
        life.step(one, f"one {n}")
        flush_all(one)
        life.step(other, f"other {n}")
        flush_all(other)

    assert checkpoints(one) == dict(life.steps)
    assert sorted(lines(one)) == sorted(text for _, text in life.steps)
    assert occurrences(one) == len(life.steps)


def test_a_restored_buffer_whose_fencing_tokens_went_back_is_not_locked_out(
    make_tank: MakeTank, home: Path, tmp_path: Path
) -> None:
    life, tank = Life(), make_tank()
    backup = copy_home(home, tmp_path / "backup")
    for n in range(10):
        life.step(tank, str(n))
        flush_all(tank)  # each flush takes new leases
    go_back(tank, home, backup)

    tank = make_tank()
    life.step(tank, "after")
    flush_all(tank)

    assert checkpoints(tank) == dict(life.steps)
    assert not tank.parts.buffer.states()


def test_a_worker_that_lost_its_lease_is_still_refused(make_tank: MakeTank) -> None:
    tank = make_tank()
    tank.emit_log("line", thread_id="t")
    buffer, sink = tank.parts.buffer, tank.parts.flushers["thread_logs"].sink
    from surgetank.exceptions import LeaseLost
    from surgetank.sinks.protocol import Slice

    (old,) = buffer.lease("thread_logs", Due(force=True), owner="slow", ttl_s=15)
    entries = buffer.read(old.lease, max_entries=10, max_bytes=10**6)
    buffer.release([old.lease])
    assert tank.flush("thread_logs").ok
    with pytest.raises(LeaseLost):
        sink.write([Slice(old.lease, entries)], buffer_id=buffer.id)
    assert buffer.raise_token(old.lease, beyond=10**6) is None


def test_a_flush_interrupted_between_commit_and_acknowledgement_is_not_doubled_and_told(
    make_tank: MakeTank, monkeypatch: pytest.MonkeyPatch
) -> None:
    life, tank = Life(), make_tank()
    for n in range(3):
        life.step(tank, str(n))
    buffer = tank.parts.buffer
    ack = buffer.ack
    # the lease ran out meanwhile
    monkeypatch.setattr(buffer, "ack", lambda acks: [a.lease for a in acks])
    for stream in tank.parts.flushers:
        tank.flush(stream)
    monkeypatch.setattr(buffer, "ack", ack)
    life.step(tank, "after")
    jobs = [tank.flush(stream) for stream in tank.parts.flushers]

    assert all(job.ok for job in jobs)
    assert all(job.result["entries_skipped"] >= 3 for job in jobs)
    assert all("already" in " ".join(job.result["notes"]) for job in jobs)
    assert lines(tank) == [text for _, text in life.steps]
    assert occurrences(tank) == len(life.steps)
    assert checkpoints(tank) == dict(life.steps)
    assert not told(tank, "buffer_went_back")
    # The thread is known to be in the database, as if nothing had been interrupted.
    with buffer.snapshot() as snapshot:
        assert snapshot.notes("checkpoints", "t")


def test_progress_has_one_row_for_each_partition_however_often_the_buffer_is_opened(
    make_tank: MakeTank, postgres_server: object, database_url: str
) -> None:
    import psycopg

    for n in range(40):
        tank = make_tank()
        tank.emit_log(str(n), thread_id="t")
        assert tank.flush("thread_logs").ok
        tank.close()
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT epochs, earlier FROM surgetank.partition_progress WHERE stream = 'thread_logs'"
        ).fetchall()
        (aside,) = (
            connection.execute(
                "SELECT count(*) FROM surgetank.partition_progress_earlier"
            ).fetchone()
            or ()
        )
    assert len(rows) == 1
    assert len(rows[0][0]) <= 17
    assert rows[0][1]
    assert len(rows[0][0]) + aside == 40


def test_progress_of_an_epoch_used_long_ago_still_counts(
    make_tank: MakeTank, home: Path, tmp_path: Path
) -> None:
    tank = make_tank()
    tank.emit_log("waits in the backup", thread_id="t")
    backup = copy_home(home, tmp_path / "backup")
    assert tank.flush("thread_logs").ok
    for n in range(30):
        tank.close()
        tank = make_tank()
        tank.emit_log(str(n), thread_id="t")
        assert tank.flush("thread_logs").ok
    go_back(tank, home, backup)

    tank = make_tank()
    job = tank.flush("thread_logs")

    assert job.ok
    assert job.result["entries_skipped"] == 1  # its own epoch stands at just this entry
    assert lines(tank) == ["waits in the backup", *map(str, range(30))]
