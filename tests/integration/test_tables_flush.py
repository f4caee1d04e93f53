"""Hot rows of tables go into files: each once, whatever fails or stops between the steps."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Semaphore
from typing import Any
from unittest import mock

import psycopg
import pytest

from support.buffers import FakeClock
from support.tables_cold import NOTES, SHARED, cold_tables, texts
from support.tables_house import House
from surgetank.exceptions import DatabaseUnavailable, EntryRejected, LeaseLost
from surgetank.flush.breaker import BreakerState
from surgetank.flush.events import EntryParked, JobFinished, PartitionFailed
from surgetank.model import JobStatus
from surgetank.streams.tables import taking
from surgetank.streams.tables.cold import writing
from surgetank.streams.tables.cold.manifest import Manifest
from surgetank.streams.tables.definition import Table, TablePolicy
from surgetank.streams.tables.hot.protocol import Change, Op, Progress, TableLease
from surgetank.streams.tables.hot.store import SQLiteHotTables
from surgetank.streams.tables.upkeep import TableUpkeep


class Ticking(House):
    """A house whose clock is a test's."""

    def __init__(self, hot: SQLiteHotTables, cold: Any, clock: FakeClock) -> None:
        super().__init__(hot, cold, clock)
        self.clock = clock


@pytest.fixture
def house(database_url: str, tmp_path: Path) -> Iterator[Ticking]:
    clock = FakeClock()
    hot = SQLiteHotTables(tmp_path / "buffer-tables.db", clock=clock)
    with cold_tables(database_url, tmp_path) as cold:
        yield Ticking(hot, cold, clock)
    hot.close()


def test_what_waits_is_in_files_afterwards_and_reads_the_same(house: Ticking) -> None:
    house.insert("ada", 1, 2)
    house.insert("bob", 1)
    house.insert("", 9, table=SHARED)
    before = house.seen(), house.seen(SHARED)
    job = house.flush()
    assert job.ok
    assert (job.result.entries_flushed, job.result.partitions_processed) == (4, 3)
    assert house.hot.waiting() == []
    assert (
        (house.seen(), house.seen(SHARED))
        == before
        == (texts(house.cold), texts(house.cold, SHARED))
    )
    assert house.jobs.saved[job.id].status is JobStatus.COMPLETED
    assert isinstance(house.heard[-1], JobFinished)
    again = house.flush()
    assert (again.ok, again.result.entries_flushed) == (True, 0)


def test_updates_and_deletes_of_rows_in_files(house: Ticking) -> None:
    house.insert("ada", 1, 2, 3)
    house.flush()
    house.change(Op.UPDATE, "ada", 1, "new")
    house.change(Op.UPDATE, "ada", 1, "newer")
    house.change(Op.DELETE, "ada", 2)
    before = house.seen()
    assert house.flush().ok
    assert house.seen() == texts(house.cold) == before == [("ada", 1, "newer"), ("ada", 3, "ada3")]


def test_a_table_is_due_by_mutations_or_by_the_age_of_the_oldest(house: Ticking) -> None:
    stop = threading.Event()
    house.insert("ada", 1, 2)
    assert house.flusher.run_if_due(stop) is None
    house.change(Op.DELETE, "ada", 1)  # the third mutation
    job = house.flusher.run_if_due(stop)
    assert job is not None
    assert (job.partition, job.trigger, job.ok) == ("app.notes", "schedule", True)
    house.insert("ada", 5)
    assert house.flusher.run_if_due(stop) is None
    house.clock.advance(61)
    assert house.flusher.run_if_due(stop) is not None
    slow = replace(NOTES, policy=TablePolicy(rows=100, interval_s=1000.0), id=9, name="slow")
    house.insert("ada", *range(10), table=slow)
    house.clock.advance(61)
    assert house.flusher.run_if_due(stop) is None


