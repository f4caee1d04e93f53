"""The receipt: when it returns, the database has all of the thread that was accepted; else it says
what hinders."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from typing import Any

import psycopg
import pytest

from support.commands import run_command
from support.postgres import PostgresServer
from support.savers import put, put_chain
from surgetank import NotSaved, Surgetank
from surgetank.app.receipts import Arrivals
from surgetank.database.migrate import migrate
from surgetank.database.pool import Database


def stored(url: str, thread: str) -> tuple[int, int]:
    """Checkpoints and log lines of a thread in the database."""
    with psycopg.connect(url) as connection:
        checkpoints = connection.execute(
            "SELECT count(*) FROM surgetank.checkpoint_history WHERE thread_id = %s", (thread,)
        ).fetchone()
        lines = connection.execute(
            "SELECT count(*) FROM surgetank.thread_logs WHERE thread_id = %s", (thread,)
        ).fetchone()
    assert checkpoints is not None
    assert lines is not None
    return checkpoints[0], lines[0]


def test_when_it_returns_state_and_log_are_in_the_database(make_tank, database_url):
    tank = make_tank(flush_in_process=True, flush_age=3600.0)
    put_chain(tank.checkpointer(), "t", 5)
    tank.emit_log("a line", thread_id="t")
    put(tank.checkpointer(), "other", {"n": 1})
    tank.wait_saved("t", timeout=30)
    assert stored(database_url, "t") == (5, 1)
    tank.wait_saved("t", timeout=0)  # nothing waits
    tank.wait_saved("never seen", timeout=0)


def test_of_many_threads_it_is_told_together_and_of_each_moment_of_its_own(make_tank):
    tank = make_tank()
    arrivals = Arrivals(tank.parts)
    put(tank.checkpointer(), "t", {"n": 1})
    tank.emit_log("a line", thread_id="u")
    first, other, never = (arrivals.accepted(name) for name in ("t", "u", "never seen"))
    assert arrivals.arrived([first, other, never]) == [False, False, True]
    assert tank.flush().ok
    put(tank.checkpointer(), "t", {"n": 2})
    later = arrivals.accepted("t")
    assert arrivals.arrived([first, later, other]) == [True, False, True]


async def test_its_twin_lets_the_loop_go_on(make_tank, database_url):
    tank = make_tank()
    put(tank.checkpointer(), "t", {"n": 1})
    waiting = asyncio.ensure_future(tank.await_saved("t", timeout=30))
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done  # nobody flushes yet
    assert (await asyncio.to_thread(tank.flush)).ok
    await asyncio.wait_for(waiting, 20)
    assert stored(database_url, "t") == (1, 0)


def test_it_waits_for_another_process_that_flushes(make_tank, database_url):
    tank = make_tank()
    put(tank.checkpointer(), "t", {"n": 1})
    worker = make_tank(flush_in_process=True, flush_age=0.0)
    assert worker.parts.scheduler.running
    tank.wait_saved("t", timeout=30)
    assert stored(database_url, "t") == (1, 0)


def test_what_is_accepted_afterwards_is_not_waited_for(make_tank):
    tank = make_tank()
    saver = tank.checkpointer()
    put(saver, "t", {"n": 1})
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            put(saver, "t", {"n": 2})
            time.sleep(0.001)

    writer = threading.Thread(target=go_on)
    flusher = make_tank(flush_in_process=True, flush_age=0.0)
    writer.start()
    try:
        tank.wait_saved("t", timeout=30)
    finally:
        stop.set()
        writer.join()
    assert flusher.parts.scheduler.running


def test_without_anybody_who_flushes_it_says_so(tank: Surgetank):
    put(tank.checkpointer(), "t", {"n": 1})
    with pytest.raises(NotSaved) as caught:
        tank.wait_saved("t", timeout=0.05)
    assert caught.value.waiting == 1
    assert "no worker" in str(caught.value)
    assert "surgetank worker" in caught.value.remedy


def test_a_parked_entry_is_told_at_once_by_its_id(tank: Surgetank, database_url):
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "ALTER TABLE surgetank.checkpoints ADD CONSTRAINT refuse CHECK (metadata ->> 'step' <> "
            "'1')"
        )
    put_chain(tank.checkpointer(), "t", 3)
    tank.flush()
    (entry,) = tank.parked()
    with pytest.raises(NotSaved) as caught:
        tank.wait_saved("t", timeout=3600)
    assert caught.value.parked == (entry.id,)
    assert caught.value.failure == entry.failure
    assert f"surgetank parked show {entry.id}" in caught.value.remedy


def test_a_database_that_is_away_is_named_with_its_reason(
    make_tank, private_postgres: PostgresServer
):
    name = private_postgres.create_database()
    url = private_postgres.url_of(name)
    database = Database(url)
    migrate(database)
    database.close()
    tank = make_tank(database_url=url, flush_in_process=True, flush_age=0.0)
    private_postgres.stop()
    put(tank.checkpointer(), "t", {"n": 1})
    tank.flush()
    with pytest.raises(NotSaved) as caught:
        tank.wait_saved("t", timeout=0.3)
    assert caught.value.failure is not None
    assert caught.value.since is not None
    assert "since 20" in str(caught.value)
    private_postgres.start()
    tank.wait_saved("t", timeout=60)
    assert stored(url, "t")[0] == 1


def cli(tank: Surgetank, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert tank.settings.database_url is not None
    import os

    environment = {
        **os.environ, "SURGETANK_HOME": str(tank.settings.home),
        "SURGETANK_DATABASE_URL": tank.settings.database_url.get_secret_value(),
    }  # fmt: skip
    return run_command(arguments, environment)


def test_the_exit_code_of_a_threads_flush_is_its_receipt(tank: Surgetank, database_url):
    put_chain(tank.checkpointer(), "t", 3)
    tank.emit_log("a line", thread_id="t")
    done = cli(tank, "flush", "--thread", "t")
    assert done.returncode == 0, done.stderr
    assert stored(database_url, "t") == (3, 1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "ALTER TABLE surgetank.checkpoints ADD CONSTRAINT refuse CHECK (metadata ->> 'step' <> "
            "'9')"
        )
    put(tank.checkpointer(), "t", {"n": 1}, step=9)
    assert cli(tank, "flush", "t", "--json").returncode == 1
    again = cli(tank, "flush", "--thread", "t", "--json")  # nothing waits now, but not all is saved
    assert again.returncode == 1
    answer: dict[str, Any] = json.loads(again.stdout)
    assert "parked" in answer["not_saved"]["what"]
