"""`tank.schema`: the version of the database's tables, and bringing them up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing

from surgetank.app.backends import open_database
from surgetank.database.migrate import MigratedDatabase, applied, load, pending
from surgetank.settings import Settings
from surgetank.streams.stream import Stream, migrations_of


def migrate_alone(
    settings: Settings, streams: Iterable[Stream], password: Callable[[], str] | None
) -> list[str]:
    """Migrate the configured database for an engine that has no buffer yet, and make none. Raises
    as `Schema` does."""
    database = open_database(
        settings, None, gate=None, migrations=migrations_of(streams), password=password
    )
    with closing(database):
        return database.prepare()


class Schema:
    """The schema of a database, which is asked for when it is needed. `alone` migrates before an
    engine is opened that has no buffer yet. Methods raise `DatabaseUnavailable`, `DatabaseRefused`,
    `SchemaTooNew`."""

    def __init__(
        self, database: Callable[[], MigratedDatabase], alone: Callable[[], list[str]]
    ) -> None:
        self._database = database
        self._alone = alone

    @property
    def newest(self) -> int:
        """The newest version that this program knows."""
        return max(
            (migration.version for migration in load(None, *self._database().migrations)), default=0
        )

    def version(self) -> int:
        """The version that the database has; 0 without a schema."""
        with self._database().asking() as connection:
            return max(applied(connection), default=0)

    def pending(self) -> list[str]:
        """The migrations that the database lacks. An engine applies them when it first connects, so
        there are none unless somebody took them back."""
        database = self._database()
        missing = pending(database, beside=database.migrations)
        return [f"{migration.version:04}_{migration.name}" for migration in missing]

    def migrate(self) -> list[str]:
        """Apply what is missing; returns the names. Safe to call in many processes at once.

        A database that can't be used is found before the engine opens: then no home is made.
        """
        return [*self._alone(), *self._database().prepare()]
