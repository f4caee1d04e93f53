"""Opening buffers of every kind for the contract suite, also from another process, and building
their data.

A new kind of buffer joins the suite by a class of three functions in `KINDS`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from support.holder import held
from support.redis_server import url_for
from support.torture import SEEDS
from surgetank.buffer.coordination import Ack, Due, Leased
from surgetank.buffer.copies import RecentLimits
from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.log import Guard
from surgetank.buffer.protocol import Buffer
from surgetank.buffer.redis.buffer import RedisBuffer
from surgetank.buffer.sqlite import ledger
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.job_result import JobResult
from surgetank.model import Entry, Failure, FailureKind, FlushJob, JobStatus, Lease, Record
from surgetank.redis.address import parse

NOW = 1_700_000_000.0
DOWN = Failure(FailureKind.TRANSIENT, "the database is down", "OperationalError", sqlstate="08006")
BAD = Failure(
    FailureKind.REJECTED, "a bad value", "DataError", sqlstate="22P02", stack_trace="trace"
)
_TESTS = Path(__file__).parents[1]


class FakeClock:
    """A clock that a test moves."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move on, or back with a negative number."""
        self.now += seconds


class Kind(Protocol):
    """How the suite makes a buffer of one kind; all that it keeps is in or named after `folder`."""

    at_once: bool  # whether an append of an event loop mostly need not wait

    def open(
        self,
        folder: Path,
        limits: BufferLimits,
        *,
        clock: Callable[[], float],
        jobs_kept: int,
        recent: RecentLimits,
        keep_s: float,
    ) -> Buffer:
        """A buffer object on the contents."""
        ...

    def held(self, folder: Path) -> AbstractContextManager[object]:
        """Another process keeps writers waiting."""
        ...

    def miscounted(self, folder: Path) -> list[str]:
        """What the buffer counts that is not so, as sentences."""
        ...


def miscounted(path: Path) -> list[str]:
    """What the SQLite buffer at `path` counts that is not so, as sentences."""
    with closing(sqlite3.connect(path)) as connection:
        return ledger.verify(connection)


class SQLiteKind:
    """Buffers in a SQLite file."""

    at_once = True

    def open(
        self,
        folder: Path,
        limits: BufferLimits,
        *,
        clock: Callable[[], float],
        jobs_kept: int,
        recent: RecentLimits,
        keep_s: float,
    ) -> Buffer:
        return SQLiteBuffer(
            folder / "buffer.db",
            limits=limits,
            clock=clock,
            jobs_kept=jobs_kept,
            recent=recent,
            keep_s=keep_s,
        )

    def held(self, folder: Path) -> AbstractContextManager[object]:
        return held(folder / "buffer.db")

    def miscounted(self, folder: Path) -> list[str]:
        return miscounted(folder / "buffer.db")


class RedisKind:
    """Buffers in Redis, under a prefix that is the folder's."""

    at_once = False

    def open(
        self,
        folder: Path,
        limits: BufferLimits,
        *,
        clock: Callable[[], float],
        jobs_kept: int,
        recent: RecentLimits,
        keep_s: float,
    ) -> Buffer:
        address = parse(url_for(folder))
        return RedisBuffer(
            address, limits=limits, clock=clock, jobs_kept=jobs_kept, recent=recent, keep_s=keep_s
        )

    @contextmanager
    def held(self, folder: Path) -> Iterator[object]:
        yield folder  # nobody can hold a server

    def miscounted(self, folder: Path) -> list[str]:
        with closing(RedisBuffer(parse(url_for(folder)))) as buffer:
            return buffer.miscounted()


KINDS: dict[str, Kind] = {"sqlite": SQLiteKind(), "redis": RedisKind()}


def examples(kind: str, number: int) -> int:
    """How many examples a machine tries: fewer where each step is a round trip, but for `make
    torture`."""
    return number if KINDS[kind].at_once or len(SEEDS) > 2 else number // 6


