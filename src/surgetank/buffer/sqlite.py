"""The buffer in one SQLite file (WAL): an append is one short transaction, about 25 microseconds.

Concurrent appenders commit together: each puts its request in a queue, and whoever holds the write lock
commits all that wait (group commit). With `durability="power"` one fsync then serves them all.
Coordination (leases, attempts, parked entries, jobs) is in `sqlite_flush.py`, lookups in `sqlite_read.py`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from surgetank.buffer import sqlite_file
from surgetank.buffer.protocol import Guard
from surgetank.buffer.sqlite_flush import SQLiteFlushSide
from surgetank.buffer.sqlite_read import SQLiteSnapshot, read_depth
from surgetank.exceptions import (
    BufferCorrupt,
    BufferFull,
    BufferProblem,
    BufferUnavailable,
    ConfigurationError,
    EntryRejected,
)
from surgetank.model import BufferDepth, Record

SLOTS = 65536  # records per entry, at most
_GROUP = 256  # requests committed together, at most
_KNOWN_PARTITIONS = 100_000
_FREE_PAGES_KEPT = 256
_WAL_WORTH_MOVING = 1 << 20
_WAL_LARGE = 32 << 20


@dataclass(frozen=True, slots=True)
class BufferLimits:
    """How much may wait, and what `append` does at the limit.

    `when_full="block"` waits up to `block_timeout_s` for space, `"reject"` raises at once.
    """

    max_bytes: int = 4 * 1024**3
    max_entries: int = 5_000_000
    when_full: Literal["block", "reject"] = "block"
    block_timeout_s: float = 30.0


@dataclass(slots=True, eq=False)
class _Request:
    """One append on its way through the group commit. `accepted` only becomes true after the commit, so that
    whoever is interrupted anywhere never leaves another append believing in an entry that is not there.
    """

    stream: str
    partition: str
    records: Sequence[Record]
    size: int
    guard: Guard | None
    start_guarding: bool
    seq: int = 0
    full: bool = False
    accepted: bool = False
    done: bool = False
    error: Exception | None = field(default=None)


class SQLiteBuffer(SQLiteFlushSide):
    """A `Buffer` in the SQLite file at `path`, shared by any number of threads and processes.

    `durability`: `"process"` survives kill -9 of every process, `"power"` also a power cut (an fsync per
    group of appends). Raises `BufferUnavailable`, `BufferCorrupt`.
    """

    def __init__(
        self,
        path: Path,
        *,
        durability: Literal["process", "power"] = "process",
        limits: BufferLimits | None = None,
        clock: Callable[[], float] = time.time,
        jobs_kept: int = 10_000,
        notes_kept: int = 200_000,
    ) -> None:
        if durability not in ("process", "power"):
            raise ConfigurationError(
                f"Unknown durability {durability!r}.",
                remedy="use 'process' (survives kill -9) or 'power' (fsync).",
            )
        self.path = Path(path)
        self.limits = limits or BufferLimits()
        self.durability = durability
        self._clock = clock
        self._jobs_kept = jobs_kept
        self._notes_kept = notes_kept
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._waiting: deque[_Request] = deque()
        self._space = threading.Condition()
        self._begun = False
        self._ids: dict[tuple[str, str], int] = {}
        self._writer: sqlite3.Connection | None = sqlite_file.connect(self.path, durability=durability)
        self._readers = sqlite_file.ReadPool(self.path)
        with sqlite_file.named_errors(self.path):
            (self._id,) = self._writer.execute("SELECT buffer_id FROM identity").fetchone()

    @property
    def id(self) -> str:
        return str(self._id)

    def append(
        self,
        stream: str,
        partition: str,
        records: Sequence[Record],
        *,
        guard: Guard | None = None,
        start_guarding: bool = False,
        wait: bool = True,
    ) -> int:
        if not 0 < len(records) < SLOTS:  # no row to be found by, or rows that take the next entry's places
            raise EntryRejected(
                partition=partition, path="$", reason=f"an entry of {len(records)} records",
                remedy=f"write between 1 and {SLOTS - 1} values at once",
            )  # fmt: skip
        size = 0
        for record in records:
            size += len(record.key) + len(record.value)
        request = _Request(stream, partition, records, size, guard, start_guarding)
        deadline: float | None = None
        while True:
            self._submit(request)
            if request.error is not None:
                raise request.error
            if not request.full:
                if not request.accepted:
                    raise _interrupted()
                return request.seq
            if deadline is None:
                self._refuse_hopeless(request, wait=wait)
                deadline = time.monotonic() + self.limits.block_timeout_s
            self._wait_for_space(request, deadline)

    def _submit(self, request: _Request) -> None:
        # Before the lock: another thread may have held it at the fork.
        sqlite_file.refuse_fork(self._pid, self.path)
        request.done = request.full = request.accepted = False
        self._waiting.append(request)
        try:
            with self._lock:
                while not request.done and self._waiting:
                    self._commit_group()
        except BaseException:  # KeyboardInterrupt: who was told so must not find it accepted later
            with suppress(ValueError, IndexError):
                self._waiting.remove(request)
            raise

    def _commit_group(self) -> None:
        group: list[_Request] = []
        self._begun = False
        try:
            while self._waiting and len(group) < _GROUP:
                group.append(self._waiting.popleft())
            self._commit(group)
            self._accept(group)
        except (sqlite3.OperationalError, BufferProblem) as error:  # the file's fault: the same for all
            self._refuse(group, error)
        except Exception as error:
            if self._begun:  # a signal handler's exception that came after the commit
                self._accept(group)
                raise
            if len(group) == 1:
                self._refuse(group, error)
            else:  # one append's data: it must not take its neighbours with it
                for request in group:
                    self._commit_alone(request)
        except BaseException:  # KeyboardInterrupt
            if self._begun and not self._in_transaction():
                self._accept(group)  # it came after the commit
            raise
        finally:
            for request in group:
                request.done = True

    def _commit(self, group: Sequence[_Request]) -> None:
        try:
            connection = self._begin()
            self._begun = True
            for request in group:
                self._insert(connection, request)
            connection.execute("COMMIT")
        except BaseException as error:
            if isinstance(error, sqlite3.Error) or self._in_transaction():
                self._begun = False
                self._roll_back()
            raise

    def _in_transaction(self) -> bool:
        return self._writer is not None and self._writer.in_transaction

    @staticmethod
    def _accept(group: Sequence[_Request]) -> None:
        for request in group:
            request.accepted = True

    def _commit_alone(self, request: _Request) -> None:
        try:
            request.full, request.seq = False, 0
            self._begun = False
            self._commit([request])
            request.accepted, request.error = True, None
        except Exception as error:  # noqa: BLE001 - handed to the append that it belongs to
            self._refuse([request], error)

    def _refuse(self, group: Sequence[_Request], error: BaseException) -> None:
        for request in group:
            request.error = self._refusal(error, request)

    def _refusal(self, error: BaseException, request: _Request) -> Exception:
        if isinstance(error, sqlite3.Error):
            return sqlite_file.translate(error, self.path)
        if isinstance(error, UnicodeEncodeError):
            return EntryRejected(
                partition=request.partition, path="$", reason=f"a name that is not valid text ({error.reason})",
                remedy="use names without lone surrogates",
            )  # fmt: skip
        assert isinstance(error, Exception)
        return error

    def _insert(self, connection: sqlite3.Connection, request: _Request) -> None:
        size, now = request.size, self._clock()
        row = connection.execute(
            "UPDATE totals SET next_seq = next_seq + 1, entries = entries + 1, bytes = bytes + ?1"
            " WHERE bytes + ?1 <= ?2 AND entries < ?3 RETURNING next_seq - 1",
            (size, self.limits.max_bytes, self.limits.max_entries),
        ).fetchone()
        if row is None:
            request.full = True
            return
        seq: int = row[0]
        partition_id, guarded = self._count_in(connection, request.stream, request.partition, size, now)
        if guarded and request.guard is not None:
            refusal = request.guard(SQLiteSnapshot(connection, now))
            if refusal is not None:
                self._uncount(connection, partition_id, size)
                self._note(connection, partition_id, refusal)
                return
        at = seq * SLOTS
        connection.executemany(
            "INSERT INTO records VALUES (?, ?, 0, 0, ?, ?, ?)",
            [(at + i, partition_id, now, r.key, r.value) for i, r in enumerate(request.records)],
        )
        if request.start_guarding:
            self._start_guarding(connection, partition_id)
        request.seq = seq

    def _count_in(
        self, connection: sqlite3.Connection, stream: str, partition: str, size: int, now: float
    ) -> tuple[int, int]:
        """Add one entry to its partition's counters, making it if it is new; returns its id and the guarded flag."""
        key = (stream, partition)
        known = self._ids.get(key)
        if known is not None:
            row = connection.execute(
                "UPDATE partitions SET entries = entries + 1, bytes = bytes + ?"
                " WHERE id = ? AND oldest_at IS NOT NULL RETURNING guarded",
                (size, known),
            ).fetchone()
            if row is not None:
                return known, row[0]
        partition_id, guarded = connection.execute(
            "INSERT INTO partitions (stream, name, entries, bytes, oldest_at) VALUES (?, ?, 1, ?, ?)"
            " ON CONFLICT (stream, name) DO UPDATE SET entries = entries + 1, bytes = bytes + excluded.bytes,"
            " oldest_at = coalesce(oldest_at, excluded.oldest_at) RETURNING id, guarded",
            (stream, partition, size, now),
        ).fetchone()
        if len(self._ids) >= _KNOWN_PARTITIONS:
            self._ids.clear()
        self._ids[key] = partition_id
        return partition_id, guarded

    @staticmethod
    def _uncount(connection: sqlite3.Connection, partition_id: int, size: int) -> None:
        """Take back what was counted for an append that a guard refused."""
        connection.execute("UPDATE totals SET entries = entries - 1, bytes = bytes - ?", (size,))
        connection.execute(
            "UPDATE partitions SET entries = entries - 1, bytes = bytes - ?,"
            " oldest_at = CASE WHEN entries > 1 THEN oldest_at END WHERE id = ?",
            (size, partition_id),
        )

    def _refuse_hopeless(self, request: _Request, *, wait: bool) -> None:
        if not wait or request.size > self.limits.max_bytes or self.limits.when_full == "reject":
            raise self._full(request, waited=None)

    def _full(self, request: _Request, *, waited: float | None) -> BufferFull:
        depth = self.depth()
        wait = f" after waiting {waited:.0f} s" if waited is not None else ""
        return BufferFull(
            f"The buffer is at its limit{wait}: {depth.entries} of {depth.max_entries} entries, {depth.bytes} of"
            f" {depth.max_bytes} bytes; {request.size} bytes for {request.partition!r} were not accepted.",
            remedy="see `surgetank status` for why it doesn't drain (is the database up?), or raise "
            "SURGETANK_BUFFER_MAX_BYTES / SURGETANK_BUFFER_MAX_ENTRIES.",
        )

    def _wait_for_space(self, request: _Request, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._full(request, waited=self.limits.block_timeout_s)
        with self._space:
            # Another process may make the space, and can't notify: look again after a short while.
            self._space.wait(min(left, 0.05))

    def _made_space(self) -> None:
        with self._space:
            self._space.notify_all()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One write transaction of the coordination side."""
        sqlite_file.refuse_fork(self._pid, self.path)
        with self._lock, sqlite_file.named_errors(self.path):
            try:
                connection = self._begin()
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise

    def _begin(self) -> sqlite3.Connection:
        connection = self._writer
        if connection is None:
            raise BufferUnavailable(
                f"The buffer {self.path} is closed.", remedy="open Surgetank again before you use its saver."
            )
        if connection.in_transaction:  # left by somebody who was interrupted twice
            self._roll_back()
        connection.execute("BEGIN IMMEDIATE")
        return connection

    def _roll_back(self) -> None:
        # An id handed out in this transaction may be handed out again, for another partition.
        self._ids.clear()
        if self._writer is not None and self._writer.in_transaction:
            with suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[SQLiteSnapshot]:
        with self._readers.borrow() as connection:
            yield SQLiteSnapshot(connection, self._clock())

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._readers.borrow() as connection:
            yield connection

    def depth(self) -> BufferDepth:
        with self._readers.borrow() as connection:
            return read_depth(connection, self.limits.max_entries, self.limits.max_bytes, self.file_bytes())

    def file_bytes(self) -> int:
        """Bytes on disk of the file and its write-ahead log."""
        total = 0
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                total += self.path.with_name(self.path.name + suffix).stat().st_size
        return total

    def check(self) -> None:
        """Read the whole file and raise `BufferCorrupt` if any page of it is damaged."""
        with self._readers.borrow() as connection:
            problems = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
        if problems != ["ok"]:
            raise BufferCorrupt(
                f"The buffer file {self.path} is damaged: {'; '.join(problems)}. It was left as it is.",
                remedy="copy it to a safe place and start with another SURGETANK_HOME.",
            )

    def maintain(self, *, thorough: bool = True) -> None:
        """Move the WAL into the file, give free pages back; if `thorough`, forget old notes, jobs and partitions."""
        sqlite_file.refuse_fork(self._pid, self.path)
        if thorough:
            self._forget()
        while self._vacuum_step():
            pass
        with suppress(FileNotFoundError):
            wal_bytes = self.path.with_name(self.path.name + "-wal").stat().st_size
            if wal_bytes > _WAL_WORTH_MOVING:
                self._move_wal(truncate=wal_bytes > _WAL_LARGE or self.depth().entries == 0)

    def _vacuum_step(self) -> bool:
        """Give up to 8 MiB of free pages back, holding up writers only that long. True if more is to do."""
        with self._lock, sqlite_file.named_errors(self.path):
            if self._writer is None:
                return False
            (free,) = self._writer.execute("PRAGMA freelist_count").fetchone()
            if free <= _FREE_PAGES_KEPT:
                return False
            # `execute` would step once and free one page; `executescript` steps to the end.
            self._writer.executescript(f"PRAGMA incremental_vacuum({min(free, 2048)})")
            return bool(free > _FREE_PAGES_KEPT + 2048)

    def _move_wal(self, *, truncate: bool) -> None:
        # On a connection of its own: writers go on meanwhile.
        connection = sqlite_file.connect(self.path, durability=self.durability)
        try:
            with sqlite_file.named_errors(self.path):
                connection.execute("PRAGMA busy_timeout = 20")
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                if truncate:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.close()

    def close(self) -> None:
        """Close all connections. What waits stays in the file."""
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                if self._pid == os.getpid():
                    writer.close()
                self._readers.close()


def _interrupted() -> BufferUnavailable:
    return BufferUnavailable("The append was interrupted and not accepted.", remedy="append again.")