@pytest.mark.parametrize("done", [True, False])
def test_a_commit_whose_answer_is_lost_flushes_each_row_once(house: Ticking, done: bool) -> None:
    """PostgreSQL is cut off within COMMIT: nobody knows whether the files are in the manifest."""
    house.insert("ada", 1, 2)
    house.flush()
    house.insert("ada", 3)
    house.change(Op.UPDATE, "ada", 1, "new")
    house.change(Op.DELETE, "ada", 2)
    before, locked = house.seen(), Manifest.locked

    @contextmanager
    def cut_off(self: Manifest, *given: Any, **more: Any) -> Iterator[Any]:
        with suppress(ZeroDivisionError), locked(self, *given, **more) as held:
            yield held
            if not done:
                raise ZeroDivisionError
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    with mock.patch.object(Manifest, "locked", cut_off):
        assert not house.flush().ok
    assert house.seen() == before == [("ada", 1, "new"), ("ada", 3, "ada3")]
    house.clock.advance(120)
    assert house.flush().ok
    assert house.seen() == texts(house.cold) == before
    assert house.hot.waiting() == []


def refuses(house: Ticking, judge: Callable[[list[dict[str, Any]]], Exception | None]) -> Any:
    """Cold tables whose commits fail as `judge` says of their rows."""
    write = house.cold.write

    def judged(table: Table, rows: Any, **more: Any) -> Any:
        if (error := judge(rows.to_pylist())) is not None:
            raise error
        return write(table, rows, **more)

    return mock.patch.object(house.cold, "write", judged)


def hates(text: str, *, named: bool) -> Callable[[list[dict[str, Any]]], Exception | None]:
    def judge(rows: list[dict[str, Any]]) -> Exception | None:
        for row in rows:
            if row["text"] == text:
                if not named:
                    return RuntimeError("nobody foresaw this")
                return EntryRejected(
                    partition="", path="$.text", reason="not here", seq=row["_version"]
                )
        return None

    return judge


def test_a_row_that_is_refused_is_parked_and_its_neighbours_arrive(house: Ticking) -> None:
    house.insert("ada", 1, 2, 3)
    house.insert("bob", 1)
    with refuses(house, hates("ada2", named=True)):
        job = house.flush()
    assert job.status is JobStatus.COMPLETED
    assert (job.result.entries_flushed, job.result.entries_parked) == (3, 1)
    assert [row[:2] for row in texts(house.cold)] == [("ada", 1), ("ada", 3), ("bob", 1)]
    assert len(house.seen()) == 4  # it stays visible
    (parked,) = house.hot.parked()
    assert parked.partition == "app.notes/ada"
    assert [e.entry.id for e in house.heard if isinstance(e, EntryParked)] == [parked.id]
    house.hot.unpark([parked.id])
    assert house.flush().ok
    assert len(texts(house.cold)) == 4


def test_rows_that_are_refused_are_found_together(house: Ticking) -> None:
    plain = replace(NOTES, key=(), id=9, name="plain")
    rows = [(None if n % 5 == 0 else n, f"text {n}") for n in range(40)]  # the id is NOT NULL
    house.hot.accept(plain, [Change(f"u{n % 3}", Op.INSERT, row) for n, row in enumerate(rows)])
    with mock.patch.object(house.cold, "write", wraps=house.cold.write) as write:
        job = house.flush()
    assert (job.result.entries_flushed, job.result.entries_parked) == (32, 8)
    assert write.call_count == 2
    shown = [house.hot.parked_row(each.id) for each in house.hot.parked()]
    assert sorted(each[1]["text"] for each in shown if each) == sorted(
        f"text {n}" for n in range(0, 40, 5)
    )


def test_a_crash_after_a_row_was_parked_loses_neither_it_nor_its_neighbours(house: Ticking) -> None:
    house.insert("ada", 1, 2, 3)
    write = house.cold.write

    def die_after(*args: Any, **more: Any) -> Any:
        write(*args, **more)
        raise KeyboardInterrupt

    judge = hates("ada2", named=True)
    with (
        mock.patch.object(house.cold, "write", die_after),
        refuses(house, judge),
        pytest.raises(KeyboardInterrupt),
    ):
        house.flush()
    assert len(house.seen()) == 3
    assert house.flush().ok
    assert len(house.seen()) == 3
    assert len(texts(house.cold)) == 2


