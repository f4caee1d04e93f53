"""Upkeep of the SQLite buffer's file: its log moved into it, free pages given back, damage looked
for."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from surgetank.buffer.sqlite.append import BufferLimits
from surgetank.buffer.sqlite.audit import note_damage
from surgetank.buffer.sqlite.coordination import SQLiteFlushSide
from surgetank.buffer.sqlite.copies import SQLiteRecentSide
from surgetank.buffer.sqlite.read import read_depth
from surgetank.buffer.sqlite.schema import BUFFER
from surgetank.exceptions import BufferCorrupt, BufferProblem, BufferUnavailable
from surgetank.model import BufferDepth
from surgetank.sqlite import file
from surgetank.sqlite.place import FilePlace

_FREE_PAGES_KEPT = 256
_WAL_WORTH_MOVING = 1 << 20
_SMALL_STEP = 128
_WAL_LARGE = 32 << 20


class SQLiteUpkeepSide(SQLiteFlushSide, SQLiteRecentSide):
    """Upkeep. Mixed into `SQLiteBuffer`, which owns the connections."""

    path: Path
    durability: str
    place: FilePlace
    _lock: threading.RLock
    _pid: int
    _readers: file.ReadPool
    _wal_moved_at: int
    _writer: sqlite3.Connection | None
    limits: BufferLimits

    def depth(self) -> BufferDepth:
        with self._readers.borrow() as connection:
            depth = read_depth(
                connection, self.limits.max_entries, self.limits.max_bytes, self.file_bytes()
            )
        if not self.reserve.size:
            return depth
        return replace(
            depth,
            max_bytes=max(1, min(depth.max_bytes, depth.bytes + self.reserve.room())),
            disk_free=self.reserve.free(), disk_full=self.reserve.is_short(),
        )  # fmt: skip

    def file_bytes(self) -> int:
        """Bytes on disk of the file and its write-ahead log."""
        total = 0
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                total += self.path.with_name(self.path.name + suffix).stat().st_size
        return total

    @staticmethod
    def _nothing_waits(connection: sqlite3.Connection) -> bool:
        with suppress(sqlite3.Error):
            (entries,) = connection.execute("SELECT entries FROM totals").fetchone()
            return not entries
        return False

    def check(self) -> None:
        """Read the whole file and raise `BufferCorrupt` if any page of it is damaged."""
        with self._readers.borrow() as connection:
            problems = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
        if problems != ["ok"]:
            raise BufferCorrupt(
                f"The buffer file {self.path} is damaged: {'; '.join(problems)}. It was left as it "
                f"is.",
                remedy="copy it to a safe place and start with another SURGETANK_HOME.",
            )

    def maintain(self, *, thorough: bool = True) -> None:
        """Move the WAL into the file, give free pages back; if `thorough`, forget old notes, jobs
        and partitions."""
        file.refuse_fork(self._pid, self.path)
        self.trim_copies()
        self.forget_kept()
        if thorough:
            self._look_for_damage()
            self._forget()
        if self.place.missing(now=True) is not None:
            return  # what it would do to the path would be done to another file
        if self.reserve.is_short():
            self.relieve()
            return
        self.reserve.refill()
        while self._vacuum_step():
            pass
        wal = self.path.with_name(self.path.name + "-wal")
        with suppress(FileNotFoundError):
            now = wal.stat()
            worth_it = now.st_size > _WAL_WORTH_MOVING and now.st_mtime_ns != self._wal_moved_at
            if worth_it and self._move_wal(
                truncate=now.st_size > _WAL_LARGE or self.depth().entries == 0
            ):
                self._wal_moved_at = wal.stat().st_mtime_ns

    def relieve(self) -> None:
        """The disk is full: give it back what was flushed, in steps that need little room
        themselves."""
        if self.place.missing(now=True) is not None:
            return
        try:
            self.forget_kept(all_=True)
            self.shed_copies()
            while self._may_relieve():
                self.reserve.before_write()
                if not self._vacuum_step(_SMALL_STEP):
                    self._move_wal(truncate=True)
                    return
        except BufferUnavailable:
            # Not now: what was acknowledged is, the disk is told to be full, and the next group
            # tries again.
            return

    def _may_relieve(self) -> bool:
        """Move the log into the file if that need not grow much for it. False: it would have to,
        and cutting off free pages first would cost more room than there is; acknowledging needs far
        less.
        """
        with self._read() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        if pages * page_bytes - self.path.stat().st_size <= self.reserve.free() // 2:
            self._move_wal(truncate=True)
            return True
        return bool(2 * (pages - free) * page_bytes <= self.reserve.free() + self.reserve.held())

    def _look_for_damage(self) -> None:
        auditor = self._auditor
        with self._readers.borrow() as connection:
            auditor.look(connection)
        if not (auditor.problems or auditor.suspect):
            return
        with self._write() as connection:
            for problem in auditor.problems:
                note_damage(connection, self._clock(), "", "", problem)
        try:
            with self._write() as connection:
                auditor.rebuild(connection)
        except BufferProblem as error:
            # what can't be rebuilt is told as it is; records are read one by one
            with self._write() as connection:
                note_damage(
                    connection, self._clock(), "", "", f"an index can't be made anew: {error.what}"
                )
        with self._readers.borrow() as connection:
            auditor.look(connection)

    def _vacuum_step(self, step: int = 2048) -> bool:
        """Give up to 8 MiB (`step` pages) back, holding up writers only that long. True if more is
        to do."""
        with self._lock, file.named_errors(self.path):
            if self._writer is None:
                return False
            (free,) = self._writer.execute("PRAGMA freelist_count").fetchone()
            if free <= _FREE_PAGES_KEPT:
                return False
            # `execute` would step once and free one page; `executescript` steps to the end.
            self._writer.executescript(f"PRAGMA incremental_vacuum({min(free, step)})")
            return bool(free > _FREE_PAGES_KEPT + step)

    def _move_wal(self, *, truncate: bool) -> bool:
        """Move the WAL's pages into the file; True if all were moved, which readers may prevent."""
        # On a connection of its own: writers go on meanwhile.
        connection = file.connect(self.path, durability=self.durability, kind=BUFFER)
        try:
            with file.named_errors(self.path):
                connection.execute("PRAGMA busy_timeout = 20")
                busy, frames, moved = connection.execute(
                    "PRAGMA wal_checkpoint(PASSIVE)"
                ).fetchone()
                if truncate:
                    busy, frames, moved = connection.execute(
                        "PRAGMA wal_checkpoint(TRUNCATE)"
                    ).fetchone()
                if busy or frames != moved:
                    return False
                self._start_wal_anew(connection)
                return True
        finally:
            connection.close()

    def _start_wal_anew(self, connection: sqlite3.Connection) -> None:
        """Whoever writes first after all was moved starts the log anew, with an fsync: let it not
        be a caller."""
        try:
            with self._lock:
                connection.execute("UPDATE totals SET next_token = next_token + 1")
        except sqlite3.OperationalError as error:
            # Busy: another process writes just now, and has done it.
            if error.sqlite_errorname != "SQLITE_BUSY":
                raise
