"""The one PostgreSQL server that all contestants write to: embedded, durable (fsync on), a database
for each.

Nothing is tuned for anybody: the server runs with the configuration that Surgetank ships for its
embedded database.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

from bench.harness import BenchError
from surgetank.database.embedded import EmbeddedPostgres
from surgetank.database.migrate import migrate
from surgetank.database.pool import Database

_TOLD = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "shared_buffers",
    "max_wal_size",
)


class Server:
    """A running server. Databases are given out by `database` and dropped when their user is
    done."""

    def __init__(self, url: str, pid: int | None = None) -> None:
        self._url = url
        self._pid = pid
        self._numbers = itertools.count(1)

    @contextmanager
    def database(self, *, migrated: bool = False) -> Iterator[str]:
        """URL of a new database: an empty one, or one with Surgetank's tables, which are empty."""
        name = f"bench_{next(self._numbers)}"
        template = self._template if migrated else "template1"
        with self.admin() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        try:
            yield self._url_of(name)
        finally:
            with self.admin() as connection:
                connection.execute(
                    sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
                )

    @cached_property
    def _template(self) -> str:
        """Tables are made once and copied: to make them takes longer than what a smoke run measures."""
        with self.admin() as connection:
            connection.execute("CREATE DATABASE bench_migrated")
        database = Database(self._url_of("bench_migrated"))
        migrate(database)
        database.close()
        return "bench_migrated"

    def _url_of(self, name: str) -> str:
        return self._url.replace("/postgres?", f"/{name}?")

    @contextmanager
    def admin(self) -> Iterator[psycopg.Connection[Any]]:
        """A superuser's connection in autocommit."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            yield connection

    def checkpoint(self) -> None:
        """Write everything out now, so that it doesn't happen inside of what is timed next."""
        with self.admin() as connection:
            connection.execute("CHECKPOINT")

    def cpu_s(self) -> float:
        """Processor seconds that it has used so far, with all of its processes."""
        process = psutil.Process(self._pid)
        used = 0.0
        for each in (process, *process.children()):
            with suppress(psutil.NoSuchProcess):
                used += sum(each.cpu_times()[:4])  # with children that have ended
        return used

    def settings(self) -> dict[str, str]:
        """The settings that decide what a commit costs. Raises `BenchError` where commits aren't
        durable."""
        with self.admin() as connection:
            rows = connection.execute(
                "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)",
                [list(_TOLD)],
            ).fetchall()
        found = dict(rows)
        if found["fsync"] != "on" or found["synchronous_commit"] != "on":
            raise BenchError(f"commits of this server aren't durable: {found}")
        return found


@contextmanager
def running_server(home: Path) -> Iterator[Server]:
    """An embedded server in `home`, stopped at the end."""
    embedded = EmbeddedPostgres(home)
    embedded.start()
    try:
        yield Server(embedded.url, embedded.pid)
    finally:
        embedded.stop()


def stored_bytes(url: str) -> int:
    """Bytes on disk of all tables that users made: rows, indexes, TOAST and whatever space they
    don't use."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT sum(pg_total_relation_size(relid))::int8 FROM pg_stat_user_tables"
        ).fetchone()
    assert row is not None
    return int(row[0])
