"""kill -9 between a segment's file, its row and the answer, and around an acknowledgement; and two processes on one
file. What was answered is there, the rest is there in full or not at all, and nothing is taken twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from surgetank.exceptions import LeaseLost
from surgetank.streams.tables.definition import USER, Column, Kind, Table
from surgetank.streams.tables.hot.protocol import VERSION, BatchKey, Change, Op
from surgetank.streams.tables.hot.store import SQLiteHotTables
from surgetank.streams.tables.types import ColumnType

T = Table(
    id=1, namespace="ns", name="t", kind=Kind.USER,
    columns=(Column(3, "n", ColumnType.parse("BIGINT")),),
)  # fmt: skip
ROWS = pa.table({USER: ["bob", "ann", "bob"], "n": [1, 2, 3]})
BATCH = BatchKey("k", b"digest")
_KILLED = """
import os, signal, sys
from faults.test_hot_tables_killed import BATCH, ROWS, T
from surgetank.sqlite.shared import SharedFile
from surgetank.streams.tables.hot import flushing, putting, segments
from surgetank.streams.tables.hot.hot_file import HotFile
from surgetank.streams.tables.hot.store import SQLiteHotTables
from surgetank.streams.tables.hot.protocol import Change, Op

def killed_after(owner, name):
    before = getattr(owner, name)
    def wrapper(*arguments, **named):
        before(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, wrapper)

path, point = sys.argv[1:]
hot = SQLiteHotTables(path)
hot.accept(T, [Change("ann", Op.INSERT, (0,))])
print("one row", flush=True)
if point in ("single", "part"):
    for n in range(1, 5):
        hot.accept(T, [Change("ann", Op.INSERT, (n,))])
if point == "single":
    killed_after(SharedFile, "insert")
    hot.accept(T, [Change("ann", Op.INSERT, (5,))])
if point == "part":
    lease = hot.lease(T, owner="killed", ttl_s=0.001)
    hot.ack(lease, hot.take(lease, max_bytes=200)[1])
    os.kill(os.getpid(), signal.SIGKILL)
if point == "file":
    killed_after(segments, "write_stored")
if point == "row":
    killed_after(putting, "_keep_batch")
if point == "answer":
    killed_after(HotFile, "committed")
hot.accept_arrow(T, ROWS, batch=BATCH)
print("segment", flush=True)
lease = hot.lease(T, owner="killed", ttl_s=0.001)
if point in ("subtract", "remove_covered", "recount_segments"):
    killed_after(flushing, point)
hot.ack(lease, lease.through)
print("acknowledged", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
_BESIDE = """
import sys
from faults.test_hot_tables_killed import T
import pyarrow as pa
from surgetank.streams.tables.hot.store import SQLiteHotTables
from surgetank.streams.tables.hot.protocol import Change, Op

hot = SQLiteHotTables(sys.argv[1])
print("open", flush=True)
for n in range(100):
    hot.accept(T, [Change("child", Op.INSERT, (n,))])
    if n % 10 == 0:
        hot.accept_arrow(T, pa.table({"_user": ["child"] * 20, "n": range(1000 + 2 * n, 1020 + 2 * n)}))
hot.close()
"""


def run(script: str, *arguments: str) -> subprocess.Popen[str]:
    tests = str(Path(__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": tests},
    )


def numbers(hot: SQLiteHotTables) -> list[int]:
    with hot.snapshot() as snapshot:
        return sorted(snapshot.rows(T).column("n").to_pylist())


@pytest.mark.parametrize(
    "point",
    ["file", "row", "answer", "subtract", "remove_covered", "recount_segments", "acknowledged"],
)
def test_whatever_was_answered_is_there_and_nothing_twice(tmp_path: Path, point: str) -> None:
    path = tmp_path / "buffer-tables.db"
    with run(_KILLED, str(path), point) as child:
        answered, _ = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    hot = SQLiteHotTables(path)
    flushed = point == "acknowledged"
    there = {"file": [0], "row": [0]}.get(point, [] if flushed else [0, 1, 2, 3])
    assert numbers(hot) == there
    assert hot.depth().entries == len(there)
    assert ("segment" in answered) == (point not in ("file", "row", "answer"))
    again = hot.accept_arrow(T, ROWS, batch=BATCH)  # as the caller does that had no answer
    assert again.repeated == (point not in ("file", "row"))
    assert numbers(hot) == ([] if flushed else [0, 1, 2, 3])
    with hot.snapshot() as snapshot:
        through = snapshot.through(T)
    assert hot.accept(T, [Change("ann", Op.INSERT, (4,))]).first > through
    for file in hot.segments.glob("*.arrow"):
        os.utime(file, (0, 0))  # a crash of some hours ago
    hot.maintain()
    assert len(list(hot.segments.glob("*.arrow"))) == (0 if flushed else 1)
    assert numbers(hot) == ([4] if flushed else [0, 1, 2, 3, 4])
    hot.close()


@pytest.mark.parametrize(("point", "there"), [("single", range(6)), ("part", range(2, 5))])
def test_single_rows_are_counted_and_taken_once_after_a_kill(
    tmp_path: Path, point: str, there: range
) -> None:
    path = tmp_path / "buffer-tables.db"
    with run(_KILLED, str(path), point) as child:
        child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    hot = SQLiteHotTables(path)
    (waiting,) = hot.waiting()
    assert (numbers(hot), waiting.changes, hot.depth().entries) == ([*there], *[len(there)] * 2)
    assert [state.entries for state in hot.states()] == [len(there)]
    hot.maintain()
    with sqlite3.connect(path) as connection:  # what was acknowledged is gone now
        (rows,) = connection.execute("SELECT count(user) FROM hot_rows_1").fetchone()
    connection.close()
    assert (numbers(hot), rows) == ([*there], len(there))
    lease = hot.lease(T, owner="me", ttl_s=30)
    assert lease is not None
    rows, through = hot.take(lease)
    assert rows.column("n").to_pylist() == [*there]
    assert hot.ack(lease, through).changes == len(there)
    assert (numbers(hot), hot.waiting(), hot.depth().bytes) == ([], [], 0)
    assert hot.accept(T, [Change("ann", Op.INSERT, (9,))]).first > through
    hot.close()


def test_two_processes_insert_and_flush_and_nothing_is_lost_or_taken_twice(tmp_path: Path) -> None:
    hot = SQLiteHotTables(tmp_path / "buffer-tables.db")
    taken: list[int] = []
    versions: list[int] = []
    with run(_BESIDE, str(hot.path)) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        mine = 0
        while child.poll() is None or hot.waiting():
            if mine < 100:
                hot.accept(T, [Change("parent", Op.INSERT, (10_000 + mine,))])
                mine += 1
            lease = hot.lease(T, owner="parent", ttl_s=30)
            if lease is None:
                continue
            rows, through = hot.take(lease)
            hot.ack(lease, through)
            hot.release(lease)
            with pytest.raises(LeaseLost):
                hot.ack(lease, through)
            taken += rows.column("n").to_pylist()
            versions += rows.column(VERSION).to_pylist()
    parents = list(range(10_000, 10_000 + mine))
    assert sorted(taken) == sorted([*range(100), *range(1000, 1200), *parents])
    assert len(set(versions)) == len(versions)
    assert (numbers(hot), hot.depth().entries) == ([], 0)
    hot.close()
