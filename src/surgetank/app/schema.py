"""`tank.schema`: the version of the database's tables, and bringing them up to date."""

from __future__ import annotations

from collections.abc import Callable

from surgetank.database.migrate import MigratedDatabase, applied, load, pending


class Schema:
    """The schema of a database, which is asked for when it is needed. Methods raise
    `DatabaseUnavailable`, `DatabaseRefused`, `SchemaTooNew`."""

    def __init__(self, database: Callable[[], MigratedDatabase]) -> None:
        self._database = database

    @property
    def newest(self) -> int:
        """The newest version that this program knows."""
        return max((migration.version for migration in load()), default=0)

    def version(self) -> int:
        """The version that the database has; 0 without a schema."""
        with self._database().asking() as connection:
            return max(applied(connection), default=0)

    def pending(self) -> list[str]:
        """The migrations that are to be applied."""
        database = self._database()
        missing = pending(database, beside=database.migrations)
        return [f"{migration.version:04}_{migration.name}" for migration in missing]

    def migrate(self) -> list[str]:
        """Apply what is missing; returns the names. Safe to call in many processes at once."""
        return self._database().prepare()
