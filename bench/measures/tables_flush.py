"""Rows of a user table on their way from the hot store into files, beside `pyarrow.parquet.write_table` of the same
rows, unsorted, not durable and with nothing committed; and one user's rows read from those files. Rows came from Arrow,
in one segment, or as single rows. Where `deltalake` can be imported (`pip install deltalake`), it does the same with a
sort by user.

A flush takes the rows, sorts them by user, writes Parquet and makes it durable, commits the manifest in PostgreSQL, and
acknowledges. Its memory is how far the process grows beyond what it had before the flush.
"""

from __future__ import annotations

import gc
import itertools
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.harness import BenchError, Recorder, Scene, seconds, timed
from bench.peers import OURS
from surgetank.database.migrate import MigratedDatabase
from surgetank.flush.breaker import CircuitBreaker
from surgetank.flush.job import Clockwork
from surgetank.flush.policy import RetryPolicy
from surgetank.model import FlushJob
from surgetank.sqlite.shared import SharedFile
from surgetank.streams.tables.cold.mirror import SCRIPT
from surgetank.streams.tables.cold.tables import FileTables
from surgetank.streams.tables.definition import USER, Column, Kind, Table
from surgetank.streams.tables.file import TABLES
from surgetank.streams.tables.flusher import TableFlusher, TablesSink
from surgetank.streams.tables.hot.protocol import Change, Op
from surgetank.streams.tables.hot.store import SQLiteHotTables
from surgetank.streams.tables.reader import TableReader
from surgetank.streams.tables.types import ColumnType

TITLE = "Flush of user tables"
PLAIN = "pyarrow write_table"
DELTA = "delta-rs, sorted"
_AT_ONCE = 1_000  # single rows of one call
_SMALL = 100  # rows of a small flush
_SMALL_TIMES = 20
TABLE = Table(
    id=1,
    namespace="bench",
    name="facts",
    kind=Kind.USER,
    columns=tuple(
        Column(at, name, ColumnType.parse(kind))
        for at, (name, kind) in enumerate(
            [("id", "BIGINT"), ("count", "INT"), ("value", "DOUBLE"), ("text", "TEXT"), ("at", "TIMESTAMPTZ")], 3
        )
    ),
)  # fmt: skip


def run(scene: Scene) -> Recorder:
    """Many rows in one flush, few rows in one, and a user's rows."""
    recorder = Recorder("tables_flush")
    numbers = itertools.count(1)
    for number, _ in scene.turns([OURS]):
        folder = scene.home / f"tables-{next(numbers)}"
        folder.mkdir()
        _measure(scene, recorder, number, folder)
    return recorder


def _measure(scene: Scene, recorder: Recorder, number: int, folder: Path) -> None:
    count = scene.scale.table_rows
    label = f"{count:,} rows of {users_in(count):,} users"
    rows, plain, one = rows_of(count), folder / "plain.parquet", user_called(0)
    rate = count / seconds(lambda: pq.write_table(rows, plain))
    recorder.add(number, PLAIN, "rows", rate, label=label, unit="rows/s")
    with open_house(scene, folder) as house:
        house.hot.accept_arrow(TABLE, rows)
        with _Grown() as grown:
            took = seconds(house.flush)
        recorder.add(number, OURS, "memory", grown.mb, label="memory of that flush", unit="MB")
        recorder.add(number, OURS, "rows", count / took, label=label, unit="rows/s")
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(_SMALL_TIMES):
            mine = timed(ours, lambda: house.reader.read(TABLE, user=one))
            same = timed(theirs, lambda: pq.read_table(plain, filters=[(USER, "=", one)]))
            if mine.num_rows != same.num_rows:
                raise BenchError(f"{mine.num_rows} rows of a user instead of {same.num_rows}")
        recorder.add(number, OURS, "user", ours, label="a user's rows")
        recorder.add(number, PLAIN, "user", theirs, label="a user's rows")
        small: list[float] = []
        for _ in range(_SMALL_TIMES):
            house.hot.accept_arrow(TABLE, rows_of(_SMALL))
            timed(small, house.flush)
        recorder.add(number, OURS, "small", small, label=f"a flush of {_SMALL} rows")
        _insert_singly(house.hot, rows)
        house.hot.maintain()  # as the housekeeping does now and then
        single = seconds(lambda: pq.write_table(rows, plain))
        recorder.add(number, PLAIN, "single", count / single, label="single rows", unit="rows/s")
        with _Grown() as grown:
            took = seconds(house.flush)
        recorder.add(number, OURS, "single", count / took, label="single rows", unit="rows/s")
        recorder.add(
            number, OURS, "single memory", grown.mb, label="memory, single rows", unit="MB"
        )
    if find_spec("deltalake") is not None:
        took = seconds(lambda: _delta(rows, folder / "delta"))
        recorder.add(number, DELTA, "rows", count / took, label=label, unit="rows/s")


