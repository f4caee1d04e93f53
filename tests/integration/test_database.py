"""Connections to PostgreSQL: fast and clear failures, healing by themselves, PgBouncer in
between."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from support.postgres import PASSWORD, PASSWORD_ROLE, PostgresServer
from support.waiting import wait_until
from surgetank.database.migrate import MigratedDatabase, migrate
from surgetank.database.pool import Database, redact_url
from surgetank.exceptions import ConfigurationError, DatabaseRefused, DatabaseUnavailable


@pytest.fixture
def database(fresh_database: str) -> Iterator[Database]:
    database = Database(fresh_database)
    yield database
    database.close()


def backend_pid(database: Database) -> int:
    with database.connection() as connection:
        return connection.info.backend_pid


# -- a database that can't be reached


def test_a_refused_connection_is_told_at_once_with_cause_and_remedy_and_without_the_password() -> (
    None
):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can have the port
        database = Database(f"postgresql://ann:s3cret@127.0.0.1:{taken.getsockname()[1]}/app")
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="refused") as caught, database.connection():
            pass
    assert time.monotonic() - started < 0.5
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert "ann@127.0.0.1" in str(caught.value)
    assert "s3cret" not in repr(caught.value) + repr(caught.value.__cause__)
    assert caught.value.remedy


def test_a_missing_socket_is_told_at_once(tmp_path: Path) -> None:
    with (
        pytest.raises(DatabaseUnavailable, match="No such file"),
        Database(f"host={tmp_path}").connection(),
    ):
        pass


def test_an_unknown_host_is_told() -> None:
    database = Database("postgresql://nowhere.invalid/app")
    with pytest.raises(DatabaseUnavailable, match=r"nowhere\.invalid"), database.connection():
        pass


def test_a_server_that_accepts_and_never_answers_is_given_up_when_the_time_is_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = Database(f"host=127.0.0.1 port={silent.getsockname()[1]}", connect_timeout_s=2)
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="timeout"), database.connection():
            pass
    assert time.monotonic() - started < 3.5


# -- a database that must not be used like that


@pytest.mark.parametrize(
    "url",
    [
        "",
        "  ",
        "postgresql://ann:s3cret@h:port:5/x",
        "postgresql://ann:t@s3cret@h/x",
        "mysql://ann:s3cret@h/x",
        "s3cret",
    ],
)
def test_an_unusable_url_is_refused_when_it_is_given(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Database(url)
    assert caught.value.remedy
    shown: BaseException | None = caught.value
    while shown is not None:
        assert "s3cret" not in str(shown)
        shown = shown.__cause__


def test_a_url_is_shown_without_its_password() -> None:
    assert (
        redact_url("postgresql://ann:s3cret@db:6432/app?sslmode=require")
        == "postgresql://ann@db:6432/app"
    )
    assert redact_url("host=db user=ann password=s3cret dbname=app") == "postgresql://ann@db/app"


@pytest.mark.parametrize(
    ("user", "password", "name", "words"),
    [
        (PASSWORD_ROLE, "wrong", "postgres", "password authentication failed"),
        (PASSWORD_ROLE, "", "postgres", "no password supplied"),
        ("nobody_here", "", "postgres", "nobody_here"),
        ("postgres", "", "no_such_database", "does not exist"),
    ],
)
def test_a_wrong_login_is_a_refusal(
    postgres_server: PostgresServer, user: str, password: str, name: str, words: str
) -> None:
    database = Database(postgres_server.url_of(name, user=user, password=password))
    with pytest.raises(DatabaseRefused, match=words) as caught:
        database.ping()
    assert caught.value.remedy
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


def test_the_right_password_is_let_in(postgres_server: PostgresServer) -> None:
    database = Database(postgres_server.url_of("postgres", user=PASSWORD_ROLE, password=PASSWORD))
    assert database.ping().startswith("PostgreSQL ")
    database.close()


def test_a_server_that_is_too_old_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgetank.database.pool.OLDEST_SERVER", 99)
    with pytest.raises(DatabaseRefused, match="too old"):
        database.ping()


# -- transactions and the pool


def test_a_block_is_one_transaction_kept_on_success_and_undone_on_an_error(
    database: Database,
) -> None:
    with database.connection() as connection:
        connection.execute("CREATE TABLE t (n int)")
    first = backend_pid(database)

    def insert_and_fail() -> None:
        with database.connection() as connection:
            connection.execute("INSERT INTO t VALUES (1)")
            connection.execute("SELECT 1 / 0")

    def insert_and_be_interrupted() -> None:
        with database.connection() as connection:
            connection.execute("INSERT INTO t VALUES (2)")
            raise KeyboardInterrupt

    with pytest.raises(psycopg.errors.DivisionByZero):
        insert_and_fail()
    with pytest.raises(KeyboardInterrupt):
        insert_and_be_interrupted()
    with database.connection() as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    assert backend_pid(database) == first, "a failed statement needs no new connection"


def test_a_connection_left_in_the_middle_of_something_is_not_used_again(database: Database) -> None:
    def break_off() -> None:
        with database.connection() as connection:
            connection.pgconn.send_query(b"SELECT pg_sleep(60)")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert database.ping()


def test_more_threads_than_connections_take_turns(fresh_database: str) -> None:
    database = Database(fresh_database, max_size=2)
    with ThreadPoolExecutor(16) as threads:
        pids = set(threads.map(lambda _: backend_pid(database), range(200)))
    assert len(pids) <= 2
    database.close()


def test_waiting_for_a_busy_pool_ends_with_a_clear_error(fresh_database: str) -> None:
    database = Database(fresh_database, max_size=1, connect_timeout_s=0.2)
    with (
        database.connection(),
        pytest.raises(DatabaseUnavailable, match="busy"),
        database.connection(),
    ):
        pass
    database.close()


def test_the_pool_reuses_connections_in_a_process_with_thousands_of_open_files(
    fresh_database: str,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("this system allows fewer than 2048 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    try:
        with ExitStack() as files:
            for _ in range(1100):
                files.enter_context(Path(os.devnull).open("rb"))
            database = Database(fresh_database)
            assert backend_pid(database) == backend_pid(database)
            database.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_close_is_quick_can_be_repeated_and_ends_use(
    database: Database, postgres_server: PostgresServer
) -> None:
    with database.connection() as connection:
        pid = connection.info.backend_pid
        database.close()
        assert connection.execute("SELECT 1").fetchone() == (1,), "who is at work may finish"
    database.close()
    with pytest.raises(DatabaseUnavailable, match="closed"), database.connection():
        pass
    wait_until(lambda: not backend_lives(postgres_server, pid), "the connection to be gone")


def backend_lives(server: PostgresServer, pid: int) -> bool:
    with server.admin() as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", (pid,)
        ).fetchone()
    return row != (0,)


# -- healing


def test_a_connection_killed_while_idle_is_replaced_unseen(
    database: Database, postgres_server: PostgresServer
) -> None:
    killed = backend_pid(database)
    terminate(postgres_server, killed)
    assert backend_pid(database) != killed


def test_a_connection_killed_at_work_fails_that_block_only(
    database: Database, postgres_server: PostgresServer
) -> None:
    def be_killed_at_work() -> None:
        with database.connection() as connection:
            terminate(postgres_server, connection.info.backend_pid)
            connection.execute("SELECT 1")

    with pytest.raises(DatabaseUnavailable, match="broke") as caught:
        be_killed_at_work()
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert database.ping()


def terminate(server: PostgresServer, pid: int) -> None:
    with server.admin() as connection:
        assert connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,)).fetchone() == (
            True,
        )


def test_a_pool_lives_through_stops_and_crashes_of_the_server(
    private_postgres: PostgresServer,
) -> None:
    database = Database(private_postgres.url)
    for end in (private_postgres.stop, private_postgres.kill):
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: database.ping(), range(8)))
        end()
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            database.ping()
        assert time.monotonic() - started < 0.5
        private_postgres.start()
        assert database.ping()
    database.close()


def test_a_pool_made_while_the_database_is_down_works_when_it_is_up(
    private_postgres: PostgresServer,
) -> None:
    private_postgres.stop()
    database = MigratedDatabase(private_postgres.url)
    with pytest.raises(DatabaseUnavailable):
        database.ping()
    private_postgres.start()
    assert database.ping()
    database.close()


def test_threads_that_meet_a_silent_server_wait_side_by_side() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = MigratedDatabase(
            f"host=127.0.0.1 port={silent.getsockname()[1]}", connect_timeout_s=2
        )
        started = time.monotonic()
        with ThreadPoolExecutor(6) as threads:
            for answer in [threads.submit(database.ping) for _ in range(6)]:
                assert isinstance(answer.exception(), DatabaseUnavailable)
    assert time.monotonic() - started < 3.5


# -- PgBouncer in transaction mode


def test_everything_works_through_pgbouncer_in_transaction_mode(pgbouncer: str) -> None:
    database = Database(pgbouncer, max_size=8)
    assert database.ping()
    assert migrate(database)
    assert migrate(database) == []
    with database.connection() as connection:
        connection.execute("CREATE TABLE surgetank.t (n int)")

    def work(number: int) -> None:
        for step in range(20):
            with database.connection() as connection:
                connection.execute("INSERT INTO surgetank.t VALUES (%s)", (number * 100 + step,))

    with ThreadPoolExecutor(8) as threads:  # more than PgBouncer's two server connections
        list(threads.map(work, range(8)))
    with database.connection() as connection:
        assert connection.execute("SELECT count(DISTINCT n) FROM surgetank.t").fetchone() == (160,)
    database.close()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_text_is_refused(
    postgres_server: PostgresServer, encoding: str
) -> None:
    name = f"t_{encoding.lower()}"
    with postgres_server.admin() as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE "
            f"template0"
        )
    try:
        database = Database(postgres_server.url_of(name))
        with pytest.raises(DatabaseRefused, match=f"encoding {encoding}") as refused:
            database.ping()
        assert "UTF8" in refused.value.remedy
        database.close()
    finally:
        postgres_server.drop_database(name)


def test_the_encoding_of_the_environment_does_not_matter(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    database = Database(postgres_url)
    with database.connection() as connection:
        assert connection.execute("SELECT %s::text", ["日本"]).fetchone() == ("日本",)
    database.close()
