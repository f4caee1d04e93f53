"""One SQLite file that several objects, threads and processes write into: a connection that writes,
one at a time, and a pool of those that read."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from surgetank.exceptions import BufferUnavailable
from surgetank.sqlite import file
from surgetank.sqlite.kind import Kind

T = TypeVar("T")


class SharedFile:
    """The file at `path`, open for one user of it, which `name` is for people.

    `script` makes tables that the file may not have yet. `before_write` makes room on a full disk. With
    the durability `power` what was written survives a power cut.
    Raises `BufferUnavailable`, `BufferCorrupt`.
    """

    def __init__(
        self,
        path: Path,
        *,
        kind: Kind,
        name: str,
        script: str,
        before_write: Callable[[], None] = lambda: None,
        durability: str = "process",
    ) -> None:
        self.path = Path(path)
        self._name = name
        self._before_write = before_write
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._writer: sqlite3.Connection | None = file.connect(
            self.path, durability=durability, kind=kind
        )
        with file.named_errors(self.path):
            self._writer.executescript(script)
        self._readers = file.ReadPool(self.path)

    def read(self) -> AbstractContextManager[sqlite3.Connection]:
        """A connection that sees one moment. It holds no writer up."""
        return self._readers.borrow()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: committed at the end, taken back by what is raised."""
        file.refuse_fork(self._pid, self.path)
        self._before_write()
        with self._lock, file.named_errors(self.path):
            writer = self._open_writer()
            with file.transaction(writer):
                yield writer

    def insert(self, statement: str, values: Sequence[Any]) -> int:
        """One INSERT that is a transaction of its own: the rowid that it was given."""
        file.refuse_fork(self._pid, self.path)
        self._before_write()
        with self._lock:
            try:
                given = self._open_writer().execute(statement, values).lastrowid
            except sqlite3.Error as error:
                raise file.translate(error, self.path) from error
        assert given is not None
        return given

    def write_unless_held(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """One write transaction for an event loop: None, and nothing done, where it would have to
        wait longer than some milliseconds for another thread or process."""
        file.refuse_fork(self._pid, self.path)
        self._before_write()
        if not self._lock.acquire(timeout=file.TRY_S):
            return None
        try:
            writer = self._open_writer()
            with file.named_errors(self.path):
                writer.execute(file.HURRIED)
                try:
                    with file.transaction(writer):
                        return work(writer)
                finally:
                    writer.execute(file.PATIENT)
        except BufferUnavailable as error:
            if not file.is_busy(error.__cause__):
                raise
            return None
        finally:
            self._lock.release()

    def _open_writer(self) -> sqlite3.Connection:
        if self._writer is None:
            raise BufferUnavailable(
                f"The {self._name} {self.path} is closed.",
                remedy="open Surgetank again before you use it.",
            )
        return self._writer

    def tidy(self) -> bool:
        """Move what was written from the log into the file, and give some free pages back. False where
        not all was moved, because somebody reads an older state, or writes."""
        with self._lock, file.named_errors(self.path):
            if self._writer is None:
                return False
            busy, frames, moved = self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._writer.execute("PRAGMA incremental_vacuum(256)").fetchall()
            return not busy and frames == moved

    def size_bytes(self) -> int:
        """What file and log take on disk."""
        files = [self.path.with_name(self.path.name + end) for end in ("", "-wal")]
        return sum(found.stat().st_size for found in files if found.exists())

    def close(self) -> None:
        """Close all connections. Idempotent."""
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()
        self._readers.close()
