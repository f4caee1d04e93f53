"""A rolling upgrade: the newer program migrates the database, and the older one (this one) goes on
beside it."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from support.savers import config, put
from support.tanks import MakeTank
from surgetank.database.migrate import load, migrate, pending
from surgetank.database.pool import Database
from surgetank.exceptions import SchemaTooNew
from surgetank.model import JobStatus
from surgetank.streams.checkpoints.envelope import STREAM

NEWEST = max(m.version for m in load())
RELEASED_WITHOUT_HEADER = 23  # from here on each migration says beside whom it can be used


@pytest.fixture
def next_version(tmp_path: Path) -> Path:
    """The migrations of this program, to which a test adds those of the next one."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    for migration in load():
        (folder / f"{migration.version:04}_{migration.name}.sql").write_text(
            migration.sql, encoding="utf-8"
        )
    return folder


def upgrade(url: str, folder: Path, *lines: str) -> None:
    """What the next version does when it starts: an additive migration."""
    number = max(int(file.name[:4]) for file in folder.glob("*.sql")) + 1
    sql = "\n".join(
        [*lines, "ALTER TABLE surgetank.threads ADD COLUMN IF NOT EXISTS of_the_future text;"]
    )
    (folder / f"{number:04}_next.sql").write_text(sql + "\n", encoding="utf-8")
    database = Database(url)
    assert migrate(database, folder) == [f"{number:04}_next"]
    database.close()


@pytest.mark.parametrize("usable_from", [f"{NEWEST:04}", "0010"])
def test_the_older_program_goes_on_flushing_and_reading_beside_a_newer_schema(
    make_tank: MakeTank, database_url: str, next_version: Path, usable_from: str
) -> None:
    running = make_tank()
    put(running.checkpointer(), "before", {"n": 1})
    assert running.flush().ok
    upgrade(database_url, next_version, f"-- usable from: {usable_from}")
    upgrade(database_url, next_version, f"-- usable from: {usable_from}")
    started_later = make_tank()
    for tank, thread in ((running, "a"), (started_later, "b")):
        put(tank.checkpointer(), thread, {"n": 1})
        assert tank.flush().ok
        for known in ("before", thread):
            assert tank.checkpointer().get_tuple(config(known)) is not None
        assert pending(tank.parts.database) == []


@pytest.mark.parametrize("line", ["-- says nothing of others", f"-- usable from: {NEWEST + 1:04}"])
def test_a_schema_that_this_program_cannot_be_used_beside_is_refused_and_nothing_is_lost(
    make_tank: MakeTank, database_url: str, next_version: Path, line: str
) -> None:
    upgrade(database_url, next_version, line)
    tank = make_tank()
    put(tank.checkpointer(), "waits", {"n": 1})
    job = tank.flush(STREAM)
    assert (job.status, job.result["errors"][0]["kind"]) == (JobStatus.FAILED, "fatal")
    assert tank.parts.buffer.depth().entries >= 1
    with pytest.raises(SchemaTooNew, match=str(NEWEST + 1)):
        tank.parts.database.ping()


def test_one_of_several_newer_migrations_is_enough_to_refuse(
    make_tank: MakeTank, database_url: str, next_version: Path
) -> None:
    upgrade(database_url, next_version, "-- says nothing of others")
    upgrade(database_url, next_version, f"-- usable from: {NEWEST:04}")
    with pytest.raises(SchemaTooNew):
        make_tank().parts.database.ping()


def test_a_database_that_was_made_before_migrations_said_it_is_read(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE surgetank.schema_migrations DROP COLUMN usable_from")
        database = Database(database_url)
        assert pending(database) == []
        connection.execute(
            "INSERT INTO surgetank.schema_migrations (version, name, checksum) VALUES (9999, 'x', "
            "'x')"
        )
        with pytest.raises(SchemaTooNew):
            pending(database)
        database.close()


def test_every_new_migration_says_beside_whom_it_can_be_used() -> None:
    for migration in load():
        if migration.version > RELEASED_WITHOUT_HEADER:
            assert migration.usable_from is not None, migration.name
            assert migration.usable_from < migration.version
