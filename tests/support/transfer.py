"""LangGraph's own savers on real databases, and their rows in plain sight."""

from __future__ import annotations

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
