"""The buffer in one SQLite file (WAL): an append is one short transaction, about 25 microseconds.

Concurrent appenders commit together: each puts its request in a queue, and whoever holds the write
lock commits all that wait (group commit). With `durability="power"` one fsync then serves them all.
How an append is inserted is in `sqlite_append.py`, coordination (leases, attempts, parked entries,
jobs) in `sqlite_flush.py`, lookups in `sqlite_read.py`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from surgetank.buffer.copies import RecentLimits
from surgetank.buffer.log import Guard
from surgetank.buffer.sqlite.append import SLOTS, BufferLimits, Inserter, Request
from surgetank.buffer.sqlite.audit import Auditor
from surgetank.buffer.sqlite.checks import Checker
from surgetank.buffer.sqlite.erase import erase_parked, erase_partitions, erase_words
from surgetank.buffer.sqlite.kept import note_destination, random_epoch
from surgetank.buffer.sqlite.read import SQLiteSnapshot
from surgetank.buffer.sqlite.reserve import DiskReserve
from surgetank.buffer.sqlite.schema import BUFFER
from surgetank.buffer.sqlite.spill import SQLiteSpillSide
from surgetank.buffer.sqlite.tallies import SQLiteTallySide
from surgetank.buffer.sqlite.upkeep import SQLiteUpkeepSide
from surgetank.exceptions import (
    BufferCorrupt,
    BufferFull,
    BufferProblem,
    BufferUnavailable,
    ConfigurationError,
    EntryRejected,
)
from surgetank.fallback.files import SpillFiles
from surgetank.model import Record
from surgetank.sqlite import file
from surgetank.sqlite.place import FilePlace
from surgetank.sqlite.scrub import scrub

_GROUP = 256  # requests committed together, at most
_TRY_S = 0.002  # how long an append that must not wait waits for another thread or process
_HURRIED = f"PRAGMA busy_timeout = {int(1000 * _TRY_S)}"
_PATIENT = f"PRAGMA busy_timeout = {int(1000 * file.BUSY_TIMEOUT_S)}"

__all__ = ["BufferLimits", "SQLiteBuffer"]


class SQLiteBuffer(SQLiteUpkeepSide, SQLiteTallySide, SQLiteSpillSide):
    """A `Buffer` in the SQLite file at `path`, shared by any number of threads and processes.

    `durability`: `"process"` survives kill -9 of every process, `"power"` also a power cut (an
    fsync per group of appends). `files` knows where values may be spilled to; those with one of the
    `inline_keys` never are (what guards look into). Streams of `last_words` are accepted even when
    the file was deleted under this process: they tell of it, and it flushes them. Acknowledged
    entries are kept for `keep_s`, up to `keep_bytes` of them. `destination` is the database that it
    belongs to from its first entry on. `reserve_bytes` of the disk are set aside to flush with when
    it is full. Raises `BufferUnavailable`, `BufferCorrupt`.
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
        recent: RecentLimits | None = None,
        files: SpillFiles | None = None,
        inline_keys: frozenset[bytes] = frozenset(),
        last_words: frozenset[str] = frozenset(),
        reserve_bytes: int = 0,
        keep_s: float = 0.0,
        keep_bytes: int = 64 * 1024**2,
        new_epoch: Callable[[], int] | None = None,
        destination: str | None = None,
    ) -> None:
        if durability not in ("process", "power"):
            raise ConfigurationError(
                f"Unknown durability {durability!r}.",
                remedy="use 'process' (survives kill -9) or 'power' (fsync).",
            )
        self.path = Path(path)
        self.limits = limits or BufferLimits()
        self.recent = recent or RecentLimits()
        self.durability = durability
        self.files = files or SpillFiles(None)
        self.inline_keys = inline_keys
        self.last_words = last_words
        self._clock = clock
        self._jobs_kept = jobs_kept
        self._notes_kept = notes_kept
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._waiting: deque[Request] = deque()
        self._space = threading.Condition()
        self._wal_moved_at = 0  # when it was written last, as of the last time it was moved
        self.keep_s, self.keep_bytes = keep_s, keep_bytes
        self._new_epoch = new_epoch or random_epoch
        self._destination = destination
        self._begun = self._economical = False
        self.reserve = DiskReserve(self.path, reserve_bytes)
        self.reserve.before_open()
        self._writer: sqlite3.Connection | None = file.connect(
            self.path, durability=durability, kind=BUFFER
        )
        self.place = FilePlace(self.path)
        self._readers = file.ReadPool(self.path, self.place)
        with file.named_errors(self.path):
            (self._secure_delete,) = self._writer.execute("PRAGMA secure_delete").fetchone()
            identity = self._writer.execute(
                "SELECT buffer_id, checked_from FROM identity"
            ).fetchone()
        if identity is None:
            self._writer.close()
            raise BufferCorrupt(
                f"The buffer file {self.path} is damaged: it has no identity any more. It was left "
                f"as it is.",
                remedy="`surgetank doctor --salvage FOLDER` copies all that is whole.",
            )
        self._id, checked_from = identity
        self._checker = Checker(self.path, checked_from)
        self._auditor = Auditor(self._checker)
        self._inserter = Inserter(
            self.limits,
            self._checker,
            note=self._note,
            start_guarding=self._start_guarding,
            epoch=self._new_epoch(),
        )
        self._recall = self._inserter.memory.recall
        with self._readers.borrow() as connection:
            self._auditor.look(connection)

    @property
    def id(self) -> str:
        return str(self._id)

    @property
    def name(self) -> str:
        return str(self.path)

    def append(
        self,
        stream: str,
        partition: str,
        records: Sequence[Record],
        *,
        guard: Guard | None = None,
        start_guarding: bool = False,
        ask_guards: bool = False,
        wait: bool = True,
    ) -> int:
        request = _request(stream, partition, records, guard)
        request.start_guarding, request.ask_guards = start_guarding, ask_guards
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

    def try_append(
        self, stream: str, partition: str, records: Sequence[Record], *, guard: Guard | None = None
    ) -> int | None:
        request = _request(stream, partition, records, guard)
        file.refuse_fork(self._pid, self.path)
        if not self._lock.acquire(timeout=_TRY_S):
            return None
        try:
            if not self._commit_without_waiting(request):
                return None
        finally:
            self._lock.release()
        if request.full:
            raise self._full(request, waited=None)
        return request.seq

    def _commit_without_waiting(self, request: Request) -> bool:
        """Commit one append alone; False if another process holds the file just now."""
        if self._writer is None:
            self._begin()  # says that it is closed
        assert self._writer is not None
        self._writer.execute(_HURRIED)
        try:
            self._begun = False
            self._commit([request])
        except sqlite3.Error as error:
            if (getattr(error, "sqlite_errorname", "") or "").startswith("SQLITE_BUSY"):
                return False
            raise self._refusal(error, request) from error
        except UnicodeEncodeError as error:
            raise self._refusal(error, request) from error
        finally:
            self._writer.execute(_PATIENT)
        return True

    def _unless_held(self, write: Callable[[], None]) -> bool:
        """Do a small write unless another process holds the file just now; whether it was done."""
        file.refuse_fork(self._pid, self.path)
        if not self._lock.acquire(timeout=_TRY_S):
            return False
        try:
            if self._writer is None:
                self._begin()  # says that it is closed
            assert self._writer is not None
            self._writer.execute(_HURRIED)
            try:
                write()
            except BufferUnavailable as error:
                busy = getattr(error.__cause__, "sqlite_errorname", None) or ""
                if not busy.startswith("SQLITE_BUSY"):
                    raise
                return False
            finally:
                self._writer.execute(_PATIENT)
            return True
        finally:
            self._lock.release()

    def _submit(self, request: Request) -> None:
        # Before the lock: another thread may have held it at the fork.
        file.refuse_fork(self._pid, self.path)
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
        group: list[Request] = []
        self._begun = False
        try:
            while self._waiting and len(group) < _GROUP:
                group.append(self._waiting.popleft())
            self._commit(group)
            self._accept(group)
        except (
            sqlite3.OperationalError,
            BufferProblem,
        ) as error:  # the file's fault: the same for all
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

    def _commit(self, group: Sequence[Request]) -> None:
        try:
            if self.place.missing() is not None:
                self._refuse_lost(group)
            connection = self._begin()
            self._begun = True
            short = self.reserve.is_short()
            for request in group:
                if short and request.stream not in self.last_words:
                    request.full = True
                else:
                    self._inserter.insert(connection, request, self._clock())
            # what is accepted first says where all of it is meant to go
            if self._destination is not None:
                note_destination(connection, self._destination, len(group), self._clock())
            connection.execute("COMMIT")
            self._destination = None
            self._inserter.committed()
            self.reserve.spent(sum(request.size for request in group))
        except BaseException as error:
            if isinstance(error, sqlite3.Error) or self._in_transaction():
                self._begun = False
                self._roll_back()
            self._disk_hit(error)
            raise

    def _disk_hit(self, error: BaseException) -> None:
        if (getattr(error, "sqlite_errorname", "") or "").startswith("SQLITE_FULL"):
            self.reserve.hit()

    def _refuse_lost(self, group: Sequence[Request]) -> None:
        """Raise unless all of it is about to be flushed by this very process."""
        problem = self.place.problem()
        if problem is not None and any(request.stream not in self.last_words for request in group):
            raise problem

    def _in_transaction(self) -> bool:
        return self._writer is not None and self._writer.in_transaction

    @staticmethod
    def _accept(group: Sequence[Request]) -> None:
        for request in group:
            request.accepted = True

    def _commit_alone(self, request: Request) -> None:
        try:
            request.full, request.seq = False, 0
            self._begun = False
            self._commit([request])
            request.accepted, request.error = True, None
        except Exception as error:  # noqa: BLE001 - handed to the append that it belongs to
            self._refuse([request], error)

    def _refuse(self, group: Sequence[Request], error: BaseException) -> None:
        for request in group:
            request.error = self._refusal(error, request)

    def _refusal(self, error: BaseException, request: Request) -> Exception:
        if isinstance(error, sqlite3.Error):
            return file.translate(error, self.path)
        if isinstance(error, UnicodeEncodeError):
            return EntryRejected(
                partition=request.partition, path="$", reason=f"a name that is not valid text "
                f"({error.reason})",
                remedy="use names without lone surrogates",
            )  # fmt: skip
        assert isinstance(error, Exception)
        return error

    def _refuse_hopeless(self, request: Request, *, wait: bool) -> None:
        if not wait or request.size > self.limits.max_bytes or self.limits.when_full == "reject":
            raise self._full(request, waited=None)

    def _full(self, request: Request, *, waited: float | None) -> BufferFull:
        depth = self.depth()
        if depth.disk_full:
            return BufferFull(
                f"The disk that holds the buffer {self.path} is full ({depth.disk_free} bytes are "
                f"free, what Surgetank"
                f" keeps for flushing not counted); what was written for {request.partition!r} was "
                f"not accepted.",
                remedy="free some space on it, or move SURGETANK_HOME to a larger disk. What waits "
                "is flushed meanwhile"
                " (`surgetank flush`), which makes room too.",
            )
        wait = f" after waiting {waited:.0f} s" if waited is not None else ""
        return BufferFull(
            f"The buffer is at its limit{wait}: {depth.entries} of {depth.max_entries} entries, "
            f"{depth.bytes} of"
            f" {depth.max_bytes} bytes; {request.size} bytes for {request.partition!r} were not "
            f"accepted.",
            remedy="see `surgetank status` for why it doesn't drain (is the database up?), or "
            "raise "
            "SURGETANK_BUFFER_MAX_BYTES / SURGETANK_BUFFER_MAX_ENTRIES.",
        )

    def _wait_for_space(self, request: Request, deadline: float) -> None:
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
        file.refuse_fork(self._pid, self.path)
        self.reserve.before_write()
        with self._lock, file.named_errors(self.path):
            try:
                connection = self._begin()
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                self._roll_back()
                self._disk_hit(error)
                raise

    def _begin(self) -> sqlite3.Connection:
        connection = self._writer
        if connection is None:
            raise BufferUnavailable(
                f"The buffer {self.path} is closed.",
                remedy="open Surgetank again before you use its saver.",
            )
        if connection.in_transaction:  # left by somebody who was interrupted twice
            self._roll_back()
        connection.execute("BEGIN IMMEDIATE")
        return connection

    def _roll_back(self) -> None:
        self._inserter.rolled_back()
        if self._writer is not None and self._writer.in_transaction:
            with suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[SQLiteSnapshot]:
        with self._readers.borrow() as connection:
            yield SQLiteSnapshot(
                connection,
                self._clock(),
                self._checker,
                self._recall,
                self._load,
                self._auditor.audit,
            )

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._readers.borrow() as connection:
            yield connection

    def erase(self, partitions: Iterable[str], words: Sequence[str]) -> tuple[int, list[str]]:
        with self._write() as connection:
            gone, waiting = erase_partitions(connection, partitions, self._remove_copies)
            erase_words(connection, words)
        return gone, waiting

    def discard_parked(self, parked_ids: Iterable[int]) -> None:
        with self._write() as connection:
            erase_parked(connection, parked_ids)

    def scrub(self) -> bool:
        return scrub(self.path, kind=BUFFER)

    def close(self) -> None:
        """Close all connections. What waits stays in the file."""
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                if self._pid == os.getpid():
                    if self._nothing_waits(writer):
                        self.reserve.remove()
                    writer.close()
                self._readers.close()


def _request(
    stream: str,
    partition: str,
    records: Sequence[Record],
    guard: Guard | None,
) -> Request:
    # no row to be found by, or rows that take the next entry's places
    if not 0 < len(records) < SLOTS:
        raise EntryRejected(
            partition=partition, path="$", reason=f"an entry of {len(records)} records",
            remedy=f"write between 1 and {SLOTS - 1} values at once",
        )  # fmt: skip
    return Request(stream, partition, records, guard)


def _interrupted() -> BufferUnavailable:
    return BufferUnavailable("The append was interrupted and not accepted.", remedy="append again.")