def test_a_user_who_fails_waits_alone_and_recovers(house: Ticking) -> None:
    for user in ("ada", "bob", "eve"):
        house.insert(user, 1, 2)
    with refuses(house, hates("bob2", named=False)):
        job = house.flush()
    assert (job.status, job.result.partitions_failed) == (JobStatus.COMPLETED, 1)
    assert {row[0] for row in texts(house.cold)} == {"ada", "eve"}
    assert len(house.seen()) == 6
    (failed,) = [e for e in house.heard if isinstance(e, PartitionFailed)]
    assert (failed.outcome.partition, failed.outcome.attempts) == ("app.notes/bob", 1)
    house.insert("bob", 3)
    house.insert("ada", 3)
    assert house.flusher.run_if_due(threading.Event()) is not None
    assert {row[:2] for row in texts(house.cold)} >= {("ada", 3)}
    assert ("bob", 1, "bob1") not in texts(house.cold)
    house.clock.advance(120)
    job = house.flush()
    assert job.ok
    assert len(texts(house.cold)) == 8 == len(house.seen())


def test_a_row_that_nobody_foresaw_is_parked_when_it_goes_on_failing(house: Ticking) -> None:
    house.insert("bob", 1, 2, 3, 4)
    with refuses(house, hates("bob3", named=False)):
        for number in range(4):
            house.clock.advance(120)
            house.insert("ada", number)
            house.flush()
    assert len(house.hot.parked()) == 1
    assert [row[1] for row in texts(house.cold) if row[0] == "bob"] == [1, 2, 4]
    assert len(house.seen()) == 8


@pytest.mark.parametrize("after", [False, True])
def test_a_deletion_that_nobody_foresaw_never_makes_two_rows_of_one_key(
    house: Ticking, after: bool
) -> None:
    def judge(rows: list[dict[str, Any]]) -> Exception | None:
        hated = any(row["_op"] == Op.DELETE for row in rows)
        return RuntimeError("nobody foresaw this") if hated else None

    house.insert("bob", 1, 2)
    if after:
        assert house.flush().ok
    house.change(Op.DELETE, "bob", 1)
    house.insert("bob", 1, 3)
    with refuses(house, judge):
        for number in range(4):
            house.clock.advance(120)
            house.insert("ada", number)
            house.flush()
    bobs = [("bob", 1, "bob1"), ("bob", 2, "bob2"), ("bob", 3, "bob3")]
    assert len(house.hot.parked()) == 2  # the deletion, and the row that has its key
    assert [row for row in house.seen() if row[0] == "bob"] == bobs
    assert [row for row in texts(house.cold) if row[0] == "bob"] == bobs  # the first one's bob1
    deletion, behind = house.hot.parked()
    assert len([e for e in house.heard if isinstance(e, EntryParked)]) == 2
    assert house.hot.unpark([behind.id if after else deletion.id]) != []
    assert house.flush().ok
    assert [row for row in house.seen() if row[0] == "bob"] == bobs
    assert [row for row in texts(house.cold) if row[0] == "bob"] == bobs
    assert house.hot.parked() == []


def test_what_was_read_ahead_is_not_written_when_it_is_parked_behind_a_deletion(
    house: Ticking,
) -> None:
    def judge(rows: list[dict[str, Any]]) -> Exception | None:
        hated = [row["_version"] for row in rows if row["_op"] == Op.DELETE]
        return EntryRejected(partition="", path="$", reason="no", seq=hated[0]) if hated else None

    class AtOnce(ThreadPoolExecutor):
        def submit(self, call: Any, *given: Any, **more: Any) -> Any:  # type: ignore[override]
            done = Future[Any]()
            done.set_result(call(*given, **more))
            return done

    house.insert("bob", 1)
    assert house.flush().ok
    house.change(Op.DELETE, "bob", 1)
    house.insert("bob", 1, 3)
    one_by_one = functools.partial(house.hot.take, max_bytes=1)
    with (
        refuses(house, judge),
        mock.patch.object(house.hot, "take", one_by_one),
        mock.patch.object(taking, "ThreadPoolExecutor", AtOnce),
    ):
        assert house.flush().result.entries_parked == 2
    assert [row[1] for row in texts(house.cold)] == [1, 3]  # the 1 of before
    assert [row[1] for row in house.seen()] == [1, 3]
    house.hot.unpark([each.id for each in house.hot.parked()])
    assert house.flush().ok
    assert [row[1] for row in texts(house.cold)] == [1, 3]


