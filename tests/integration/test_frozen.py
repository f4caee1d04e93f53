"""A server that is frozen (SIGSTOP): it takes connections and says nothing. Nobody waits for it
beyond a deadline."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.graphs import agent
from support.postgres import PostgresServer
from support.savers import config, put, put_chain
from support.waiting import wait_until
from surgetank import ColdStateUnavailable, DatabaseUnavailable, Surgetank
from surgetank.database import collector
from surgetank.database.migrate import MigratedDatabase
from surgetank.database.pool import Database
from surgetank.model import FailureKind
from surgetank.streams.checkpoints.envelope import STREAM

QUICK: dict[str, Any] = {"connect_timeout": 2.0, "read_timeout": 1.0, "statement_timeout": 1.0}
BOUND_S = 8.0  # deadline, cancel and connection one after the other are 5 s; the rest is for a busy machine


@pytest.fixture
def database(private_postgres: PostgresServer) -> Iterator[Database]:
    database = Database(
        private_postgres.url,
        max_size=2,
        connect_timeout_s=2,
        statement_timeout_s=1,
        read_timeout_s=1,
    )
    yield database
    database.close()


def seconds(call: Any, *arguments: Any) -> tuple[float, BaseException | None]:
    """How long it took, and what it raised."""
    started, error = time.monotonic(), None
    try:
        call(*arguments)
    except Exception as raised:
        error = raised
    return time.monotonic() - started, error


# -- the pool


def test_a_statement_a_copy_and_a_commit_are_given_up(
    database: Database, private_postgres: PostgresServer
) -> None:
    with database.connection() as connection:
        connection.execute("CREATE TABLE t (v text)")

    def statement() -> None:
        with database.connection() as connection, private_postgres.frozen():
            connection.execute("SELECT 1")

    def copy() -> None:
        with (
            database.connection() as connection,
            private_postgres.frozen(),
            connection.cursor().copy("COPY t FROM STDIN") as copy,
        ):
            for _ in range(200):
                copy.write(b"x" * 100_000 + b"\n")

    def commit() -> None:
        with database.connection() as connection:
            connection.execute("INSERT INTO t VALUES ('x')")
            frozen.__enter__()

    for work in (statement, copy):
        took, error = seconds(work)
        assert isinstance(error, DatabaseUnavailable), work
        assert "no answer within" in str(error)
        assert took < BOUND_S, work
    frozen = private_postgres.frozen()
    try:
        took, error = seconds(commit)
        assert isinstance(error, DatabaseUnavailable)
        assert took < BOUND_S
    finally:
        frozen.__exit__(None, None, None)
    assert database.ping()


def test_the_collector_of_the_host_runs_while_a_flush_waits(
    database: Database, private_postgres: PostgresServer
) -> None:
    seen = []

    def write() -> None:
        with collector.held_back(), database.connection() as connection:
            started.set()
            connection.execute("SELECT pg_sleep(0.5)")

    started = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(write)
        assert started.wait(30)
        while not done.done():
            seen.append(gc.isenabled())
            time.sleep(0.01)
    done.result()
    assert seen.count(False) < len(seen) / 4


def test_a_query_that_takes_too_long_is_cancelled_and_is_no_outage(
    database: Database, private_postgres: PostgresServer
) -> None:
    with pytest.raises(psycopg.errors.QueryCanceled), database.connection() as connection:
        connection.execute("SELECT pg_sleep(30)")
    with (
        pytest.raises(DatabaseUnavailable, match="no answer within"),
        database.reading() as connection,
    ):
        connection.execute("SELECT pg_sleep(30)")
    assert not database.is_known_away
    with private_postgres.admin() as admin:
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND state = 'active'"
        wait_until(
            lambda: admin.execute(running).fetchone() == (1,),
            "the server to stop working for nobody",
        )


def test_readers_do_not_wait_one_after_the_other_and_notice_when_it_is_back(
    database: Database, private_postgres: PostgresServer
) -> None:
    def read() -> None:
        with database.reading() as connection:
            connection.execute("SELECT 1")

    read()
    with private_postgres.frozen():
        with ThreadPoolExecutor(8) as threads:  # four times as many as there are connections
            answers = list(threads.map(lambda _: seconds(read), range(8)))
        assert all(isinstance(error, DatabaseUnavailable) for _, error in answers)
        assert max(took for took, _ in answers) < BOUND_S
        assert database.is_known_away
        for _ in range(50):
            took, error = seconds(read)
            assert isinstance(error, DatabaseUnavailable)
            assert took < 0.5, "it is known to be away"
    wait_until(lambda: not database.is_known_away, "the database to be found again")
    read()


def test_the_deadlines_go_with_each_transaction_through_pgbouncer(pgbouncer: str) -> None:
    database = MigratedDatabase(pgbouncer, statement_timeout_s=7, read_timeout_s=3)
    for manager, expected in ((database.connection, "7s"), (database.asking, "3s")):
        with manager() as connection:
            assert connection.execute("SHOW statement_timeout").fetchone() == (expected,)
            assert connection.execute("SHOW lock_timeout").fetchone() == (expected,)
    with database.reading() as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("0",), (
            "nothing stays on the server's side"
        )
    database.close()


def test_what_hangs_is_ended_at_once_when_the_pool_is_interrupted(
    private_postgres: PostgresServer,
) -> None:
    database = Database(private_postgres.url)  # deadlines of half a minute

    def sleep() -> None:
        with database.connection() as connection:
            connection.execute("SELECT pg_sleep(60)")

    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(seconds, sleep)
        with private_postgres.admin() as admin:
            busy = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"
            wait_until(lambda: admin.execute(busy).fetchone() == (1,), "the statement to run")
        database.interrupt()
        took, error = waiting.result(timeout=10)
    assert isinstance(error, DatabaseUnavailable)
    assert took < 15


# -- the engine


@pytest.fixture
def frozen_tank(
    tmp_path: Path, private_postgres: PostgresServer, request: pytest.FixtureRequest
) -> Iterator[Surgetank]:
    """An engine with a cold thread, whose database freezes as long as the test lasts."""
    copies: dict[str, Any] = (
        {} if getattr(request, "param", None) == "with copies" else {"recent_max_bytes": 0}
    )
    tank = Surgetank(
        tmp_path / "home",
        database_url=private_postgres.url,
        flush_in_process=False,
        shutdown_timeout=2.0,
        **copies,
        **QUICK,
    )
    with tank:
        put_chain(tank.checkpointer(), "cold", 3)
        assert tank.flush().ok
        with private_postgres.frozen():
            yield tank


def test_a_running_graph_and_a_new_one_go_on_within_seconds(frozen_tank: Surgetank) -> None:
    graph = agent(frozen_tank.checkpointer())
    for thread in ("new 1", "new 2", "new 3"):
        took, error = seconds(graph.invoke, {"messages": [("user", "hi")]}, config(thread))
        assert error is None
        assert took < 2 * BOUND_S if thread == "new 1" else took < BOUND_S


def test_a_cold_thread_is_refused_with_the_reason_and_then_at_once(frozen_tank: Surgetank) -> None:
    saver = frozen_tank.checkpointer()
    took, error = seconds(saver.get_tuple, config("cold"))
    assert isinstance(error, ColdStateUnavailable)
    assert took < BOUND_S
    took, error = seconds(saver.get_tuple, config("cold"))
    assert isinstance(error, ColdStateUnavailable)
    assert took < 0.5


@pytest.mark.parametrize("frozen_tank", ["with copies"], indirect=True)
def test_a_recently_used_thread_goes_on_within_seconds(frozen_tank: Surgetank) -> None:
    saver = frozen_tank.checkpointer()
    for bound in (BOUND_S, 1.0):
        started = time.monotonic()
        assert saver.get_tuple(config("cold")) is not None
        assert time.monotonic() - started < bound


def test_a_flush_runs_into_its_deadline_as_a_transient_failure_that_is_told(
    frozen_tank: Surgetank,
) -> None:
    put(frozen_tank.checkpointer(), "waits", {"n": 1})
    took, _ = seconds(lambda: frozen_tank.flush(STREAM))
    assert took < BOUND_S
    (state,) = frozen_tank.parts.buffer.states(STREAM, failing=True)
    assert state.failure is not None
    assert state.failure.kind is FailureKind.TRANSIENT
    (banner,) = frozen_tank.incidents("waits")
    assert "Saving is delayed" in banner.message


def test_closing_ends_in_time_and_what_is_left_stays(
    tmp_path: Path, private_postgres: PostgresServer
) -> None:
    """The deadlines are far: it is the time for closing that ends it."""
    settings: dict[str, Any] = {"database_url": private_postgres.url, "shutdown_timeout": 2.0}
    tank = Surgetank(tmp_path / "home", **settings).open()
    put(tank.checkpointer(), "saved", {"n": 1})
    assert tank.flush().ok
    with private_postgres.frozen():
        put(tank.checkpointer(), "left", {"n": 1})
        took, error = seconds(tank.close)
        assert error is None
        assert took < 2.0 + 1.0 + 1.0, "shutdown_timeout, one second, and one for a busy machine"
    with Surgetank(tmp_path / "home", **settings) as again:
        assert again.flush().ok
        assert again.checkpointer().get_tuple(config("left")) is not None
