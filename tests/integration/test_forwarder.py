"""The forwarder on real PostgreSQL: who follows a thread hears of all that was committed, once and in
order."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.database.migrate import MigratedDatabase
from surgetank.events.sqlite import SQLiteEventLog
from surgetank.exceptions import DatabaseUnavailable
from surgetank.notify.travels import LostAct
from surgetank.workflows.forwarder import Forwarder
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import NewRun, Run
from surgetank.workflows.status import Status

HERE = "buffer-1"


@pytest.fixture
def database(database_url: str) -> Iterator[MigratedDatabase]:
    made = MigratedDatabase(database_url)
    yield made
    made.close()


@pytest.fixture
def events(tmp_path: Path) -> Iterator[SQLiteEventLog]:
    log = SQLiteEventLog(tmp_path / "events.db")
    yield log
    log.close()


@pytest.fixture
def queue(database: MigratedDatabase) -> RunQueue:
    return RunQueue(database, buffer_id=HERE)


class Saved:
    """Threads whose data is in the database; None: of all."""

    def __init__(self, threads: set[str] | None) -> None:
        self._threads = threads

    def accepted(self, thread_id: str) -> str:
        return thread_id

    def arrived(self, accepted: Sequence[str]) -> list[bool]:
        return [self._threads is None or thread in self._threads for thread in accepted]


def forwarder_of(
    database: MigratedDatabase, events: SQLiteEventLog, saved: set[str] | None = None
) -> Forwarder:
    return Forwarder(database, events, buffer_id=HERE, actor="host-1", arrivals=Saved(saved))


def complete(queue: RunQueue, thread: str = "t") -> Run:
    queue.accept(NewRun(thread_id=thread, assistant_id="agent"), actor="ursula")
    (run,) = queue.claim("w", 1)
    queue.end(run, Status.COMPLETED, actor="w")
    return run


def statuses(events: SQLiteEventLog, thread: str = "t") -> list[tuple[str, bool | None]]:
    _, found = events.thread_events(thread)
    return [(event.data["status"], event.data.get("saved")) for event in found]


def test_a_run_is_told_from_acceptance_to_saved_once(
    database: MigratedDatabase, events: SQLiteEventLog, queue: RunQueue
) -> None:
    saved: set[str] = set()
    forwarder = forwarder_of(database, events, saved)
    run = complete(queue)
    assert forwarder.step() == 3
    assert forwarder.step() == 0
    expected = [("pending", None), ("running", None), ("completed", False)]
    assert statuses(events) == expected
    assert forwarder.waits
    saved.add("t")
    assert forwarder.step() == 1
    assert not forwarder.waits
    assert statuses(events) == [*expected, ("completed", True)]
    assert forwarder.step() == 0
    _, found = events.thread_events("t")
    assert {event.data["run_id"] for event in found} == {str(run.run_id)}
    assert {event.type for event in found} == {"status_updated"}
    assert "ursula" not in str([event.data for event in found]), (
        "who did it is no follower's business"
    )


def test_a_forwarder_that_was_killed_before_it_knew_goes_on_with_what_is_not_saved(
    database: MigratedDatabase, events: SQLiteEventLog, queue: RunQueue
) -> None:
    complete(queue)
    forwarder_of(database, events, set()).step()
    after = forwarder_of(database, events)
    after.step()
    assert statuses(events)[-2:] == [("completed", False), ("completed", True)]


def test_two_forwarders_of_one_home_tell_each_event_once(
    database: MigratedDatabase, events: SQLiteEventLog, queue: RunQueue
) -> None:
    both = [forwarder_of(database, events) for _ in range(2)]
    stop = threading.Event()

    def forward(forwarder: Forwarder) -> None:
        while not stop.is_set():
            forwarder.step()

    threads = [threading.Thread(target=forward, args=(each,)) for each in both]
    for thread in threads:
        thread.start()
    for _ in range(20):
        complete(queue)
    wait_until(lambda: statuses(events).count(("completed", True)) == 20, "all is told")
    stop.set()
    for thread in threads:
        thread.join()
    ids = [event.data["audit_id"] for event in events.thread_events("t")[1]]
    assert len(ids) == len(set(ids)) == 80


def test_each_home_hears_of_all(
    database: MigratedDatabase, events: SQLiteEventLog, queue: RunQueue, tmp_path: Path
) -> None:
    complete(queue)
    forwarder_of(database, events).step()
    other = SQLiteEventLog(tmp_path / "other.db")
    elsewhere = Forwarder(
        database, other, buffer_id="buffer-2", actor="host-2", arrivals=Saved(set())
    )
    elsewhere.step()
    assert statuses(other) == statuses(events)
    assert statuses(other)[-1] == ("completed", True)
    other.close()


def note(connection: psycopg.Connection[Any], thread: str, number: int) -> None:
    connection.execute(
        "SELECT surgetank.note('run_accepted', 'ada', %s, NULL, NULL, %s)",
        (thread, psycopg.types.json.Jsonb({"attempt": number})),
    )


def test_what_commits_late_is_not_left_out_and_holds_up_nobody(
    database: MigratedDatabase, events: SQLiteEventLog, queue: RunQueue, database_url: str
) -> None:
    forwarder = forwarder_of(database, events)
    complete(queue, "before")  # the actor has a number
    forwarder.step()
    with psycopg.connect(database_url) as late:
        note(late, "late", 1)
        complete(queue, "quick")
        forwarder.step()
        assert statuses(events, "quick")[-1] == ("completed", True)
        assert statuses(events, "late") == []
        late.commit()
    forwarder.step()
    assert statuses(events, "late") == [("pending", None)]


def test_a_chain_is_told_in_its_order_though_the_later_row_has_the_smaller_transaction(
    database: MigratedDatabase, events: SQLiteEventLog, database_url: str
) -> None:
    forwarder = forwarder_of(database, events)
    forwarder.step()
    with psycopg.connect(database_url) as early, psycopg.connect(database_url) as holds:
        early.execute("SELECT pg_current_xact_id()")
        holds.execute("SELECT pg_current_xact_id()")  # so that no snapshot begins after the others
        with psycopg.connect(database_url) as second:
            note(second, "t", 1)
        note(early, "t", 2)
        early.commit()
        forwarder.step()
    _, found = events.thread_events("t")
    assert [event.data["attempt"] for event in found] == [1, 2]


@pytest.mark.parametrize("_round", range(2))
def test_whatever_the_order_of_commits_each_row_is_told_once_and_in_order(
    database: MigratedDatabase,
    events: SQLiteEventLog,
    database_url: str,
    _round: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("surgetank.workflows.forwarder._PAGE", 7)
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    written: dict[str, int] = defaultdict(int)
    open_: list[tuple[psycopg.Connection[Any], set[str]]] = []
    forwarder = forwarder_of(database, events)
    with psycopg.connect(database_url) as connection:
        note(connection, "before", 1)  # the actor has a number
    forwarder.step()
    try:
        for _ in range(150):
            held = set().union(*(threads for _, threads in open_)) if open_ else set[str]()
            free = [f"t{n}" for n in range(8) if f"t{n}" not in held]
            if free and rng.random() < 0.6:
                connection = psycopg.connect(database_url)
                chosen = sorted(rng.sample(free, min(len(free), rng.choice([1, 1, 2]))))
                for thread in chosen:
                    for _ in range(rng.choice([1, 1, 3])):
                        written[thread] += 1
                        note(connection, thread, written[thread])
                open_.append((connection, set(chosen)))
            elif open_:
                connection, _ = open_.pop(rng.randrange(len(open_)))
                connection.commit()
                connection.close()
            if rng.random() < 0.3:
                forwarder.step()
            if rng.random() < 0.05:
                forwarder = forwarder_of(database, events)  # another process goes on
    finally:
        for connection, _ in open_:
            connection.commit()
            connection.close()
    forwarder.step()
    for thread, number in written.items():
        _, found = events.thread_events(thread)
        heard = [event.data["attempt"] for event in found]
        assert heard == list(range(1, number + 1)), (seed, thread)


def test_a_database_that_was_restored_elsewhere_is_followed_from_there_on(
    database: MigratedDatabase, events: SQLiteEventLog, queue: RunQueue
) -> None:
    forwarder = forwarder_of(database, events)
    complete(queue)
    forwarder.step()
    future = '{"seen": "999999999:999999999:", "since": 0.0}'
    events.forward([], future)
    forwarder.step()
    before = len(statuses(events))
    complete(queue)
    forwarder.step()
    assert len(statuses(events)) == before + 4


def test_what_a_database_that_went_back_has_lost_is_told_once_and_what_is_done_then_is_heard(
    database: MigratedDatabase, events: SQLiteEventLog, queue: RunQueue, database_url: str
) -> None:
    told: list[LostAct] = []
    forwarder = Forwarder(
        database, events, buffer_id=HERE, actor="host-1", arrivals=Saved(None), on_lost=told.extend
    )
    complete(queue, "kept")
    forwarder.step()
    with psycopg.connect(database_url) as connection:
        (last,) = connection.execute("SELECT max(id) FROM surgetank.audit").fetchone() or (0,)
    run = complete(queue, "lost")
    forwarder.step()
    database.reset()
    forwarder.step()
    assert told == [], "a new connection alone is no reason"
    with psycopg.connect(database_url, autocommit=True) as connection:  # as on a replica
        connection.execute("SET session_replication_role = replica")
        connection.execute("DELETE FROM surgetank.audit WHERE id > %s", (last,))
        connection.execute(
            "DELETE FROM surgetank.audit_heads WHERE thread NOT IN (SELECT thread FROM surgetank.audit)"
        )
        connection.execute("DELETE FROM surgetank.runs WHERE thread_id = 'lost'")
    database.reset()
    forwarder.step()
    assert {act.thread_id for act in told} == {"lost"}
    assert {act.run_id for act in told} == {str(run.run_id)}
    assert [act.action for act in told][:3] == ["run_accepted", "run_claimed", "run_completed"]
    count = len(told)
    before = len(statuses(events, "kept"))
    complete(queue, "kept")
    database.reset()
    forwarder.step()
    assert len(told) == count
    assert len(statuses(events, "kept")) == before + 4


def test_what_was_erased_or_deleted_is_not_told(
    database: MigratedDatabase, events: SQLiteEventLog, queue: RunQueue, database_url: str
) -> None:
    complete(queue, "erased")
    complete(queue, "deleted")
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM surgetank.audit_names WHERE name = 'erased'")
        connection.execute("SELECT surgetank.delete_thread('deleted', 'ada')")
    forwarder = forwarder_of(database, events)
    forwarder.step()
    assert events.last_id() == 0
    complete(queue, "deleted")
    forwarder.step()
    assert len(statuses(events, "deleted")) == 4


def test_without_a_database_nothing_is_lost(
    database: MigratedDatabase, events: SQLiteEventLog, queue: RunQueue
) -> None:
    away = MigratedDatabase("postgresql://nobody@127.0.0.1:1/none")
    forwarder = forwarder_of(away, events)
    with pytest.raises(DatabaseUnavailable):
        forwarder.step()
    away.close()
    complete(queue)
    forwarder_of(database, events).step()
    assert len(statuses(events)) == 4


def test_an_engine_tells_at_once_and_says_when_a_run_is_saved(make_tank: MakeTank) -> None:
    tank: Surgetank = make_tank(flush_in_process=True)
    delays: list[float] = []
    for number in range(5):
        thread = f"t{number}"
        tank.emit_log("a line that has to be saved", thread_id=thread)
        tank.runs.accept(NewRun(thread_id=thread, assistant_id="agent"), actor="ada")
        begun = time.monotonic()

        def first(thread: str = thread) -> bool:
            return any(e.type == "status_updated" for e in tank.events.thread_events(thread)[1])

        wait_until(first, "the run is told")
        delays.append(time.monotonic() - begun)
    assert min(delays) < 0.2
    queue = RunQueue(
        tank.parts.database, buffer_id=tank.parts.buffer.id, changed=tank.parts.forwarding.wake
    )
    for run in queue.claim("w", 5):
        queue.end(run, Status.COMPLETED, actor="w")

    def saved() -> bool:
        found = [e.data for e in tank.events.tail(0)[1] if e.type == "status_updated"]
        return sum(data.get("saved") is True for data in found) == 5

    wait_until(saved, "the runs are saved")
    assert str(uuid.UUID(tank.events.thread_events("t0")[1][-1].data["run_id"]))
