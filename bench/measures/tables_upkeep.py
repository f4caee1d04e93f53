"""What keeps user tables in order: commits of several flushers on one table, how many files are left when many small
flushes were merged, and how long it takes until an erased user is in no file that answers.

Each flusher has a hot store of its own; the files, the database and its manifest are one. An erasure counts until all
files are rewritten, without the grace of who reads the old ones.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.harness import BenchError, Recorder, Scene, seconds
from bench.peers import OURS
from surgetank.database.migrate import MigratedDatabase
from surgetank.model import FlushJob, JobStatus
from surgetank.sqlite.shared import SharedFile
from surgetank.streams.tables.cold.mirror import SCRIPT
from surgetank.streams.tables.cold.tables import FileTables
from surgetank.streams.tables.definition import USER, Column, Kind, Table
from surgetank.streams.tables.file import TABLES
from surgetank.streams.tables.hot.protocol import Change, HotTables, Op
from surgetank.streams.tables.hot.store import SQLiteHotTables
from surgetank.streams.tables.types import ColumnType

TITLE = "Upkeep of user tables"
_FLUSHERS = 4
_COMMITS = 50  # of each flusher
_SMALL = 100  # rows of a commit
_BETWEEN = 50  # commits between two compactions, as in a minute of the background
_USERS = 1000
_TABLE = Table(
    id=1,
    namespace="bench",
    name="notes",
    kind=Kind.USER,
    columns=tuple(
        Column(at, name, ColumnType.parse(kind))
        for at, (name, kind) in enumerate([("id", "BIGINT"), ("value", "DOUBLE"), ("text", "TEXT")], 3)
    ),
)  # fmt: skip


def run(scene: Scene) -> Recorder:
    """All three, each on tables of its own."""
    recorder = Recorder("tables_upkeep")
    numbers = itertools.count(1)
    for number, _ in scene.turns([OURS]):
        for measure in (_commits, _merged, _erased):
            folder = scene.home / f"upkeep-{next(numbers)}"
            folder.mkdir()
            measure(scene, recorder, number, folder)
    return recorder


def _commits(scene: Scene, recorder: Recorder, number: int, folder: Path) -> None:
    """Commits of several flushers at once."""
    commits = min(_COMMITS, scene.scale.table_rows // _SMALL)
    with _nodes(scene, folder, _FLUSHERS) as nodes, ThreadPoolExecutor(_FLUSHERS) as pool:
        for seed, node in enumerate(nodes):
            node.flush(_rows(_SMALL, _USERS, seed))
            chance = np.random.default_rng(seed)
            for at in range(commits):
                changes = [
                    Change(_user(int(user)), Op.INSERT, (at, 0.5, f"what was said {user}"))
                    for user in chance.integers(0, _USERS, _SMALL)
                ]
                node.hot.accept(_TABLE, changes)
        (waiting,) = nodes[0].hot.waiting()
        most, done = waiting.bytes // commits, list[int]()
        took = seconds(lambda: done.extend(pool.map(lambda node: node.commit(most), nodes)))
        live = nodes[0].cold.live(_TABLE, stores=())
        if live.rows != _SMALL * _FLUSHERS * (commits + 1):
            raise BenchError(f"{live.rows} rows are in files")
    rate = sum(done) / took
    recorder.add(number, OURS, "commits", rate, label=f"{_FLUSHERS} flushers", unit="commits/s")


def _merged(scene: Scene, recorder: Recorder, number: int, folder: Path) -> None:
    """Files that are left of many flushes of many users."""
    flushes = max(10, scene.scale.table_rows // 1000)
    users = flushes * 10
    with _nodes(scene, folder, 1) as (node,):
        took = 0.0
        for at in range(1, flushes + 1):
            node.flush(_rows(_SMALL, users, at))
            if at % _BETWEEN == 0 or at == flushes:
                took += seconds(node.compact)
        live = node.cold.live(_TABLE, stores=())
        buckets = max(file.buckets for file in live.files)
        label = f"files after {flushes:,} flushes of {users:,} users, for each bucket"
        recorder.add(number, OURS, "files", len(live.files) / buckets, label=label, unit="files")
        recorder.add(
            number, OURS, "merge", took * 1000 / flushes, label="merging them, for each flush"
        )


def _erased(scene: Scene, recorder: Recorder, number: int, folder: Path) -> None:
    """One user is erased from a table."""
    count = scene.scale.table_rows
    users = max(2, min(_USERS, count // 10))
    with _nodes(scene, folder, 1) as (node,):
        for part in range(4):
            node.flush(_rows(count // 4, users, part))
        node.flush(_rows(min(count, 10_000), users, 9), keep=True)
        user = _user(1)

        def erase() -> None:
            node.hot.erase_user(user)
            node.cold.erase_user([_TABLE], user)

        took = seconds(erase)
        left = node.cold.read(_TABLE, node.cold.live(_TABLE, stores=(), user=user), user=user)
        if left.num_rows:
            raise BenchError("an erased user has rows")
    label = f"one user of {users:,} in {count:,} rows"
    recorder.add(number, OURS, "erase", took * 1000, label=label)


@dataclass(frozen=True, slots=True)
class _Node:
    """A hot store that is flushed into the files of all."""

    name: str
    hot: HotTables
    cold: FileTables

    def flush(self, rows: pa.Table, *, keep: bool = False) -> None:
        """Insert rows, and commit them in files (with `keep` they stay hot)."""
        self.hot.accept_arrow(_TABLE, rows)
        if not keep:
            self.commit(64 * 1024**2)

    def commit(self, most: int) -> int:
        """Commit all that waits, some so many bytes at once. How many commits it took."""
        lease = self.hot.lease(_TABLE, owner=self.name, ttl_s=60, force=True)
        if lease is None:
            raise BenchError("there was nothing to flush")
        progress, after, commits = lease.progress, 0, 0
        job = FlushJob(self.name, "tables", "bench", JobStatus.RUNNING, time.time(), self.name)
        while after < lease.through:
            taken, after = self.hot.take(lease, after=after, max_bytes=most)
            progress = progress.advanced(after, ())
            self.cold.write(
                _TABLE, taken, lease=lease, progress=progress, store_id=lease.store_id, job=job
            )
            self.hot.ack(lease, after)
            commits += bool(taken.num_rows)
        self.hot.release(lease)
        return commits

    def compact(self) -> None:
        """Until nothing is to be merged."""
        while self.cold.compact(_TABLE).inputs:
            pass


@contextmanager
def _nodes(scene: Scene, folder: Path, count: int) -> Iterator[list[_Node]]:
    with ExitStack() as stack:
        url = stack.enter_context(scene.server.database(migrated=True))
        nodes: list[_Node] = []
        for number in range(count):
            path = folder / f"{number}-tables.db"
            database = stack.enter_context(closing(MigratedDatabase(url)))
            hot = stack.enter_context(closing(SQLiteHotTables(path, max_bytes=16 * 1024**3)))
            file = SharedFile(path, kind=TABLES, name="table store", script=SCRIPT)
            cold = FileTables(database, folder / "tables", file=file)
            stack.enter_context(closing(cold))
            cold.live(_TABLE, stores=())  # migrated before anything is timed
            nodes.append(_Node(f"node-{number}", hot, cold))
        yield nodes


def _user(number: int) -> str:
    return f"user-{number:06d}"


def _rows(count: int, users: int, seed: int) -> pa.Table:
    chance = np.random.default_rng(seed)
    names = np.array([_user(number) for number in range(users)], dtype=object)
    return pa.table(
        {
            USER: pa.array(names[chance.integers(0, users, count)], pa.string()),
            "id": pa.array(np.arange(count)),
            "value": pa.array(chance.random(count)),
            "text": pa.array([f"what was said {number % 997}" for number in range(count)]),
        }
    )
