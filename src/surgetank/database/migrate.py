"""Numbered SQL migrations, forward only, each in one transaction under an advisory lock.

The lock belongs to the transaction, so it works behind PgBouncer and is gone when a process is killed. When nothing
is to do, finding out costs one SELECT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, LiteralString

import psycopg
from psycopg import Connection

from surgetank.database.pool import Database
from surgetank.exceptions import ConfigurationError, DatabaseUnavailable, SchemaTooNew

_LOCK = 0x53544B4D  # "STKM"
_WAIT_AT_MOST: LiteralString = "SET LOCAL lock_timeout = '60s'"
_SCHEMA: LiteralString = """
-- Not `IF NOT EXISTS`: that asks for the right to make schemas also where there is nothing to make.
DO $$ BEGIN IF to_regnamespace('surgetank') IS NULL THEN CREATE SCHEMA surgetank; END IF; END $$;
CREATE TABLE IF NOT EXISTS surgetank.schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file `NNNN_name.sql`."""

    version: int
    name: str
    sql: LiteralString

    @property
    def checksum(self) -> str:
        """Tells whether the file was changed after it was applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load(folder: Traversable | None = None) -> list[Migration]:
    """All migrations of the folder (the package's own by default), in order."""
    folder = folder or files("surgetank.database") / "migrations"
    found = []
    for file in folder.iterdir():
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            sql = file.read_text(encoding="utf-8")
            found.append(Migration(int(number), name, sql))  # pyright: ignore[reportArgumentType]
    assert len({migration.version for migration in found}) == len(found), "two migrations have one number"
    return sorted(found, key=lambda migration: migration.version)


def applied(connection: Connection[Any]) -> dict[int, tuple[str, str]]:
    """Version, name and checksum of what the database has; empty for a new one."""
    (there,) = connection.execute(
        "SELECT to_regclass('surgetank.schema_migrations') IS NOT NULL"
    ).fetchone() or (False,)
    if not there:
        return {}
    rows = connection.execute("SELECT version, name, checksum FROM surgetank.schema_migrations").fetchall()
    return {version: (name, checksum) for version, name, checksum in rows}


def pending(database: Database, folder: Traversable | None = None) -> list[Migration]:
    """What `migrate` would apply. Raises `SchemaTooNew`, `ConfigurationError`."""
    with database.connection() as connection:
        return _missing(load(folder), applied(connection), database.address)


def migrate(database: Database, folder: Traversable | None = None) -> list[str]:
    """Apply what is missing; returns the names. Safe for many processes at once.

    Raises `SchemaTooNew` for a database that a newer Surgetank migrated, `ConfigurationError` for a missing
    permission or a migration that was changed after it was applied, `DatabaseUnavailable`.
    """
    done: list[str] = []
    migrations = load(folder)
    try:
        if not pending(database, folder):
            return []
        with database.connection() as connection:
            # Whoever waited for the lock must see what the one before it did, whatever the database's default is.
            connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            connection.execute(_WAIT_AT_MOST)
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            connection.execute(_SCHEMA)
            for migration in _missing(migrations, applied(connection), database.address):
                connection.execute(migration.sql)
                connection.execute(
                    "INSERT INTO surgetank.schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
                    (migration.version, migration.name, migration.checksum),
                )
                done.append(f"{migration.version:04}_{migration.name}")
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"The database user may not set up or use Surgetank's tables at {database.address}: "
            f"{error.diag.message_primary}.",
            remedy="GRANT CREATE ON DATABASE ... TO the user (or run `surgetank migrate` as one who has it); if the "
            "tables are another user's: GRANT ALL ON SCHEMA surgetank and ON ALL TABLES IN SCHEMA surgetank.",
        ) from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise ConfigurationError(
            f"{database.address} is read-only (a standby?), and Surgetank's tables are not set up there.",
            remedy="give the URL of the primary, or add target_session_attrs=read-write to it.",
        ) from error
    except psycopg.errors.LockNotAvailable as error:
        raise DatabaseUnavailable(
            f"Another process has held up the migration of {database.address} for a minute.",
            remedy="it is tried again by itself; look into pg_stat_activity for who holds the lock.",
        ) from error
    return done


def _missing(migrations: list[Migration], there: dict[int, tuple[str, str]], address: str) -> list[Migration]:
    newest = max((m.version for m in migrations), default=0)
    if there and max(there) > newest:
        raise SchemaTooNew(
            f"The schema of {address} has version {max(there)}; this Surgetank knows versions up to {newest}.",
            remedy="upgrade this Surgetank (pip install -U surgetank); nothing was changed.",
        )
    for migration in migrations:
        known = there.get(migration.version)
        if known is not None and known[1] != migration.checksum:
            raise ConfigurationError(
                f"Migration {migration.version:04}_{migration.name} differs from what was applied to {address}.",
                remedy="use the Surgetank release that made this database, or one after it.",
            )
    return [m for m in migrations if m.version not in there]


class MigratedDatabase(Database):
    """A database whose schema is brought up to date before its first use, whenever it can first be reached."""

    _ready = False

    @contextmanager
    def connection(self) -> Iterator[Connection[Any]]:
        if not self._ready:
            self.prepare()
        with super().connection() as connection:
            yield connection

    def prepare(self) -> list[str]:
        """Migrate now; returns what was applied."""
        done = migrate(
            _Unready(self)
        )  # safe in several threads at once: the database's lock puts them in order
        self._ready = True
        return done


class _Unready(Database):
    """The same pool without the wish to migrate first."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.address = database.address

    @contextmanager
    def connection(self) -> Iterator[Connection[Any]]:
        with Database.connection(self._database) as connection:
            yield connection
