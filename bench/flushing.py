"""A store whose flush runs only when it is asked, to be filled and emptied again: what the flush
measures share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from bench.harness import Scene, seconds
from bench.peers import flush_all, open_tank
from surgetank import Surgetank


@dataclass(frozen=True, slots=True)
class Reservoir:
    """An engine, and an administrator's connection to its database."""

    scene: Scene
    tank: Surgetank
    connection: psycopg.Connection[Any]
    system_tables: frozenset[str]

    def flush(self) -> float:
        """Seconds that it takes to flush everything that waits."""
        self.scene.server.checkpoint()
        return seconds(lambda: flush_all(self.tank))

    def tables(self) -> dict[str, int]:
        """The tables that have got rows since the database was made, and how many."""
        names = self.connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'surgetank'::regnamespace AND "
            "relkind = 'r'"
            " ORDER BY relname"
        ).fetchall()
        counts = {
            name: self.count("surgetank", name)
            for (name,) in names
            if name not in self.system_tables
        }
        return {name: count for name, count in counts.items() if count}

    def count(self, schema: str, table: str) -> int:
        """Rows of a table."""
        query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
        row = self.connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    def empty(self, *schemas: str) -> None:
        """Remove all rows of the flushed tables, so that each round begins alike."""
        tables = [sql.Identifier(schema, name) for schema in schemas for name in self.tables()]
        if tables:
            self.connection.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(tables)))


@contextmanager
def reservoir(scene: Scene) -> Iterator[Reservoir]:
    """An empty one, with its tables made."""
    with (
        scene.server.database(migrated=True) as url,
        open_tank(scene, url, flush_in_process=False, flush_on_close=False) as tank,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        with tank.parts.database.connection():
            pass  # the first connection makes the tables
        bare = Reservoir(scene, tank, connection, frozenset())
        yield Reservoir(scene, tank, connection, frozenset(bare.tables()))
