"""A hot store, cold tables and flushers of both: in a test, or in a process of its own that is killed.

python -m support.tables_house before|after|moment MODULE:CLASS.METHOD OCCURRENCE FOLDER URL flush|merge|erase:USER
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from support.killed import die_at
from support.tables_cold import NOTES, cold_tables
from surgetank.flush.breaker import CircuitBreaker
from surgetank.flush.events import FlushEvent
from surgetank.flush.job import Clockwork
from surgetank.flush.policy import RetryPolicy
from surgetank.model import FlushJob
from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.flusher import FlushDefaults, TableFlusher
from surgetank.streams.tables.hot.protocol import Change, Op
from surgetank.streams.tables.hot.store import SQLiteHotTables
from surgetank.streams.tables.reader import TableReader


class Jobs:
    """A job log in memory."""

    def __init__(self) -> None:
        self.saved: dict[str, FlushJob] = {}

    def save_job(self, job: FlushJob) -> None:
        self.saved[job.id] = job

    def job(self, job_id: str) -> FlushJob | None:
        return self.saved.get(job_id)

    def jobs(self, **_: Any) -> list[FlushJob]:
        return list(self.saved.values())


class House:
    """A hot store, cold tables and flushers of both."""

    def __init__(
        self,
        hot: SQLiteHotTables,
        cold: Any,
        clock: Callable[[], float],
        *,
        lease_ttl_s: float = 15.0,
    ) -> None:
        self.hot, self.cold, self.now = hot, cold, clock
        self._ttl_s = lease_ttl_s
        self.jobs, self.heard = Jobs(), list[FlushEvent]()
        self.recovered: list[str] = []
        self.breaker = CircuitBreaker(clock)
        self.flusher = self.make("node")

    def make(self, node: str) -> TableFlusher:
        return TableFlusher(
            self.hot, self.cold, self.jobs, sink=mock.Mock(), node=node,
            retry=RetryPolicy(), breaker=self.breaker, listener=self.heard.append,
            clockwork=Clockwork(self.now, random.Random(1).random),
            defaults=FlushDefaults(rows=3, interval_s=60.0), on_recovered=self.recovered.append,
            lease_ttl_s=self._ttl_s,
        )  # fmt: skip

    def insert(self, user: str, *ids: int, table: Table = NOTES) -> None:
        rows = [Change(user, Op.INSERT, (each, f"{user}{each}")) for each in ids]
        self.hot.accept(table, rows)

    def change(self, op: Op, user: str, key: int, text: str | None = None) -> None:
        (row,) = [
            row for row in TableReader(self.hot, self.cold).read(NOTES, user=user).to_pylist()
            if row["id"] == key
        ]  # fmt: skip
        self.hot.accept(NOTES, [Change(user, op, (key, text), row["_seq"])])

    def seen(self, table: Table = NOTES) -> list[tuple[str, int, str | None]]:
        """What a reader has, hot and cold."""
        rows = TableReader(self.hot, self.cold).read(table).to_pylist()
        return sorted((row.get("_user", ""), row["id"], row["text"]) for row in rows)

    def flush(self, **more: Any) -> FlushJob:
        return self.flusher.run("test", **more)


def merge(house: House) -> None:
    """Merge the files of `NOTES`."""
    house.cold.compact(NOTES)


def erase(house: House, user: str) -> None:
    """As `app.table_room` does it."""
    house.hot.erase_user(user)
    house.cold.erase_user([NOTES], user)
    house.hot.erase_user(user)


if __name__ == "__main__":
    die_at(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    home, what = Path(sys.argv[4]), sys.argv[6]
    hot = SQLiteHotTables(home / "buffer-tables.db")
    with cold_tables(sys.argv[5], home) as cold:
        house = House(hot, cold, time.time, lease_ttl_s=0.3)
        if what == "flush":
            house.flush()
        elif what == "merge":
            merge(house)
        else:
            erase(house, what.removeprefix("erase:"))
    print("survived")
