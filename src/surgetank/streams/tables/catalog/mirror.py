"""The catalogue beside the buffer: what definitions are found in while the database is away, by every process on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from surgetank.sqlite.shared import SharedFile
from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.hot.definitions import definition_json, definition_of

SCRIPT = """
CREATE TABLE IF NOT EXISTS catalog_state (
    id INTEGER PRIMARY KEY CHECK (id = 1), catalog_id TEXT NOT NULL, version INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS catalog_namespaces (name TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS catalog_tables (table_id INTEGER PRIMARY KEY, document TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """The catalogue at one version; `catalog_id` tells databases apart. `version` 0 is none yet."""

    catalog_id: str = ""
    version: int = 0
    namespaces: tuple[str, ...] = ()
    tables: Mapping[int, Table] = field(default_factory=dict)

    def find(self, namespace: str, name: str) -> Table | None:
        """The table of this name, in any case."""
        wanted = (namespace.casefold(), name.casefold())
        return next(
            (
                table
                for table in self.tables.values()
                if (table.namespace.casefold(), table.name.casefold()) == wanted
            ),
            None,
        )


class Mirror:
    """Copies of the catalogue in the file of tables, which was made with `SCRIPT`."""

    def __init__(self, file: SharedFile) -> None:
        self._file = file

    def version(self) -> tuple[str, int]:
        """Which catalogue was copied, and its version. Raises `BufferUnavailable`."""
        with self._file.read() as connection:
            row = connection.execute("SELECT catalog_id, version FROM catalog_state").fetchone()
        return ("", 0) if row is None else (row[0], row[1])

    def load(self) -> Standing:
        """What was copied last. Raises `BufferUnavailable`."""
        with self._file.read() as connection:
            state = connection.execute("SELECT catalog_id, version FROM catalog_state").fetchone()
            if state is None:
                return Standing()
            names = connection.execute("SELECT name FROM catalog_namespaces ORDER BY lower(name)")
            namespaces = tuple(row[0] for row in names)
            kept = connection.execute("SELECT document FROM catalog_tables").fetchall()
        tables = (definition_of(document) for (document,) in kept)
        return Standing(state[0], state[1], namespaces, {table.id: table for table in tables})

    def keep(self, standing: Standing, changed: Iterable[int], before: Standing | None) -> None:
        """Copy a standing, unless a newer one is there. `changed` are the tables that differ from
        the one `before`; None: it has nothing to do with what was copied. Raises
        `BufferUnavailable`."""
        with self._file.write() as connection:
            row = connection.execute("SELECT catalog_id, version FROM catalog_state").fetchone()
            copied = row[1] if row is not None and row[0] == standing.catalog_id else 0
            if before is not None and copied >= standing.version:
                return
            if before is None or copied < before.version:
                connection.execute("DELETE FROM catalog_tables")
                changed = standing.tables
            connection.execute(
                "INSERT OR REPLACE INTO catalog_state VALUES (1, ?, ?)",
                (standing.catalog_id, standing.version),
            )
            connection.execute("DELETE FROM catalog_namespaces")
            connection.executemany(
                "INSERT INTO catalog_namespaces VALUES (?)", [(n,) for n in standing.namespaces]
            )
            for table_id in changed:
                table = standing.tables.get(table_id)
                if table is None:
                    connection.execute("DELETE FROM catalog_tables WHERE table_id = ?", (table_id,))
                else:
                    connection.execute(
                        "INSERT OR REPLACE INTO catalog_tables VALUES (?, ?)",
                        (table_id, definition_json(table)),
                    )

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()
