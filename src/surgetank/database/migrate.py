"""Numbered SQL migrations, forward only, each in one transaction under an advisory lock.

The lock belongs to the transaction, so it works behind PgBouncer and is gone when a process is
killed. When nothing is to do, finding out costs one SELECT.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, LiteralString, Protocol
from weakref import WeakSet

import psycopg
from psycopg import Connection

from surgetank.database.identity import Identity, read_identity
from surgetank.database.pool import Database
from surgetank.database.refusals import failed_statement
from surgetank.exceptions import DatabaseRefused, DatabaseUnavailable, SchemaTooNew

_LOCK = 0x53544B4D  # "STKM"
_USABLE_FROM = re.compile(r"^-- usable from: (\d{4})$", re.MULTILINE)
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
ALTER TABLE surgetank.schema_migrations ADD COLUMN IF NOT EXISTS usable_from integer;
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file `NNNN_name.sql`."""

    version: int
    name: str
    sql: LiteralString

    @property
    def usable_from(self) -> int | None:
        """The oldest program that goes on beside this migration, by the newest migration that it
        knows; None: no other.

        A line `-- usable from: 0010` says it.
        """
        found = _USABLE_FROM.search(self.sql)
        return int(found[1]) if found is not None else None

    @property
    def checksum(self) -> str:
        """Tells whether the file was changed after it was applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load(folder: Traversable | None = None, *beside: Traversable) -> list[Migration]:
    """All migrations of the folder (the package's own by default) and of those beside it, in
    order."""
    folder = folder or files("surgetank.database") / "migrations"
    found = []
    for file in (file for each in (folder, *beside) for file in each.iterdir()):
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            sql = file.read_text(encoding="utf-8")
            found.append(Migration(int(number), name, sql))  # pyright: ignore[reportArgumentType]
    assert len({migration.version for migration in found}) == len(found), (
        "two migrations have one number"
    )
    return sorted(found, key=lambda migration: migration.version)


def applied(connection: Connection[Any]) -> dict[int, tuple[str, str]]:
    """Version, name and checksum of what the database has; empty for a new one."""
    (there,) = connection.execute(
        "SELECT to_regclass('surgetank.schema_migrations') IS NOT NULL"
    ).fetchone() or (False,)
    if not there:
        return {}
    rows = connection.execute(
        "SELECT version, name, checksum FROM surgetank.schema_migrations"
    ).fetchall()
    return {version: (name, checksum) for version, name, checksum in rows}


def pending(
    database: Database, folder: Traversable | None = None, beside: Sequence[Traversable] = ()
) -> list[Migration]:
    """What `migrate` would apply. Raises `SchemaTooNew`, `DatabaseRefused`,
    `DatabaseUnavailable`."""
    try:
        return _pending(database, load(folder, *beside))
    except psycopg.Error as error:
        raise failed_statement(error, database.address) from error


def _pending(database: Database, migrations: list[Migration]) -> list[Migration]:
    with database.connection() as connection:
        _check_newer(connection, migrations, database.address)
        return _missing(migrations, applied(connection), database.address)


def migrate(
    database: Database, folder: Traversable | None = None, beside: Sequence[Traversable] = ()
) -> list[str]:
    """Apply what is missing, of the folder and of those beside it; returns the names. Safe for many
    processes at once.

    Raises `SchemaTooNew` for a database that a newer Surgetank migrated, `ConfigurationError` for a
    missing permission or a migration that was changed after it was applied, `DatabaseUnavailable`.
    """
    done: list[str] = []
    migrations = load(folder, *beside)
    try:
        if not _pending(database, migrations):
            return []
        with database.long_transaction() as connection:
            # Whoever waited for the lock must see what the one before it did, whatever the
            # database's default is.
            connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            connection.execute(_WAIT_AT_MOST)
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            connection.execute(_SCHEMA)
            _check_newer(connection, migrations, database.address)
            for migration in _missing(migrations, applied(connection), database.address):
                connection.execute(migration.sql)
                connection.execute(
                    "INSERT INTO surgetank.schema_migrations (version, name, checksum, usable_from)"
                    " VALUES (%s, %s, %s, %s)",
                    (migration.version, migration.name, migration.checksum, migration.usable_from),
                )
                done.append(f"{migration.version:04}_{migration.name}")
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseRefused(
            f"The database user may not set up or use Surgetank's tables at {database.address}: "
            f"{error.diag.message_primary}.",
            remedy="GRANT CREATE ON DATABASE ... TO the user (or run `surgetank migrate` as one "
            "who has it); if the "
            "tables are another user's: GRANT ALL ON SCHEMA surgetank and ON ALL TABLES IN SCHEMA "
            "surgetank.",
        ) from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise DatabaseRefused(
            f"{database.address} is read-only (a standby?), and Surgetank's tables are not set up "
            f"there.",
            remedy="give the URL of the primary, or add target_session_attrs=read-write to it.",
        ) from error
    except psycopg.errors.LockNotAvailable as error:
        raise DatabaseUnavailable(
            f"Another process has held up the migration of {database.address} for a minute.",
            remedy="it is tried again by itself; look into pg_stat_activity for who holds the "
            "lock.",
        ) from error
    return done


def _check_newer(connection: Connection[Any], migrations: list[Migration], address: str) -> None:
    """Refuse a schema that a newer program made and that this one can't be used beside. Raises
    `SchemaTooNew`."""
    known = {m.version for m in migrations}
    newest = max(known, default=0)
    newer = [version for version in applied(connection) if version not in known]
    if not newer:
        return
    # By way of jsonb, because the column came later than the table.
    rows = connection.execute(
        "SELECT version FROM surgetank.schema_migrations m WHERE version = ANY(%s)"
        " AND coalesce((to_jsonb(m) ->> 'usable_from')::integer > %s, true)",
        (newer, newest),
    ).fetchall()
    if rows:
        raise SchemaTooNew(
            f"The schema of {address} has version {max(newer)}; this Surgetank knows versions up "
            f"to {newest}.",
            remedy="upgrade this Surgetank (pip install -U surgetank); nothing was changed.",
        )


def _missing(
    migrations: list[Migration], there: dict[int, tuple[str, str]], address: str
) -> list[Migration]:
    for migration in migrations:
        known = there.get(migration.version)
        if known is not None and known[1] != migration.checksum:
            raise DatabaseRefused(
                f"Migration {migration.version:04}_{migration.name} differs from what was applied "
                f"to {address}.",
                remedy="use the Surgetank release that made this database, or one after it.",
            )
    return [m for m in migrations if m.version not in there]


class Gate(Protocol):
    """Who decides whether a database may be used, by what it says of itself."""

    def admit(self, found: Identity) -> None:
        """Let a new connection be used. Raises `WrongDatabase`."""
        ...

    def claim(self, found: Identity) -> str | None:
        """Before it is written into; returns its id. Raises `WrongDatabase`."""
        ...


class MigratedDatabase(Database):
    """A database whose schema is brought up to date before its first use, whenever it can first be
    reached."""

    # those of `Database`
    def __init__(
        self,
        url: str,
        *,
        migrations: Sequence[Traversable] = (),
        gate: Gate | None = None,
        **options: Any,
    ) -> None:
        """`migrations`: folders beside the package's own, those of streams. `gate` judges each new
        connection, and each before it is written into."""
        super().__init__(url, **options)
        self.migrations = tuple(migrations)
        self._ready = False
        self._own = threading.local()  # whether this thread is the one that prepares it
        self._gate = gate
        self._claimed: WeakSet[Connection[Any]] = WeakSet()
        self._bound_to: str | None = None

    def _admit(self, connection: Connection[Any]) -> None:
        if self._gate is not None:
            self._gate.admit(read_identity(connection))

    def claim(self, connection: Connection[Any]) -> str | None:
        if self._gate is not None and connection not in self._claimed:
            self._bound_to = self._gate.claim(read_identity(connection))
            self._claimed.add(connection)
        return self._bound_to

    def forget_claims(self) -> None:
        """The buffer belongs to another database than before."""
        self._claimed.clear()
        self.reset()

    def _before_use(self) -> None:
        if not (self._ready or getattr(self._own, "preparing", False)):
            self.prepare()

    def prepare(self) -> list[str]:
        """Migrate now; returns what was applied. Safe in several threads: a lock in the database
        puts them in order."""
        self._own.preparing = True
        try:
            done = migrate(self, beside=self.migrations)
        except psycopg.Error as error:
            raise failed_statement(error, self.address) from error
        finally:
            self._own.preparing = False
        self._ready = True
        return done
