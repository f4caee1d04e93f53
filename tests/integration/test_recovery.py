"""After an outage of a real database: everything is saved soon, and what healed by itself no longer
counts as open."""

from __future__ import annotations

import time

from support.postgres import PostgresServer
from support.savers import put
from support.tanks import MakeTank
from support.waiting import wait_until
from support.webhook import running_webhook
from surgetank.streams.checkpoints.envelope import STREAM
from surgetank.streams.errors.answers import ErrorFilter


def test_all_streams_are_saved_within_seconds_after_the_database_is_back(
    make_tank: MakeTank, private_postgres: PostgresServer
) -> None:
    tank = make_tank(
        database_url=private_postgres.url, flush_in_process=True, flush_age=0.1, breaker_max=1.0,
        retry_base=60.0, retry_max=600.0,
    )  # fmt: skip
    saver = tank.checkpointer()
    put(saver, "before", {"n": 1})
    wait_until(lambda: not tank.parts.buffer.depth().entries, "the first flush")
    private_postgres.stop()
    for i in range(30):
        put(saver, f"t{i}", {"n": 1})
        tank.emit_log("in the outage", thread_id=f"t{i}")
    tank.log_system_error("mine", "in the outage")
    wait_until(
        lambda: len(tank.parts.buffer.states(STREAM, failing=True)) == 30,
        "every thread to wait for minutes",
    )
    private_postgres.start()
    started = time.monotonic()
    wait_until(
        lambda: not any(s.stream != "system_errors" and s.entries for s in tank.parts.buffer.depth().streams),
        "everything to be saved", timeout_s=40,
    )  # fmt: skip
    assert time.monotonic() - started < 40, "their own backoff is a minute"


def test_operators_who_were_alerted_hear_of_the_end(
    make_tank: MakeTank, private_postgres: PostgresServer
) -> None:
    with running_webhook() as webhook:
        tank = make_tank(
            database_url=private_postgres.url,
            alert_urls=[webhook.url],
            alert_failing_after=0.0,
            critical_after=3600.0,
        )
        watch = tank.parts.reporting.alerts
        private_postgres.stop()
        put(tank.checkpointer(), "t", {"n": 1})
        tank.flush(STREAM)
        assert "failing_partitions" in [alert.rule for alert in watch.check()]
        assert "recovered" not in [alert.rule for alert in watch.check()], "not while it lasts"
        private_postgres.start()
        assert tank.flush(STREAM).ok
        assert [alert.rule for alert in watch.check()] == ["recovered"]
        assert [alert.rule for alert in watch.check()] == [], "once"
        watch.deliver()
        assert any("Recovered" in str(received) for received in webhook.received)


def test_an_error_that_healed_by_itself_is_marked_so_and_no_longer_open(
    make_tank: MakeTank, private_postgres: PostgresServer
) -> None:
    tank = make_tank(database_url=private_postgres.url)
    put(tank.checkpointer(), "t", {"n": 1})
    assert tank.flush().ok
    private_postgres.stop()
    put(tank.checkpointer(), "t", {"n": 2})
    put(tank.checkpointer(), "u", {"n": 2})
    for _ in range(3):
        tank.flush(STREAM)
    tank.parts.reporting.tell_all(tank.parts.flushers)
    assert [error.error_type for error in tank.errors.find(ErrorFilter(resolved=False)).errors]
    private_postgres.start()
    assert tank.flush(STREAM).ok
    tank.parts.reporting.tell_all(tank.parts.flushers)
    assert tank.flush().ok
    assert tank.errors.find(ErrorFilter(resolved=False)).errors == ()
    healed = tank.errors.find(ErrorFilter(resolved=True)).errors
    assert healed
    for error in healed:
        assert error.resolved_by == "surgetank"
        assert "healed by itself" in (error.resolution_notes or "")
