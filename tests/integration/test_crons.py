"""Crons on real PostgreSQL: each time once, whoever is killed, comes late or looks at the same
moment."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from support.tanks import MakeTank
from surgetank import Surgetank
from surgetank.app.crons import CronClock
from surgetank.database.migrate import MigratedDatabase
from surgetank.exceptions import InvalidRequest, NotFound, QuotaExceeded
from surgetank.workflows.assistants import Assistants
from surgetank.workflows.crons import Cron, CronFilter, Crons, NewCron, next_time
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import Run

_JAN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def database(database_url: str) -> Iterator[MigratedDatabase]:
    made = MigratedDatabase(database_url)
    yield made
    made.close()


@pytest.fixture
def crons(database: MigratedDatabase) -> Crons:
    return Crons(database, RunQueue(database), most=3)


def new(**more: Any) -> NewCron:
    given: dict[str, Any] = {
        "metadata": {"k": "v"},
        "payload": {"input": {"n": 1}},
        "owner": "ada",
    } | more
    return NewCron(assistant_id="agent", graph_id="agent", schedule="0 8 * * *", **given)


def make_due(url: str, cron: Cron, ago: str = "1 minute") -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "UPDATE surgetank.crons SET next_run_date = now() - %s::interval WHERE cron_id = %s",
            (ago, cron.cron_id),
        )


def runs(url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT thread_id, owner, kwargs, metadata ->> 'cron_id' FROM surgetank.runs ORDER BY seq"
        ).fetchall()


@pytest.mark.parametrize(
    ("schedule", "zone", "after", "expected"),
    [
        ("*/5 * * * *", None, _JAN, _JAN + timedelta(minutes=5)),
        ("0 8 * * *", "Europe/Berlin", _JAN, _JAN + timedelta(hours=7)),
        ("0 8 * * 1-5", None, datetime(2026, 1, 2, 9, tzinfo=UTC), datetime(2026, 1, 5, 8, tzinfo=UTC)),
        # the hour that summer time leaves out
        ("30 2 * * *", "Europe/Berlin", datetime(2026, 3, 28, 3, tzinfo=UTC), datetime(2026, 3, 29, 1, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_the_next_time_of_a_schedule(
    schedule: str, zone: str | None, after: datetime, expected: datetime
) -> None:
    assert next_time(schedule, zone, None, after) == expected
    assert next_time(schedule, zone, after, after) is None


@pytest.mark.parametrize(
    ("schedule", "zone"),
    [
        ("* * * * * *", None), ("@hourly", None), ("x", None), ("", None), ("0 0 31 2 *", None),
        ("*/0 * * * *", None), ("\0 * * * *", None), ("H * * * *", None), ("9" * 300, None),
        ("* * * * *", "Nowhere/Town"), ("* * * * *", "../../etc/passwd"), ("* * * * *", "\0"),
    ],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(crons: Crons, schedule: str, zone: str | None) -> None:
    cron = NewCron(
        assistant_id="a", graph_id="a", schedule=schedule, timezone=zone, metadata={}, payload={}
    )
    with pytest.raises(InvalidRequest):
        crons.create(cron, actor="ada")
    assert crons.count(CronFilter()) == 0


def test_a_cron_is_made_found_changed_and_deleted_and_the_audit_tells_it(
    crons: Crons, database_url: str
) -> None:
    cron = crons.create(new(), actor="ada")
    assert (cron.enabled, cron.on_run_completed, cron.failures) == (True, "delete", 0)
    assert cron.next_run_date is not None
    assert crons.get(cron.cron_id) == cron
    assert crons.search(CronFilter(owner="ada", metadata={"k": "v"})) == [cron]
    assert crons.search(CronFilter(owner="bob")) == []
    changed = crons.change(
        cron.cron_id,
        {"schedule": "30 8 * * *", "enabled": False, "payload": {"webhook": "https://e.org"}},
        actor="ada",
    )
    assert (changed.schedule, changed.enabled) == ("30 8 * * *", False)
    assert changed.payload == {"input": {"n": 1}, "webhook": "https://e.org"}
    crons.delete(cron.cron_id, actor="ada")
    for missing in (
        lambda: crons.get(cron.cron_id),
        lambda: crons.delete(cron.cron_id, actor="ada"),
    ):
        with pytest.raises(NotFound):
            missing()
    with psycopg.connect(database_url) as connection:
        told = connection.execute("SELECT action FROM surgetank.audit_log ORDER BY id").fetchall()
    assert [action for (action,) in told] == ["cron_created", "cron_changed", "cron_deleted"]


def test_a_user_has_no_more_crons_than_they_may(crons: Crons) -> None:
    for _ in range(3):
        crons.create(new(), actor="ada")
    with pytest.raises(QuotaExceeded):
        crons.create(new(), actor="ada")
    crons.create(new(owner="bob"), actor="bob")


def test_what_is_due_is_accepted_once_and_moves_on(crons: Crons, database_url: str) -> None:
    cron = crons.create(new(), actor="ada")
    assert crons.fire() == 0
    make_due(database_url, cron)
    assert (crons.fire(), crons.fire()) == (1, 0)
    ((thread, owner, kwargs, of),) = runs(database_url)
    assert (owner, of) == ("ada", str(cron.cron_id))
    assert kwargs == {"input": {"n": 1}, "on_completion": "delete"}
    assert str(uuid.UUID(thread)) == thread
    after = crons.get(cron.cron_id)
    assert after.next_run_date is not None
    assert after.next_run_date > datetime.now(UTC)


def test_what_was_missed_is_made_up_for_once(crons: Crons, database_url: str) -> None:
    cron = crons.create(new(), actor="ada")
    make_due(database_url, cron, "400 days")
    while crons.fire():
        pass
    assert len(runs(database_url)) == 1


def test_many_who_look_at_the_same_moment_accept_each_run_once(
    database: MigratedDatabase, database_url: str
) -> None:
    crons = Crons(database, RunQueue(database))
    made = [crons.create(new(), actor="ada") for _ in range(40)]
    for cron in made:
        make_due(database_url, cron)
    with ThreadPoolExecutor(8) as pool:
        fired = list(pool.map(lambda _: crons.fire(), range(24)))
    assert sum(fired) == 40
    assert len(runs(database_url)) == 40


def test_who_is_killed_between_acceptance_and_moving_on_leaves_neither(
    crons: Crons, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are in one transaction; and were it applied twice, the run would be the same one."""
    cron = crons.create(new(), actor="ada")
    make_due(database_url, cron)
    accept_on = RunQueue.accept_on

    class Killed(BaseException):
        pass

    def killing(self: RunQueue, *arguments: Any, **named: Any) -> Run:
        accept_on(self, *arguments, **named)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(RunQueue, "accept_on", killing)
        with pytest.raises(Killed):
            crons.fire()
    assert runs(database_url) == []
    assert crons.fire() == 1
    assert len(runs(database_url)) == 1


