"""A database that answers and refuses: for whoever uses the saver an outage like any other, for
operators critical."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from support.graphs import agent
from support.postgres import PASSWORD, PASSWORD_ROLE, PostgresServer
from support.savers import config, put, put_chain
from support.tanks import MakeTank
from surgetank import ColdStateUnavailable, ConfigurationError, DatabaseUnavailable, Surgetank
from surgetank.database.password import Called, InFile, OfCommand, PasswordSource
from surgetank.database.pool import Database
from surgetank.exceptions import DatabaseRefused, SchemaTooNew
from surgetank.model import FailureKind
from surgetank.streams.checkpoints.envelope import STREAM

Refuse = Callable[[psycopg.Connection[Any]], None]


def newer_schema(admin: psycopg.Connection[Any]) -> None:
    admin.execute("INSERT INTO surgetank.schema_migrations VALUES (9999, 'of the future', 'x')")


def missing_right(admin: psycopg.Connection[Any]) -> None:
    admin.execute("REVOKE USAGE ON SCHEMA surgetank FROM limited")


def missing_table(admin: psycopg.Connection[Any]) -> None:
    admin.execute("ALTER TABLE surgetank.checkpoints RENAME TO gone")


def missing_role(admin: psycopg.Connection[Any]) -> None:
    admin.execute("ALTER ROLE limited NOLOGIN")


REFUSALS = [newer_schema, missing_right, missing_table, missing_role]


@pytest.fixture
def limited_url(postgres_server: PostgresServer, database_url: str) -> Any:
    """The test's database for a role that has just the rights it needs."""
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("CREATE ROLE limited LOGIN")
        admin.execute("GRANT USAGE ON SCHEMA surgetank TO limited")
        admin.execute("GRANT ALL ON ALL TABLES IN SCHEMA surgetank TO limited")
        admin.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA surgetank TO limited")
        yield database_url.replace("postgres@", "limited@")
        admin.execute("DROP OWNED BY limited CASCADE")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'limited'"
        )
        admin.execute("DROP ROLE limited")


@pytest.mark.parametrize("refuse", REFUSALS)
def test_a_refusal_is_an_outage_for_the_caller_and_critical_for_the_operator(
    make_tank: MakeTank, database_url: str, limited_url: str, refuse: Refuse
) -> None:
    put_chain(make_tank(database_url=limited_url, recent_max_bytes=0).checkpointer(), "cold", 2)
    with psycopg.connect(database_url, autocommit=True) as admin:
        before = make_tank(database_url=limited_url, recent_max_bytes=0)
        assert before.flush().ok
        refuse(admin)
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'limited'"
        )
    # What a rolling upgrade does: a process that starts beside a database that refuses it.
    tank = make_tank(database_url=limited_url, recent_max_bytes=0)
    graph = agent(tank.checkpointer())
    assert graph.invoke({"messages": [("user", "hi")]}, config("new"))["steps"] == 4
    with pytest.raises(ColdStateUnavailable):
        tank.checkpointer().get_tuple(config("cold"))
    tank.flush(STREAM)
    (state,) = tank.parts.buffer.states(STREAM, failing=True)
    assert state.failure is not None
    assert state.failure.kind is FailureKind.FATAL
    (incident,) = tank.incidents("new")
    assert incident.severity == "critical"
    assert tank.parked() == []
    assert graph.invoke(None, config("new")) is not None


@pytest.mark.parametrize("refuse", REFUSALS)
def test_no_error_of_the_driver_reaches_a_caller(
    make_tank: MakeTank, database_url: str, limited_url: str, refuse: Refuse
) -> None:
    tank = make_tank(database_url=limited_url, recent_max_bytes=0)
    put_chain(tank.checkpointer(), "cold", 2)
    assert tank.flush().ok
    with psycopg.connect(database_url, autocommit=True) as admin:
        refuse(admin)
    saver = tank.checkpointer()
    calls: list[Callable[[], object]] = [
        lambda: saver.get_tuple(config("cold")),
        lambda: list(saver.list(config("cold"))),
        lambda: list(saver.list(None)),
        lambda: saver.prune(["cold"]),
        lambda: saver.copy_thread("cold", "copy"),
        lambda: saver.delete_for_runs(["run"]),
        lambda: saver.delete_thread("cold"),
        lambda: tank.logs("cold"),
        tank.errors.find,
        tank.errors.counts,
        tank.storage,
        lambda: tank.retain(keep=1),
        lambda: tank.delete_idle_threads(1.0),
        lambda: tank.status(ping=True),
        tank.flush,
        tank.parts.database.prepare,
        tank.parts.database.ping,
        tank.parts.reporting.alerts.states,
    ]
    for call in calls:
        with suppress(DatabaseUnavailable, ColdStateUnavailable):
            call()