def test_a_parked_update_is_seen_before_the_row_that_waits(house: Ticking) -> None:
    house.insert("bob", 1)
    house.change(Op.UPDATE, "bob", 1, "new")
    write = house.cold.write
    calls: list[Any] = []

    def judged(table: Table, rows: Any, **more: Any) -> Any:
        calls.append(rows.to_pylist())
        if len(calls) == 1:
            raise EntryRejected(partition="", path="$", reason="no", seq=calls[0][-1]["_version"])
        if len(calls) == 2:
            raise RuntimeError("nobody foresaw this")
        return write(table, rows, **more)

    with mock.patch.object(house.cold, "write", judged):
        house.flush()
    assert len(house.hot.parked()) == 1
    assert house.seen() == [("bob", 1, "new")]
    house.clock.advance(120)
    assert house.flush().ok
    assert house.seen() == [("bob", 1, "new")]


def test_a_type_that_cannot_be_written_parks_no_row_and_all_arrive_later(house: Ticking) -> None:
    house.insert("ada", 1, 2)
    house.insert("bob", 1)
    with mock.patch.object(writing, "conform", side_effect=ValueError("no TEXT today")):
        job = house.flush()
    assert job.status is JobStatus.FAILED
    assert "No row of app.notes can be written: no TEXT today" in (job.result.message or "")
    assert (house.hot.parked(), len(house.seen()), house.breaker.state()) == (
        [],
        3,
        BreakerState.CLOSED,
    )
    assert house.flush().ok
    assert len(texts(house.cold)) == 3


def test_while_the_database_is_away_all_waits_and_the_breaker_opens(house: Ticking) -> None:
    house.insert("ada", 1, 2, 3)
    with refuses(house, lambda _: DatabaseUnavailable("away")):
        job = house.flush()
        assert job.status is JobStatus.FAILED
        house.clock.advance(5)
        house.flush()
        assert house.breaker.state() is BreakerState.OPEN
        assert house.flusher.run_if_due(threading.Event()) is None
    assert house.hot.parked() == []
    house.clock.advance(600)
    probe = house.flusher.run_if_due(threading.Event())
    assert probe is not None
    assert probe.ok
    assert house.recovered == ["tables"]
    assert house.seen() == texts(house.cold)


def test_a_damaged_file_holds_only_those_up_who_change_rows_in_it(house: Ticking) -> None:
    house.insert("bob", 1)
    house.flush()
    house.change(Op.UPDATE, "bob", 1, "new")
    house.insert("ada", 1)
    (file,) = house.cold.live(NOTES, stores=()).files
    data = (Path(house.cold.address) / file.path).read_bytes()
    (Path(house.cold.address) / file.path).write_bytes(b"")
    house.cold._reader._footers.clear()
    job = house.flush()
    assert (job.status, job.result.partitions_failed) == (JobStatus.COMPLETED, 1)
    assert "StateCorrupt" in str(job.result.errors)
    (Path(house.cold.address) / file.path).write_bytes(data)
    house.clock.advance(120)
    assert house.flush().ok
    assert texts(house.cold) == [("ada", 1, "ada1"), ("bob", 1, "new")]


def test_a_job_can_be_killed_and_what_it_had_not_written_stays(house: Ticking) -> None:
    house.insert("ada", 1)
    house.insert("", 9, table=SHARED)
    write = house.cold.write

    def kill(*args: Any, **more: Any) -> Any:
        assert house.flusher.kill(more["job"].id)
        return write(*args, **more)

    with mock.patch.object(house.cold, "write", kill):
        job = house.flush()
    assert job.result.stopped
    assert len(texts(house.cold)) + len(texts(house.cold, SHARED)) == 1
    assert not house.flusher.kill(job.id)
    assert house.flush().ok
    assert len(texts(house.cold)) + len(texts(house.cold, SHARED)) == 2


