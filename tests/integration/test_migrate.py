"""Migrations: once each, whoever comes at the same time; refusals that change nothing; named
queries."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from support.postgres import PostgresServer
from surgetank.database import queries as queries_module
from surgetank.database.migrate import applied, load, migrate, pending
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.exceptions import (
    DatabaseRefused,
    DatabaseUnavailable,
    SchemaTooNew,
)

FIRST = "CREATE TABLE surgetank.one (n int);\nINSERT INTO surgetank.one VALUES (1);\n"
SECOND = "ALTER TABLE surgetank.one ADD COLUMN m int; -- 100% plain SQL\nINSERT INTO surgetank.one VALUES (2, 2);\n"


@pytest.fixture
def database(fresh_database: str) -> Iterator[Database]:
    database = Database(fresh_database)
    yield database
    database.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_first.sql").write_text(FIRST)
    (folder / "0002_second.sql").write_text(SECOND)
    return folder


def rows(database: Database, table: str = "one") -> int:
    with database.connection() as connection:
        found = connection.execute(
            sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("surgetank", table))
        ).fetchone()
    assert found is not None
    return int(found[0])


def as_admin(server: PostgresServer, statement: str, *names: str) -> None:
    with server.admin() as connection:
        connection.execute(
            sql.SQL(statement).format(*map(sql.Identifier, names))  # pyright: ignore[reportArgumentType]
        )


def test_an_empty_database_gets_all_migrations_in_order_and_they_are_recorded(
    database: Database, folder: Path
) -> None:
    assert [migration.name for migration in pending(database, folder)] == ["first", "second"]
    assert migrate(database, folder) == ["0001_first", "0002_second"]
    assert rows(database) == 2
    with database.connection() as connection:
        assert {version: name for version, (name, _) in applied(connection).items()} == {
            1: "first",
            2: "second",
        }
    assert pending(database, folder) == []
    assert migrate(database, folder) == []


def test_the_packages_own_migrations_set_up_a_database(database: Database) -> None:
    assert len(migrate(database)) == len(load())
    assert pending(database) == []


def test_a_later_migration_is_added_to_what_is_there(database: Database, folder: Path) -> None:
    migrate(database, folder)
    (folder / "0003_third.sql").write_text("INSERT INTO surgetank.one VALUES (3, 3)")
    assert migrate(database, folder) == ["0003_third"]
    assert rows(database) == 3


def test_migrations_are_read_from_inside_an_archive(database: Database, folder: Path) -> None:
    archive = zipfile.ZipFile(io.BytesIO(), "w")
    for file in folder.iterdir():
        archive.writestr(f"migrations/{file.name}", file.read_text())
    assert migrate(database, zipfile.Path(archive, "migrations/")) == ["0001_first", "0002_second"]


def test_a_migration_that_fails_leaves_nothing_behind(database: Database, folder: Path) -> None:
    (folder / "0003_third.sql").write_text("INSERT INTO surgetank.one VALUES (3, 3); SELECT 1 / 0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(database, folder)
    assert len(pending(database, folder)) == 3


def test_when_nothing_is_to_do_no_lock_is_waited_for(database: Database, folder: Path) -> None:
    migrate(database, folder)
    with database.connection() as connection:
        connection.execute("LOCK TABLE surgetank.schema_migrations IN ROW EXCLUSIVE MODE")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (0x53544B4D,))
        assert migrate(database, folder) == []


# -- many at once

_PROCESS = """
import sys
from pathlib import Path
from surgetank.database.migrate import migrate
from surgetank.database.pool import Database
url, folder = sys.argv[1:]
database = Database(url, connect_timeout_s=30)
database.ping()
print("ready", flush=True)
sys.stdin.readline()
print(*migrate(database, Path(folder)), flush=True)
"""


def test_eight_processes_at_once_apply_each_migration_once(
    fresh_database: str, folder: Path
) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, fresh_database, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(8)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=30)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert sorted(answers) == [[]] * 7 + [["0001_first", "0002_second"]]


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_eight_threads_at_once_whatever_the_databases_isolation_is(
    postgres_server: PostgresServer, fresh_database: str, folder: Path, isolation: str
) -> None:
    name = psycopg.conninfo.conninfo_to_dict(fresh_database)["dbname"]
    as_admin(
        postgres_server,
        f"ALTER DATABASE {{}} SET default_transaction_isolation = '{isolation}'",
        str(name),
    )
    database = Database(fresh_database)
    together = threading.Barrier(8)

    def go() -> list[str]:
        database.ping()
        together.wait()
        return migrate(database, folder)

    with ThreadPoolExecutor(8) as threads:
        answers = [future.result() for future in [threads.submit(go) for _ in range(8)]]
    assert sorted(answers) == [[]] * 7 + [["0001_first", "0002_second"]]
    assert rows(database) == 2
    database.close()


def test_a_migration_held_up_by_another_process_gives_up_in_the_end(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "surgetank.database.migrate._WAIT_AT_MOST", "SET LOCAL lock_timeout = '100ms'"
    )
    with database.connection() as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (0x53544B4D,))
        with pytest.raises(DatabaseUnavailable, match="held up"):
            migrate(database, folder)


# -- refusals


@pytest.mark.parametrize("act", [migrate, pending])
def test_a_schema_newer_than_the_program_is_refused_naming_both_versions(
    database: Database, folder: Path, act: Callable[[Database, Path], object]
) -> None:
    migrate(database, folder)
    (folder / "0002_second.sql").unlink()
    with pytest.raises(SchemaTooNew, match=r"version 2; .* up to 1") as caught:
        act(database, folder)
    assert "upgrade" in caught.value.remedy


def test_a_migration_changed_after_it_was_applied_is_refused(
    database: Database, folder: Path
) -> None:
    migrate(database, folder)
    (folder / "0001_first.sql").write_text(FIRST + "-- changed")
    with pytest.raises(DatabaseRefused, match="0001_first differs"):
        migrate(database, folder)


@pytest.fixture
def powerless(postgres_server: PostgresServer) -> Iterator[str]:
    as_admin(postgres_server, "CREATE ROLE powerless LOGIN")
    yield "powerless"
    as_admin(postgres_server, "DROP ROLE powerless")


@pytest.mark.parametrize("already_there", [False, True])
def test_a_missing_permission_names_the_grant(
    database: Database,
    fresh_database: str,
    folder: Path,
    powerless: str,
    already_there: bool,
) -> None:
    if already_there:
        migrate(database, folder)
    other = Database(fresh_database.replace("postgres@", f"{powerless}@"))
    with pytest.raises(DatabaseRefused, match="permission denied") as caught:
        migrate(other, folder)
    assert "GRANT" in caught.value.remedy
    other.close()


def test_a_read_only_database_is_a_refusal(
    postgres_server: PostgresServer, fresh_database: str, folder: Path
) -> None:
    name = psycopg.conninfo.conninfo_to_dict(fresh_database)["dbname"]
    as_admin(postgres_server, "ALTER DATABASE {} SET default_transaction_read_only = on", str(name))
    database = Database(fresh_database)
    with pytest.raises(DatabaseRefused, match="read-only"):
        migrate(database, folder)
    database.close()


# -- named queries


def test_the_packages_queries_are_found_by_name_without_their_descriptions() -> None:
    cold = queries("streams/checkpoints/cold/read.sql")
    assert cold["checkpoint"].startswith("SELECT")
    assert not any(line.startswith("--") for text in cold.values() for line in text.splitlines())
    assert queries("streams/checkpoints/cold/read.sql") is cold


def test_a_name_given_twice_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "twice.sql").write_text("-- name: a\nSELECT 1\n\n-- name: a\nSELECT 2\n")
    monkeypatch.setattr(queries_module, "files", lambda _: tmp_path)
    with pytest.raises(ValueError, match="'a' twice"):
        queries("twice.sql")
