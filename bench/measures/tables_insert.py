"""Inserting into a table: many rows of Arrow beside a plain Parquet file, single rows beside a plain SQLite insert of
the same row in the same durability, and eight writers beside one.

Validation, defaults, the order by user and (for Arrow) two fsyncs are in our time, none of them in the peer's.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.harness import Recorder, Scene, seconds
from bench.peers import OURS
from surgetank.streams.tables.cold.protocol import ColdTable
from surgetank.streams.tables.definition import USER, Column, Kind, Table
from surgetank.streams.tables.hot.store import SQLiteHotTables
from surgetank.streams.tables.ingest import TableIngest
from surgetank.streams.tables.types import ColumnType

TITLE = "Inserting into a table"
PARQUET = "pyarrow.parquet.write_table"
SQLITE = "a plain SQLite insert"
ONE = "one thread"
_THREADS = 8
_TIMES = 10  # the rows of each, so that threads insert for longer than they take to start
_KINDS = ("BIGINT", "TEXT", "DOUBLE", "TIMESTAMP", "BOOLEAN", "TEXT")
_TABLE = Table(
    id=1, namespace="bench", name="rows", kind=Kind.USER,
    columns=tuple(Column(n, f"c{n}", ColumnType.parse(kind)) for n, kind in enumerate(_KINDS, 3)),
)  # fmt: skip
_MOMENT = datetime(2026, 11, 28)  # noqa: DTZ001 - a TIMESTAMP has no zone


class _NoFiles:
    """Nothing was flushed yet."""

    folder = Path()

    def live(self, *_: Any, **__: Any) -> ColdTable:
        return ColdTable(0, (), {})

    def known_keys(self, *_: Any) -> dict[Any, int]:
        return {}


def run(scene: Scene) -> Recorder:
    """Each in turn."""
    recorder = Recorder("tables_insert")
    home = Path(mkdtemp(dir=scene.home))
    count = 10 * scene.scale.entries
    with (
        closing(SQLiteHotTables(home / "bench-tables.db", max_bytes=1 << 40)) as hot,
        closing(_plain(home / "plain.db")) as plain,
    ):
        ingest = TableIngest(hot, _NoFiles())  # type: ignore[arg-type] # as much as inserts need
        for users in (1, 1000):
            rows = _rows(count, users)
            ways: list[tuple[str, Callable[[], Any]]] = [
                (PARQUET, lambda rows=rows: pq.write_table(rows, home / "peer.parquet")),  # type: ignore[misc]
                (OURS, lambda rows=rows: ingest.insert(_TABLE, rows)),  # type: ignore[misc]
            ]
            label = f"{count:,} rows of Arrow, {users:,} users"
            for number, (who, act) in scene.turns(ways):
                recorder.add(number, who, f"{users} users", 1000 * seconds(act), label=label)
        _single(scene, recorder, ingest, plain)
    return recorder


def _single(
    scene: Scene, recorder: Recorder, ingest: TableIngest, plain: sqlite3.Connection
) -> None:
    count = scene.scale.entries // 10
    given = [(f"user-{n * 7919 % 1000:04}", _row(n)) for n in range(count)]
    insert = f"INSERT INTO rows VALUES ({', '.join('?' * (1 + len(_KINDS)))})"

    def peer() -> None:
        for user, row in given:
            c3, c4, c5, _, c7, c8 = row.values()
            plain.execute(insert, (user, c3, c4, c5, 1_764_000_000_000_000, c7, c8))

    def ours(part: int = 0, parts: int = 1, times: int = 1) -> None:
        for _ in range(times):
            for user, row in given[part::parts]:
                ingest.insert(_TABLE, [row], user=user)

    def alone() -> None:
        ours(times=_TIMES)

    def together() -> None:
        threads = [
            threading.Thread(target=ours, args=(n, _THREADS, _TIMES)) for n in range(_THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    each = 1e6 / count
    for number, (who, act) in scene.turns([(SQLITE, peer), (OURS, ours)]):
        recorder.add(number, who, "single", each * seconds(act), label="a single row", unit="us")
    for number, (who, act) in scene.turns([(ONE, alone), (OURS, together)]):
        label = f"a single row, {_THREADS} threads"
        took = each * seconds(act) / _TIMES
        recorder.add(number, who, "threads", took, label=label, unit="us")


def _plain(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(
        "CREATE TABLE rows (user TEXT, c3 INTEGER, c4 TEXT, c5 REAL, c6 INTEGER, c7 INTEGER, c8 TEXT)"
    )
    return connection


def _row(number: int) -> dict[str, Any]:
    values = (number, f"text {number}", number * 0.37, _MOMENT, number % 2 == 0, f"s{number % 10}")
    return {column.name: value for column, value in zip(_TABLE.columns, values, strict=True)}


def _rows(count: int, users: int) -> pa.Table:
    source = np.random.default_rng(1)
    names = pa.array([f"user-{n:04}" for n in range(users)])
    columns = (
        source.integers(0, 10**9, count),
        pa.array([f"text {n}" for n in source.integers(0, 10**6, count)]),
        source.random(count),
        pa.array(np.arange(count) * 10**6, pa.timestamp("us")),
        pa.array(source.integers(0, 2, count).astype(bool)),
        pa.array([f"status-{n % 10}" for n in range(count)]),
    )
    made: dict[str, Any] = {USER: names.take(pa.array(source.integers(0, users, count)))}
    made.update(zip([column.name for column in _TABLE.columns], columns, strict=True))
    return pa.table(made)