@contextmanager
def in_groups(house: Ticking, write_as: Callable[[int, Callable[[], Any]], Any]) -> Iterator[None]:
    """Flushes take a row or two at a time. `write_as` writes a group; it is given its number, and is
    called when the group after the first one has been read."""
    take, write, taken, written = house.hot.take, house.cold.write, Semaphore(0), count()

    def in_parts(lease: TableLease, *, after: int = 0) -> Any:
        found = take(lease, after=after, max_bytes=200)
        taken.release()
        return found

    def waiting(*args: Any, **more: Any) -> Any:
        number = next(written)
        if number == 0:
            assert all(taken.acquire(timeout=60) for _ in range(2))
        return write_as(number, lambda: write(*args, **more))

    with (
        mock.patch.object(house.hot, "take", in_parts),
        mock.patch.object(house.cold, "write", waiting),
    ):
        yield


def test_who_fails_is_in_no_group_that_was_read_ahead(house: Ticking) -> None:
    for number in range(4):
        house.insert("ada", number)
        house.insert("bob", number)

    def fail(number: int, write: Callable[[], Any]) -> Any:
        if number < 2:  # with others, and alone
            raise RuntimeError("nobody foresaw this")
        return write()

    with in_groups(house, fail):
        result = house.flush().result
    assert (result.partitions_failed, result.entries_flushed) == (1, 4)
    (failed,) = {user for user, _, _ in house.seen()} - {user for user, _, _ in texts(house.cold)}
    assert len(texts(house.cold)) == 4
    house.clock.advance(120)
    assert house.flush().ok
    assert len(texts(house.cold)) == len(house.seen()) == 8, failed


def test_who_is_erased_is_in_no_group_that_was_read_ahead(house: Ticking) -> None:
    for number in range(4):
        house.insert("ada", number)
        house.insert("bob", number)
    house.flush()
    for number in range(4, 8):
        house.insert("ada", number)
        house.insert("bob", number)

    def erase(number: int, write: Callable[[], Any]) -> Any:
        done = write()
        if number == 0:  # the first group is in files, the second in memory
            house.hot.erase_user("ada")
            house.cold.erase_user([NOTES], "ada")
        return done

    with in_groups(house, erase):
        assert house.flush().ok
    assert {user for user, _, _ in house.seen()} == {"bob"}
    assert len(house.seen()) == len(texts(house.cold)) == 8


def test_flushers_who_race_write_each_row_once(house: Ticking) -> None:
    stop = threading.Event()

    def insert() -> None:
        for number in range(40):
            house.insert("ada", number)
            if number % 5 == 4:
                house.change(Op.UPDATE, "ada", number - 2, "changed")
        stop.set()

    def flush(name: str) -> None:
        flusher = house.make(name)
        while not stop.is_set():
            flusher.run("race")

    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(flush, "a"), pool.submit(flush, "b"), pool.submit(insert)]
        for each in done:
            each.result(timeout=60)
    assert house.flush(up_to_seq=1).ok
    rows = texts(house.cold)
    assert [row[1] for row in rows] == list(range(40))
    assert sum(row[2] == "changed" for row in rows) == 8
    assert house.seen() == rows


def test_the_holder_of_a_lost_lease_reports_it_and_writes_nothing(house: Ticking) -> None:
    house.insert("ada", 1)
    with refuses(house, lambda _: LeaseLost("another has it")):
        job = house.flush()
    assert job.result.partitions_failed == 1
    assert house.hot.progress(NOTES) == {} or all(
        each == Progress() for each in house.hot.progress(NOTES).values()
    )
    house.clock.advance(60)
    assert house.flush().ok


def test_upkeep_merges_files_in_its_time_and_ends_when_it_is_told(house: Ticking) -> None:
    for number in range(9):
        house.insert("ada", number)
        house.flush()
    before = house.seen()
    upkeep = TableUpkeep(house.cold, lambda: [NOTES, SHARED], house.clock)
    stop, ended = threading.Event(), threading.Event()
    ended.set()
    upkeep.round(ended)
    assert len(house.cold.live(NOTES, stores=()).files) == 9
    upkeep.round(stop)  # not due again yet
    assert len(house.cold.live(NOTES, stores=()).files) == 9
    house.clock.advance(61)
    upkeep.round(stop)
    assert len(house.cold.live(NOTES, stores=()).files) == 1
    assert house.seen() == before
