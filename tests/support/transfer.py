"""LangGraph's own savers on real databases, their rows in plain sight, and the command line in this
process."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner

from surgetank.cli.app import app


@dataclass(frozen=True)
class Done:
    """What a command said."""

    returncode: int
    stdout: str
    stderr: str

    def report(self, code: int = 0) -> dict[str, Any]:
        """The JSON on stdout, after a look at the exit code."""
        assert self.returncode == code, self.stdout + self.stderr
        found: dict[str, Any] = json.loads(self.stdout)
        return found


def cli_in_process(*arguments: str, home: Path, url: str) -> Done:
    """Run `surgetank ARGS` in this process, which is quicker than to start one."""
    done = CliRunner().invoke(
        app,
        list(arguments),
        env={
            "SURGETANK_HOME": str(home),
            "SURGETANK_DATABASE_URL": url,
            "SURGETANK_LEASE_TTL": "0.2",
        },
    )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


@dataclass
class Official:
    """A saver, where it keeps its data, and a look at its rows."""

    saver: Any
    address: str

    def rows(self) -> dict[str, list[Any]]:
        """All rows of all tables, in an order of their own."""
        if isinstance(self.saver, SqliteSaver):
            with closing(sqlite3.connect(self.address)) as connection:
                return {
                    table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
                    for table in ("checkpoints", "writes")
                }
        with psycopg.connect(self.address) as connection:
            return {
                table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
                for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
            }


@contextmanager
def postgres_official(url: str) -> Iterator[Official]:
    """A set-up `PostgresSaver` on a pool."""
    options = {"autocommit": True, "row_factory": dict_row, "prepare_threshold": 0}
    with ConnectionPool(url, min_size=1, max_size=4, kwargs=options) as pool:
        saver = PostgresSaver(pool)  # type: ignore[arg-type]
        saver.setup()
        yield Official(saver, url)


@contextmanager
def sqlite_official(path: Path) -> Iterator[Official]:
    """A set-up `SqliteSaver` on a file."""
    with closing(sqlite3.connect(path, check_same_thread=False)) as connection:
        saver = SqliteSaver(connection)
        saver.setup()
        yield Official(saver, str(path))