def test_a_schema_that_is_too_new_is_told_by_name(make_tank: MakeTank, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as admin:
        newer_schema(admin)
    with pytest.raises(SchemaTooNew, match="9999"):
        make_tank().parts.database.ping()


# -- standbys and failover


def test_a_database_that_is_read_only_for_a_while_costs_waiting_only(
    make_tank: MakeTank, postgres_server: PostgresServer, database_url: str
) -> None:
    tank = make_tank()
    saver = tank.checkpointer()
    put(saver, "a", {"n": 1})
    assert tank.flush().ok
    name = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]))
    with postgres_server.admin() as admin:
        admin.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name)
        )
    tank.parts.database.reset()
    put(saver, "b", {"n": 1})
    tank.flush(STREAM)
    (state,) = tank.parts.buffer.states(STREAM, failing=True)
    assert state.failure is not None
    assert (state.failure.kind, state.failure.sqlstate) == (FailureKind.TRANSIENT, "25006")
    assert saver.get_tuple(config("a")) is not None, "a standby can be read"
    with postgres_server.admin() as admin:
        admin.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
    tank.flush(STREAM)  # on the reader's connection, which is still one to the standby
    assert tank.flush(STREAM).ok, "the pool has let go of its connections to the standby by itself"


def test_of_several_hosts_the_one_that_can_be_written_is_found_after_a_failover(
    postgres_server: PostgresServer, private_postgres: PostgresServer
) -> None:
    hosts = f"host={private_postgres.folder},{postgres_server.folder} user=postgres dbname=postgres"
    database = Database(f"{hosts} target_session_attrs=read-write")

    def where() -> str:
        with database.connection() as connection:
            connection.execute("CREATE TEMP TABLE t (n int) ON COMMIT DROP")
            return str(connection.execute("SHOW data_directory").fetchone())

    assert str(private_postgres.data) in where()
    with private_postgres.admin() as admin:
        admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        admin.execute("SELECT pg_reload_conf()")

    def write_until_it_is_refused() -> None:
        while True:  # the reload takes a moment to reach the connection
            where()

    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        write_until_it_is_refused()
    assert str(postgres_server.data) in where()
    private_postgres.stop()
    assert str(postgres_server.data) in where()
    database.close()


# -- passwords that change


def rotate(server: PostgresServer, password: str) -> None:
    with server.admin() as admin:
        admin.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(PASSWORD_ROLE), password)
        )
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s",
            (PASSWORD_ROLE,),
        )


@pytest.mark.parametrize("kind", ["callable", "file", "command"])
def test_a_password_that_is_rotated_while_it_runs_is_asked_for_again(
    private_postgres: PostgresServer, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    program = f"import pathlib; print(pathlib.Path({str(file)!r}).read_text().strip())"
    sources: dict[str, PasswordSource] = {
        "callable": Called(lambda: file.read_text().strip()),
        "file": InFile(file),
        "command": OfCommand(shlex.join([sys.executable, "-c", program])),
    }
    source = sources[kind]
    database = Database(private_postgres.url_of("postgres", user=PASSWORD_ROLE), password=source)
    assert database.ping()
    rotate(private_postgres, "tr0ub4dor")
    file.write_text("tr0ub4dor")
    assert database.ping()
    file.write_text("wrong")
    rotate(private_postgres, "again another one")
    with pytest.raises(DatabaseRefused, match="refused the user") as refused:
        database.ping()
    assert "tr0ub4dor" not in str(refused.value)
    file.write_text("again another one")
    assert database.ping()
    database.close()


def test_an_engine_takes_its_password_from_a_callable_or_a_setting(
    private_postgres: PostgresServer, tmp_path: Path
) -> None:
    with private_postgres.admin() as admin:
        admin.execute(
            sql.SQL("GRANT CREATE ON DATABASE postgres TO {}").format(sql.Identifier(PASSWORD_ROLE))
        )
    url = private_postgres.url_of("postgres", user=PASSWORD_ROLE)
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    ways: list[dict[str, Any]] = [
        {"database_password": lambda: PASSWORD}, {"database_password_file": file},
    ]  # fmt: skip
    for number, options in enumerate(ways):
        with Surgetank(
            tmp_path / f"home {number}", database_url=url, flush_in_process=False, **options
        ) as tank:
            put(tank.checkpointer(), f"t{number}", {"n": 1})
            assert tank.flush().ok
    with pytest.raises(ConfigurationError, match="more than one way"):
        Surgetank(
            tmp_path / "x", database_url=url, database_password=str, database_password_file=file
        ).open()


@pytest.mark.parametrize(
    "source",
    [
        Called(lambda: str(1 / 0)),
        InFile(Path("/nowhere")),
        OfCommand("false"),
        OfCommand("no-such-program"),
    ],
)
def test_a_source_that_gives_no_password_says_so_and_no_more(
    source: Any, postgres_server: PostgresServer
) -> None:
    database = Database(postgres_server.url_of("postgres", user=PASSWORD_ROLE), password=source)
    with pytest.raises(DatabaseRefused, match="password"):
        database.ping()
