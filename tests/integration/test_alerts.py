"""Alerts reach people over a real network: once, also while PostgreSQL is down, also after a
restart."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.commands import run_command
from support.postgres import PostgresServer
from support.savers import put_chain
from support.tanks import MakeTank
from support.waiting import wait_until
from support.webhook import SECRET, Webhook, running_webhook
from surgetank import MissingExtra, Surgetank
from surgetank.events.sqlite import SQLiteEventLog
from surgetank.events.types import Severity
from surgetank.notify.alerts import sqlite_book
from surgetank.notify.alerts.book import Alert, Message, Outcome
from surgetank.notify.alerts.facts import FactFinder
from surgetank.notify.alerts.sqlite_book import SQLiteAlertBook
from surgetank.notify.alerts.watch import AlertWatch


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 5, 12, 0).astimezone().timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with running_webhook() as running:
        yield running


def watch(tank: Surgetank) -> AlertWatch:
    return tank.parts.reporting.alerts


def look_and_deliver(tank: Surgetank) -> list[str]:
    claimed = [alert.rule for alert in watch(tank).check()]
    watch(tank).deliver()
    return claimed


def critical(tank: Surgetank, name: str = "reactor_hot", **more: Any) -> str:
    return tank.log_system_error(name, "It is too hot.", severity="critical", **more)


# -- rules against real data


def test_a_critical_error_reaches_the_channel_once(
    make_tank: MakeTank, webhook: Webhook, clock: Clock
):
    tank = make_tank(alert_urls=[webhook.url], clock=clock)
    id_ = critical(tank, thread_id="t1")
    assert look_and_deliver(tank) == ["critical_errors"]
    (message,) = webhook.received
    assert message["title"] == "Surgetank: Critical error: reactor_hot"
    assert "in thread t1" in message["message"]
    assert f"surgetank errors show {id_}" in message["message"]
    assert message["type"] == "failure"
    clock.now += 60
    critical(tank)
    assert look_and_deliver(tank) == []  # throttled
    tank.flush()
    clock.now += 3600
    assert look_and_deliver(tank) == []  # the throttle is over, and nothing new has happened
    critical(tank)
    assert look_and_deliver(tank) == ["critical_errors"]
    assert len(webhook.received) == 2


def test_snoozed_and_resolved_errors_do_not_alert_also_while_the_database_is_down(
    make_tank: MakeTank, private_postgres: PostgresServer, webhook: Webhook, clock: Clock
):
    url = private_postgres.url_of(private_postgres.create_database())
    tank = make_tank(alert_urls=[webhook.url], clock=clock, database_url=url)
    cold, hot, resolved = (critical(tank, name) for name in ("cold", "hot", "resolved"))
    tank.errors.act(cold, "snooze", "ada", until=clock.now + 3600)
    assert tank.flush().ok
    tank.errors.act(hot, "snooze", "ada", until=clock.now + 600)
    tank.errors.act(resolved, "resolve", "ada")
    assert watch(tank).check() == []
    private_postgres.kill()
    critical(tank, "cold")
    assert watch(tank).check() == []
    clock.now += 3600
    critical(tank, "hot")
    assert [alert.subject for alert in watch(tank).check()] == [hot]


@pytest.mark.parametrize("flushed", ["hot", "cold", "half"])
def test_a_thread_with_several_errors_alerts(
    make_tank: MakeTank, webhook: Webhook, clock: Clock, flushed: str
):
    tank = make_tank(alert_urls=[webhook.url], clock=clock, alert_thread_errors=3)
    ids = [tank.log_system_error(f"kind_{n}", "odd", thread_id="t") for n in range(2)]
    tank.log_system_error("kind_0", "odd", thread_id="other")
    if flushed == "half":
        assert tank.flush("system_errors").ok
    tank.log_system_error("kind_2", "odd", thread_id="t")
    if flushed == "cold":
        assert tank.flush("system_errors").ok
    (found,) = [state for state in watch(tank).states()[0] if state.alerts]
    assert [(alert.rule, alert.subject) for alert in found.alerts] == [("thread_errors", "t")]
    assert "3 unresolved errors" in found.alerts[0].text
    tank.errors.act(ids[0], "snooze", "ada", until=clock.now + 60)
    assert look_and_deliver(tank) == []
    clock.now += 61
    assert look_and_deliver(tank) == ["thread_errors"]


def test_an_outage_alerts_while_it_lasts(
    make_tank: MakeTank, private_postgres: PostgresServer, webhook: Webhook
):
    url = private_postgres.url_of(private_postgres.create_database())
    tank = make_tank(
        database_url=url, alert_urls=[webhook.url], alert_every=0.05, alert_failing_after=0.3, flush_in_process=True,
        flush_age=0.05, flush_tick=0.05,
    )  # fmt: skip
    put_chain(tank.checkpointer(), "before", 2)
    wait_until(lambda: tank.jobs(status="completed"), "a first flush")
    private_postgres.kill()
    for n in range(3):
        put_chain(tank.checkpointer(), f"t{n}", 2)
    wait_until(
        lambda: any(t.startswith("Surgetank: Nothing can be flushed to") for t in webhook.titles()),
        "the alert",
    )
    private_postgres.start()
    wait_until(lambda: tank.parts.buffer.depth().entries == 0, "everything to arrive")
    titles = [title for title in webhook.titles() if "Nothing can be flushed" in title]
    assert len(titles) == 1, "one outage is one alert, however many threads it concerns"


def test_a_database_that_hangs_silences_neither_alerts_nor_digest(
    make_tank: MakeTank,
    webhook: Webhook,
    database_url: str,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(FactFinder, "patience_s", 0.2)
    tank = make_tank(alert_urls=[webhook.url], clock=clock, alert_digest_hour=13)
    with psycopg.connect(database_url) as locker:
        locker.execute("LOCK TABLE surgetank.system_errors IN ACCESS EXCLUSIVE MODE")
        critical(tank)
        assert look_and_deliver(tank) == ["critical_errors"]
        assert "may be incomplete: it has not answered" in webhook.received[0]["message"]
        clock.now += 4000
        critical(tank)
        assert look_and_deliver(tank) == ["critical_errors", "digest"]
        locker.rollback()
    monkeypatch.undo()
    clock.now += 4000
    critical(tank)
    asking = watch(tank)._facts._asking
    assert asking is not None
    asking.join()
    assert look_and_deliver(tank) == ["critical_errors"]
    assert "may be incomplete" not in webhook.received[3]["message"]


# -- who sends, and when


def test_two_engines_send_an_alert_and_a_digest_once(
    make_tank: MakeTank, webhook: Webhook, clock: Clock
):
    tanks = [
        make_tank(alert_urls=[webhook.url], clock=clock, alert_digest_hour=8) for _ in range(2)
    ]
    critical(tanks[0])
    start = threading.Barrier(2)

    def work(tank: Surgetank) -> None:
        start.wait()
        look_and_deliver(tank)

    threads = [threading.Thread(target=work, args=(tank,)) for tank in tanks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    watch(tanks[0]).deliver()  # what came up after the other had looked into the outbox
    assert sorted(webhook.titles()) == [
        "Surgetank: Critical error: reactor_hot", ("Surgetank: Digest of 2026-03-05: 1 errors, 1 "
        "unresolved"),
    ]  # fmt: skip


def test_workers_in_processes_of_their_own_send_each_alert_once(
    tank: Surgetank, webhook: Webhook, database_url: str
):
    environment = {
        **os.environ, "SURGETANK_HOME": str(tank.settings.home), "SURGETANK_DATABASE_URL": database_url,
        "SURGETANK_ALERT_URLS": webhook.url, "SURGETANK_ALERT_EVERY": "0.1",
    }  # fmt: skip
    command = [sys.executable, "-m", "surgetank", "worker"]
    workers = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    try:
        for worker in workers:
            assert worker.stderr is not None
            assert "flushes" in worker.stderr.readline()

        def arrived(n: int) -> bool:
            return len(webhook.received) > n

        for n in range(8):
            critical(tank, f"reactor_{n}")
            wait_until(partial(arrived, n), f"alert {n}")
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.communicate()
    assert webhook.titles() == [f"Surgetank: Critical error: reactor_{n}" for n in range(8)]


def test_the_digest_comes_once_a_day_at_its_hour_also_across_a_restart(
    make_tank: MakeTank, webhook: Webhook, clock: Clock
):
    settings: dict[str, Any] = {
        "alert_urls": [webhook.url],
        "clock": clock,
        "alert_digest_hour": 13,
    }
    tank = make_tank(**settings)
    tank.log_system_error("odd", "odd")
    assert look_and_deliver(tank) == []
    clock.now += 3600
    assert look_and_deliver(tank) == ["digest"]
    assert "odd: 1 in the last 24 hours, 1 unresolved" in webhook.received[0]["message"]
    tank.close()
    tank = make_tank(**settings)
    for _ in range(3):
        clock.now += 3600
        assert look_and_deliver(tank) == []
    clock.now += 20 * 3600
    assert look_and_deliver(tank) == []  # the next day, 12:00
    clock.now += 3600
    assert look_and_deliver(tank) == ["digest"]
    assert webhook.titles()[1] == "Surgetank: Digest of 2026-03-06: 0 errors, 1 unresolved"


def test_what_was_not_delivered_is_delivered_after_a_restart_and_not_alerted_again(
    make_tank: MakeTank, webhook: Webhook, clock: Clock
):
    tank = make_tank(alert_urls=[webhook.url], clock=clock)
    critical(tank)
    assert len(watch(tank).check()) == 1
    tank.close()
    tank = make_tank(alert_urls=[webhook.url], clock=clock)
    assert look_and_deliver(tank) == []
    assert webhook.titles() == ["Surgetank: Critical error: reactor_hot"]


def test_a_message_whose_sender_died_is_taken_over(
    make_tank: MakeTank, webhook: Webhook, clock: Clock
):
    dying, other = (make_tank(alert_urls=[webhook.url], clock=clock) for _ in range(2))
    critical(dying)
    watch(dying).check()
    held = watch(dying).book.take(webhook.name, hold_s=300)
    assert held is not None
    assert watch(other).deliver() == 0
    clock.now += 301
    assert watch(other).deliver() == 1
    watch(dying).book.record(held, "too late", retry_at=clock.now)
    assert watch(other).book.waiting() == {}


# -- channels that fail


def test_a_failing_channel_stops_no_other_is_seen_everywhere_and_retried(
    make_tank: MakeTank, webhook: Webhook, clock: Clock, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    with running_webhook() as broken:
        broken.status = 500
        tank = make_tank(alert_urls=[broken.url, webhook.url], clock=clock, alert_retry_base=2.0)
        critical(tank)
        look_and_deliver(tank)
        assert len(webhook.received) == 1
        assert (broken.asked, broken.received) == (1, [])
        (problem,) = tank.status().problems
        assert f"alert channel {broken.name} fails" in problem
        (told,) = [g for g in tank.errors.find().errors if g.error_type == "alert_delivery_failed"]
        assert broken.name in told.error_message
        assert "500" in told.error_message
        watch(tank).deliver()
        assert broken.asked == 1  # not before its time
        clock.now += 2.01
        watch(tank).deliver()
        assert broken.asked == 2
        broken.status = 200
        clock.now += 4.01
        watch(tank).deliver()
        assert broken.titles() == webhook.titles()
        attempts = watch(tank).book.attempts()
        assert [(a.channel, a.attempt, a.outcome) for a in attempts] == [
            (broken.name, 3, Outcome.DELIVERED), (broken.name, 2, Outcome.FAILED),
            (webhook.name, 1, Outcome.DELIVERED), (broken.name, 1, Outcome.FAILED),
        ]  # fmt: skip
        assert tank.status().problems == ()
        assert (
            len([g for g in tank.errors.find().errors if g.error_type == "alert_delivery_failed"])
            == 1
        )
        assert watch(tank).courier.counts() == {
            (broken.name, True): 1, (broken.name, False): 2, (webhook.name, True): 1,
        }  # fmt: skip
        shown = f"{attempts} {tank.status()} {tank.errors.find()} {caplog.text}"
        assert SECRET not in shown


def test_a_channel_that_nobody_listens_at_is_given_up_in_the_end(make_tank: MakeTank, clock: Clock):
    with running_webhook() as gone:
        url, name = gone.url, gone.name
    tank = make_tank(alert_urls=[url], clock=clock, alert_give_up_after=30, alert_retry_base=8)
    critical(tank)
    for _ in range(10):
        look_and_deliver(tank)
        clock.now += 10
    attempts = watch(tank).book.attempts()
    assert {a.outcome for a in attempts[1:]} == {Outcome.FAILED}
    assert attempts[0].outcome is Outcome.GAVE_UP
    assert watch(tank).book.waiting() == {}
    group = tank.errors.find().errors[0]
    assert (group.error_type, group.occurrences, group.severity) == (
        "alert_delivery_failed", 2, Severity.ERROR,
    )  # fmt: skip
    assert name in group.error_message
    assert SECRET not in str(attempts)


def test_a_url_that_apprise_does_not_know_is_a_failing_channel(make_tank: MakeTank, clock: Clock):
    tank = make_tank(alert_urls=[f"nosuchservice://{SECRET}"], clock=clock)
    ((name, error),) = watch(tank).test()
    assert name == "nosuchservice://***"
    assert error is not None
    assert "apprise can't use this URL" in error
    assert SECRET not in error


def test_a_channel_that_hangs_holds_up_neither_flushing_nor_closing(
    make_tank: MakeTank, webhook: Webhook
):
    webhook.open_.clear()
    tank = make_tank(
        alert_urls=[webhook.url], alert_every=0.05, flush_in_process=True, flush_age=0.05, flush_tick=0.05,
        shutdown_timeout=0.3,
    )  # fmt: skip
    critical(tank)
    wait_until(lambda: webhook.asked, "a delivery to begin")
    put_chain(tank.checkpointer(), "t", 5)
    wait_until(lambda: tank.parts.buffer.depth().entries == 0, "the flush")
    assert webhook.received == []
    tank.close()
    assert webhook.received == []


def test_an_engine_with_channels_and_without_apprise_names_the_extra(
    make_tank: MakeTank, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(MissingExtra, match=r"surgetank\[alerts\]"):
            make_tank(alert_urls=[webhook.url])
        critical(make_tank())
    assert look_and_deliver(make_tank(alert_urls=[webhook.url])) == ["critical_errors"]


def test_without_channels_nothing_is_looked_at(make_tank: MakeTank):
    tank = make_tank(flush_in_process=True, flush_tick=0.05)
    put_chain(tank.checkpointer(), "t", 2)
    wait_until(lambda: tank.jobs(status="completed"), "a flush")
    assert not any(thread.name == "surgetank-alerts" for thread in threading.enumerate())


# -- the book


@pytest.fixture
def book(tmp_path: Path, clock: Clock) -> Iterator[SQLiteAlertBook]:
    path = tmp_path / "events.db"
    SQLiteEventLog(path).close()  # a file from before there were alerts has no tables for them
    opened = SQLiteAlertBook(path, clock=clock)
    yield opened
    opened.close()


def compose(alerts: Any) -> list[Message]:
    return [Message(a.rule, a.severity, a.title, a.text) for a in alerts]


def test_log_and_outbox_are_bounded_and_what_is_dropped_is_told(
    book: SQLiteAlertBook, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sqlite_book, "MAX_LOG", 10)
    monkeypatch.setattr(sqlite_book, "MAX_CLAIMS", 20)
    monkeypatch.setattr(sqlite_book, "MAX_WAITING", 5)
    for n in range(30):
        clock.now += 1
        alert = Alert("r", str(n), Severity.ERROR, f"title {n}", "text")
        assert book.post([alert], ["c"], compose, throttle_s=60) == [alert]
    assert book.waiting() == {"c": 5}
    dropped = book.attempts()
    assert [a.title for a in dropped[:2]] == ["title 24", "title 23"]
    assert {a.outcome for a in dropped} == {Outcome.DROPPED}
    book.maintain()
    assert len(book.attempts()) == 10
    assert 20 <= len(book.sent()) <= 21
    clock.now += 3 * 86_400
    book.maintain()
    assert book.waiting() == {}
    assert {a.outcome for a in book.attempts()[:5]} == {Outcome.GAVE_UP}


def test_a_clock_that_is_set_back_neither_silences_nor_holds_back(
    book: SQLiteAlertBook, clock: Clock
):
    alert = Alert("r", "s", Severity.ERROR, "title", "text")
    assert book.post([alert], ["c"], compose, throttle_s=60)
    clock.now -= 10 * 86_400
    assert book.take("c", hold_s=300) is not None
    assert book.post([alert], ["c"], compose, throttle_s=60)


# -- the command line


def test_the_command_line_tests_lists_and_logs(
    tank: Surgetank, webhook: Webhook, database_url: str
):
    environment = {
        **os.environ, "SURGETANK_HOME": tank.settings.home, "SURGETANK_DATABASE_URL": database_url,
        "SURGETANK_ALERT_URLS": webhook.url,
    }  # fmt: skip

    def cli(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        done = run_command(
            ("alerts", *arguments),
            {name: str(value) for name, value in {**environment, **more}.items()},
        )
        assert SECRET not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    tested = cli("test")
    assert (tested.returncode, tested.stdout) == (0, f"ok      {webhook.name}\n")
    assert webhook.titles() == ["Surgetank: test of the alerts"]
    webhook.status = 403
    tested = cli("test", "--json")
    assert tested.returncode == 1
    (row,) = json.loads(tested.stdout)
    assert (row["channel"], row["ok"]) == (webhook.name, False)
    assert "403" in row["error"]
    nowhere = cli("test", SURGETANK_ALERT_URLS="")
    assert nowhere.returncode == 2
    assert "SURGETANK_ALERT_URLS" in nowhere.stderr
    log = json.loads(cli("log", "--json").stdout)
    assert [(a["rule"], a["ok"]) for a in log] == [("test", False), ("test", True)]
    assert "403" in cli("log").stdout
    listed = cli("list")
    assert listed.returncode == 1
    assert f"channel  {webhook.name}: fails" in listed.stdout
    webhook.status = 200
    watch(tank).book.note(webhook.name, Message("test", Severity.INFO, "t", "b"), None)
    assert cli("list").returncode == 0
    critical(tank)
    listed = cli("list", "--json")
    assert listed.returncode == 1
    rules = {rule["rule"]: rule for rule in json.loads(listed.stdout)["rules"]}
    assert set(rules) == {
        "critical_errors", "failing_partitions", "filling_buffer", "thread_errors", "digest",
    }  # fmt: skip
    assert len(rules["critical_errors"]["alerts"]) == 1
    assert len(webhook.received) == 1, "listing sends nothing"