class BufferHouse:
    """One home of a buffer's contents; `open` gives a new buffer object on it each time."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.clock = FakeClock()
        self.at_once = KINDS[kind].at_once
        self._opened: list[Buffer] = []

    def open(
        self,
        *,
        max_bytes: int = 1 << 30,
        max_entries: int = 1_000_000,
        when_full: Literal["block", "reject"] = "reject",
        block_timeout_s: float = 10.0,
        jobs_kept: int = 10_000,
        recent: RecentLimits | None = None,
        clock: Callable[[], float] | None = None,
        keep_s: float = 0.0,
    ) -> Buffer:
        """A buffer object on the contents."""
        limits = BufferLimits(max_bytes, max_entries, when_full, block_timeout_s)
        buffer = KINDS[self.kind].open(
            self.folder,
            limits,
            clock=clock or self.clock,
            jobs_kept=jobs_kept,
            recent=recent or RecentLimits(),
            keep_s=keep_s,
        )
        self._opened.append(buffer)
        return buffer

    def held(self) -> AbstractContextManager[object]:
        """Another process holds the buffer, so that nobody else can write."""
        return KINDS[self.kind].held(self.folder)

    def in_another_process(self, code: str) -> Any:
        """Run `code` in a new process, where `buffer` is open on the contents; returns its JSON
        `answer`."""
        program = (
            "import json, sys; from pathlib import Path\n"
            "from support.buffers import *\n"
            f"house = BufferHouse({self.kind!r}, Path({str(self.folder)!r}))\n"
            f"house.clock.now = {self.clock.now!r}\n"
            "buffer = house.open()\n"
            f"{code}\n"
            "house.close(); print(json.dumps(answer))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], env=child_env(), capture_output=True, text=True, timeout=60, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def miscounted(self) -> list[str]:
        """What the buffer counts that is not so, as sentences; nothing where none was opened."""
        return KINDS[self.kind].miscounted(self.folder) if self._opened else []

    def close(self) -> None:
        """Close every buffer that was opened here."""
        for buffer in self._opened:
            buffer.close()


def child_env() -> dict[str, str]:
    """The environment of a child process that imports surgetank and the tests' support."""
    import surgetank

    paths = [str(Path(surgetank.__file__).parents[1]), str(_TESTS)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def put(
    buffer: Buffer, partition: str = "p", *values: bytes, stream: str = "s", key: bytes = b"k"
) -> int:
    """Append one entry with a record per value, all under one key."""
    return buffer.append(stream, partition, [Record(key, value) for value in values or (b"v",)])


def append_soon(
    buffer: Buffer,
    stream: str,
    partition: str,
    records: Sequence[Record],
    *,
    guard: Guard | None = None,
    fence: int | None = None,
) -> int:
    """Append as an event loop does: at once, and where that can't be, on a thread."""
    seq = buffer.try_append(stream, partition, records, guard=guard, fence=fence)
    if seq is not None:
        return seq
    return buffer.append(stream, partition, records, guard=guard, fence=fence, wait=False)


def take(
    buffer: Buffer,
    partition: str | None = None,
    *,
    stream: str = "s",
    owner: str = "w",
    ttl_s: float = 15.0,
) -> Leased:
    """Lease the one partition that waits (or the named one), due or not."""
    (leased,) = buffer.lease(stream, Due(partition=partition, force=True), owner=owner, ttl_s=ttl_s)
    return leased


def names(leased: Sequence[Leased]) -> list[str]:
    """Names of leased partitions, in their order."""
    return [x.lease.partition for x in leased]


def read_all(buffer: Buffer, lease: Lease) -> list[Entry]:
    """All waiting entries of a leased partition."""
    return buffer.read(lease, max_entries=1_000_000, max_bytes=1 << 40)


def values(entries: Sequence[Entry]) -> list[bytes]:
    """The values of all records, in order."""
    return [record.value for entry in entries for record in entry.records]


def note(buffer: Buffer, **what: object) -> None:
    """Acknowledge one entry of `p`, and leave this with the partition."""
    put(buffer)
    lease = take(buffer).lease
    buffer.ack([Ack(lease, read_all(buffer, lease), release=True, **what)])  # type: ignore[arg-type]


def notes(buffer: Buffer, prefix: bytes = b"") -> Mapping[bytes, bytes]:
    """What is noted with `p`."""
    with buffer.snapshot() as view:
        return view.notes("s", "p", prefix)


def due_now(buffer: Buffer, due: Due) -> list[str]:
    """Names of the partitions that are due; they are given back at once."""
    leased = buffer.lease("s", due, owner="w", ttl_s=15)
    buffer.release([x.lease for x in leased])
    return names(leased)


def never(**thresholds: object) -> Due:
    """What makes nothing due but by the thresholds that are given."""
    return Due(**{"entries": 10**9, "bytes": 10**12, "age_s": 1e9, **thresholds})  # type: ignore[arg-type]


def job(
    id_: str, at: float, status: JobStatus = JobStatus.COMPLETED, stream: str = "s"
) -> FlushJob:
    """A flush job."""
    return FlushJob(
        id_, stream, "manual", status, at, "node", result=JobResult(rows_flushed=1, warnings=())
    )


def drain(buffer: Buffer, *, stream: str = "s") -> list[Entry]:
    """Lease, read, acknowledge and give back everything that waits in a stream."""
    drained: list[Entry] = []
    for leased in buffer.lease(stream, Due(force=True), owner="drain", ttl_s=15.0):
        entries = read_all(buffer, leased.lease)
        assert buffer.ack([Ack(leased.lease, entries, release=True)]) == []
        drained += entries
    return drained


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    """Poll until the condition holds; fail when it doesn't in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.001)