def _delta(rows: pa.Table, folder: Path) -> None:
    deltalake: Any = import_module("deltalake")
    deltalake.write_deltalake(str(folder), rows.sort_by(USER))


def _insert_singly(hot: SQLiteHotTables, rows: pa.Table) -> None:
    """As rows that came one by one are kept, some in a transaction: a million of those take long."""
    names = [column.name for column in TABLE.columns]
    for part in rows.to_batches(_AT_ONCE):
        columns = [part.column(name).to_pylist() for name in names]
        users = part.column(USER).to_pylist()
        values = zip(*columns, strict=True)
        hot.accept(
            TABLE,
            [Change(user, Op.INSERT, row) for user, row in zip(users, values, strict=True)],
        )


class _Grown:
    """How far the memory of the process grew at its highest, in MB."""

    mb = 0.0

    def __enter__(self) -> _Grown:
        gc.collect()
        self._before = _resident()
        self._most = self._before
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._most = max(self._most, _resident())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.mb = (self._most - self._before) / 1024**2


def _resident() -> int:
    """Without pages of mapped files, which the system takes back."""
    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    return (int(resident) - int(shared)) * resource.getpagesize()


@dataclass(frozen=True, slots=True)
class House:
    """What the table `TABLE` consists of."""

    hot: SQLiteHotTables
    cold: FileTables
    reader: TableReader
    flusher: TableFlusher

    def flush(self) -> None:
        """Everything that waits. Raises `BenchError`."""
        job = self.flusher.run("bench")
        if not job.ok:
            raise BenchError(f"a flush of tables failed: {job.result}")


class _NoJobs:
    """A job log that keeps nothing."""

    def save_job(self, job: FlushJob) -> None:
        pass

    def job(self, job_id: str) -> FlushJob | None:  # noqa: ARG002
        return None

    def jobs(self, **_: Any) -> list[FlushJob]:
        return []


@contextmanager
def open_house(scene: Scene, folder: Path) -> Iterator[House]:
    """Hot store, files, manifest and flusher of one table, in a database of its own."""
    path = folder / "buffer-tables.db"
    with (
        scene.server.database(migrated=True) as url,
        closing(MigratedDatabase(url)) as database,
        closing(SQLiteHotTables(path, max_bytes=16 * 1024**3)) as hot,
        closing(
            FileTables(
                database,
                folder / "tables",
                file=SharedFile(path, kind=TABLES, name="table store", script=SCRIPT),
            )
        ) as cold,
    ):
        cold.live(TABLE, stores=())  # migrated before anything is timed
        flusher = TableFlusher(
            hot, cold, _NoJobs(), sink=TablesSink(database), retry=RetryPolicy(),
            breaker=CircuitBreaker(time.time), listener=lambda _: None, clockwork=Clockwork(time.time),
            node="bench",
        )  # fmt: skip
        yield House(hot, cold, TableReader(hot, cold), flusher)


def users_in(count: int) -> int:
    """How many users so many rows have."""
    return max(1, count // 200)


def user_called(number: int) -> str:
    """The name of a user."""
    return f"user-{number:06d}"


def rows_of(count: int, *, users: int | None = None, first: int = 0) -> pa.Table:
    """So many rows of users at random; `id` counts from `first`."""
    chance = np.random.default_rng(1 + first)
    names = pa.array([user_called(number) for number in range(users or users_in(count))])
    numbers = np.arange(first, first + count)
    return pa.table(
        {
            USER: names.take(pa.array(chance.integers(0, len(names), count))),
            "id": pa.array(numbers),
            "count": pa.array(chance.integers(0, 1000, count).astype(np.int32)),
            "value": pa.array(chance.random(count)),
            "text": pa.array([f"what was said {number % 997}" for number in range(count)]),
            "at": pa.array(numbers * 1000 + 1_700_000_000_000_000).cast(pa.timestamp("us", "UTC")),
        }
    )