def test_a_run_that_is_refused_is_told_once_and_the_cron_goes_on(
    database: MigratedDatabase, database_url: str
) -> None:
    told: list[str] = []
    crons = Crons(database, RunQueue(database), refused=lambda _, why: told.append(why))
    gone = crons.create(new(thread_id="no such thread"), actor="ada")
    fine = crons.create(new(), actor="ada")
    for expected in (1, 2):
        make_due(database_url, gone)
        make_due(database_url, fine)
        assert crons.fire() == 2
        assert len(runs(database_url)) == expected
        after = crons.get(gone.cron_id)
        assert after.failures == expected
        assert "no such thread" in (after.last_error or "")
    assert len(told) == 1


def test_an_assistant_gives_what_it_has_now(database: MigratedDatabase, database_url: str) -> None:
    crons, assistants = Crons(database, RunQueue(database)), Assistants(database)
    made = assistants.create(
        "agent", owner="ada", actor="ada", config={"configurable": {"model": "small"}}
    )
    cron = crons.create(
        NewCron(
            assistant_id=str(made.assistant_id), graph_id="agent", schedule="* * * * *",
            owner="ada", metadata={}, payload={"context": {"a": 1}},
        ),
        actor="ada",
    )  # fmt: skip
    assistants.change(
        made.assistant_id,
        actor="ada",
        config={"configurable": {"model": "large"}},
        context={"b": 2},
    )
    make_due(database_url, cron)
    crons.fire()
    kwargs = runs(database_url)[0][2]
    assert kwargs["config"] == {"configurable": {"model": "large"}}
    assert kwargs["context"] == {"a": 1, "b": 2}


def test_a_thread_takes_its_crons_with_it(make_tank: MakeTank) -> None:
    tank: Surgetank = make_tank()
    tank.threads.rows.create("t", owner="ada")
    cron = tank.crons.create(new(thread_id="t"), actor="ada")
    tank.threads.rows.delete("t", actor="ada")
    with pytest.raises(NotFound):
        tank.crons.get(cron.cron_id)


def test_the_clock_asks_seldom_and_again_at_once_while_there_is_something(
    make_tank: MakeTank, database_url: str
) -> None:
    tank: Surgetank = make_tank()
    now, fired, asked = 0.0, list[int](), list[int]()

    def crons() -> Crons:
        asked.append(1)
        return tank.crons

    clock = CronClock(crons, lambda: fired.append(1), lambda: now)
    clock.step()
    clock.step()
    assert (len(asked), fired) == (1, [])
    cron = tank.crons.create(new(), actor="ada")
    make_due(database_url, cron)
    now = 5.1
    clock.step()
    clock.step()
    assert fired == [1]
