"""The buffer's SQLite file as one process has it: one connection that writes, under a lock, a pool of
those that read, and the disk around them. All roles of the buffer share it.

It stands beside `sqlite.shared.SharedFile`, on the same ground (`sqlite/file.py`): its writes may be
told to hurry or to wait for space, compare what is counted, and undo what is remembered.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from surgetank.buffer.sqlite.audit import Auditor
from surgetank.buffer.sqlite.checks import Checker
from surgetank.buffer.sqlite.reserve import DiskReserve
from surgetank.buffer.sqlite.schema import BUFFER
from surgetank.exceptions import BufferCorrupt, BufferUnavailable, ConfigurationError
from surgetank.sqlite import file
from surgetank.sqlite.identity import FileIdentity


class BufferFile:
    """The file at `path`, open. `on_rollback` forgets what is remembered of writes that were taken
    back.

    `clock` gives the time that is stored. Raises `BufferUnavailable`, `BufferCorrupt`.
    """

    def __init__(
        self,
        path: Path,
        *,
        durability: Literal["process", "power"],
        clock: Callable[[], float],
        reserve_bytes: int,
        on_rollback: Callable[[], None],
    ) -> None:
        if durability not in ("process", "power"):
            raise ConfigurationError(
                f"A buffer in a file has no durability {durability!r}.",
                remedy="use 'process' (survives kill -9) or 'power' (fsync); 'replicated' needs a "
                "buffer in Redis.",
            )
        self.path = Path(path)
        self.durability = durability
        self.clock = clock
        self.lock = threading.RLock()
        self._pid = os.getpid()
        self._on_rollback = on_rollback
        self._space = threading.Condition()
        self.reserve = DiskReserve(self.path, reserve_bytes)
        self.reserve.before_open()
        self.writer: sqlite3.Connection | None = file.connect(
            self.path, durability=durability, kind=BUFFER
        )
        self.identity = FileIdentity(self.path)
        self._readers = file.ReadPool(self.path, self.identity)
        self.id, checked_from = self._read_identity()
        with file.named_errors(self.path):
            (self.secure_delete,) = self.writer.execute("PRAGMA secure_delete").fetchone()
        self.checker = Checker(self.path, checked_from)
        self.auditor = Auditor(self.checker)
        with self.read() as connection:
            self.auditor.inspect(connection)

    def _read_identity(self) -> tuple[str, int]:
        assert self.writer is not None
        with file.named_errors(self.path):
            found = self.writer.execute("SELECT buffer_id, checked_from FROM identity").fetchone()
        if found is None:
            self.writer.close()
            raise BufferCorrupt(
                f"The buffer file {self.path} is damaged: it has no identity any more. It was left "
                f"as it is.",
                remedy="`surgetank doctor --salvage FOLDER` copies all that is whole.",
            )
        return str(found[0]), found[1]

    # -- reading

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one moment. It holds no writer up."""
        with self._readers.borrow() as connection:
            yield connection

    # -- writing

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: committed at the end, taken back by what is raised."""
        self.refuse_fork()
        self.reserve.before_write()
        with self.lock, file.named_errors(self.path):
            try:
                connection = self.begin()
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                self.roll_back()
                self.disk_hit(error)
                raise

    def begin(self) -> sqlite3.Connection:
        """Begin a write transaction. Under the lock."""
        connection = self.open_writer()
        if connection.in_transaction:  # left by somebody who was interrupted twice
            self.roll_back()
        connection.execute("BEGIN IMMEDIATE")
        return connection

    def open_writer(self) -> sqlite3.Connection:
        """The connection that writes; raises when the buffer is closed."""
        if self.writer is None:
            raise BufferUnavailable(
                f"The buffer {self.path} is closed.",
                remedy="open Surgetank again before you use its saver.",
            )
        return self.writer

    def roll_back(self) -> None:
        """Take back what was written since `begin`."""
        self._on_rollback()
        if self.writer is not None and self.writer.in_transaction:
            with suppress(sqlite3.Error):
                self.writer.execute("ROLLBACK")

    def in_transaction(self) -> bool:
        """Whether something was written that is not committed."""
        return self.writer is not None and self.writer.in_transaction

    def try_lock(self) -> bool:
        """Take the lock, but wait no longer than some milliseconds for another thread."""
        return self.lock.acquire(timeout=file.TRY_S)

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """What is written meanwhile waits no longer than some milliseconds for another process."""
        writer = self.open_writer()
        writer.execute(file.HURRIED)
        try:
            yield
        finally:
            writer.execute(file.PATIENT)

    def unless_held(self, write: Callable[[], None]) -> bool:
        """Do a small write unless somebody else holds the file just now; whether it was done."""
        self.refuse_fork()
        if not self.try_lock():
            return False
        try:
            with self.hurried():
                write()
        except BufferUnavailable as error:
            if not file.is_busy(error.__cause__):
                raise
            return False
        finally:
            self.lock.release()
        return True

    def refuse_fork(self) -> None:
        """Raise in a forked child. Before the lock: another thread may have held it at the fork."""
        file.refuse_fork(self._pid, self.path)

    def disk_hit(self, error: BaseException) -> None:
        """Remember that a write failed for want of space, if it did."""
        if file.name_of(error).startswith("SQLITE_FULL"):
            self.reserve.hit()

    # -- space

    def made_space(self) -> None:
        """Wake those that wait for space."""
        with self._space:
            self._space.notify_all()

    def wait_for_space(self, left_s: float) -> None:
        """Wait until there may be space. Another process may make it, and can't notify: this ends
        after a short while."""
        with self._space:
            self._space.wait(min(left_s, 0.05))

    def bytes_on_disk(self) -> int:
        """Bytes of the file and its write-ahead log."""
        total = 0
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                total += self.path.with_name(self.path.name + suffix).stat().st_size
        return total

    # -- the end

    def close(self) -> None:
        """Close all connections. What waits stays in the file."""
        with self.lock:
            writer, self.writer = self.writer, None
            if writer is not None:
                if self._pid == os.getpid():
                    if _nothing_waits(writer):
                        self.reserve.remove()
                    writer.close()
                self._readers.close()


def _nothing_waits(connection: sqlite3.Connection) -> bool:
    with suppress(sqlite3.Error):
        (entries,) = connection.execute("SELECT entries FROM totals").fetchone()
        return not entries
    return False
