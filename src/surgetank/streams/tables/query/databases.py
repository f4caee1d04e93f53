"""The databases in memory that a child runs queries in: locked before anything of a text is run.

A connection is used once. Its database is used by one user only, for as long as his queries follow each other
and none of them failed; a new one costs more than a small query, so one is always ready.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from surgetank.streams.tables.query.names import quoted, schema_here

_CONFIG = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "threads": "1",
    "temp_directory": "",  # nothing is spilled: what does not fit fails as too large
    "max_temp_directory_size": "0KB",
}
_PREPARED = "SET GLOBAL TimeZone = 'UTC'; SET GLOBAL errors_as_json = true"
_LOCKED = "SET enable_external_access = false; SET lock_configuration = true"
_MOST_QUERIES = 50  # in one database


@dataclass(slots=True)
class Session:
    """One connection, for one query, and the tables in it."""

    connection: duckdb.DuckDBPyConnection
    _views: list[str] = field(default_factory=list)

    def register(self, schema: str | None, name: str, rows: pa.Table) -> None:
        """Make rows a table of this name."""
        relation = f"surgetank {len(self._views)}"
        self.connection.register(relation, rows)
        made = quoted(name)
        if schema is not None:
            own = quoted(schema_here(schema))
            self.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {own}")
            made = f"{own}.{made}"
        self._views.append(made)
        self.connection.execute(f"CREATE VIEW {made} AS FROM {quoted(relation)}")

    def close(self) -> None:
        """Take the tables away, and end the connection."""
        for number, view in enumerate(self._views):
            self.connection.execute(f"DROP VIEW IF EXISTS {view}")
            self.connection.unregister(f"surgetank {number}")
        self.connection.close()


class Databases:
    """At most two databases: that of the last user, and a new one."""

    def __init__(self, memory_bytes: int) -> None:
        self._limit = f"{max(16, memory_bytes * 3 // 4 >> 20)}MB"
        self._new: duckdb.DuckDBPyConnection | None = None
        self._last: duckdb.DuckDBPyConnection | None = None
        self._of: tuple[str, int] | None = None
        self._queries = 0
        self.prepare()

    def prepare(self) -> None:
        """Have a new database ready."""
        if self._new is None:
            self._new = duckdb.connect(":memory:", config={**_CONFIG, "memory_limit": self._limit})
            self._new.execute(_PREPARED)

    def statements(self, text: str) -> list[duckdb.Statement]:
        """What a text consists of. It is only parsed, in a database that nothing was run in."""
        self.prepare()
        assert self._new is not None
        return self._new.extract_statements(text)

    def session(self, user: str, limit_ms: int) -> Session:
        """A locked connection for a query of this user that may take so long."""
        if self._last is None or self._of != (user, limit_ms) or self._queries >= _MOST_QUERIES:
            self.forget()
            self.prepare()
            self._last, self._new = self._new, None
            self._of, self._queries = (user, limit_ms), 0
            assert self._last is not None
            self._last.execute(f"SET GLOBAL max_execution_time = {int(limit_ms)}")
            self._last.execute(_LOCKED)
        self._queries += 1
        return Session(self._last.cursor())

    def forget(self) -> None:
        """Close the database of the last user."""
        if self._last is not None:
            self._last.close()
        self._last = self._of = None
