"""Space that the buffer's file gives back: its log moved into it, free pages cut off."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.copies import SQLiteCopies
from surgetank.buffer.sqlite.kept import KeptEntries
from surgetank.buffer.sqlite.schema import BUFFER
from surgetank.exceptions import BufferUnavailable
from surgetank.sqlite import file

_FREE_PAGES_KEPT = 256
_WAL_WORTH_MOVING = 1 << 20
_SMALL_STEP = 128
_WAL_LARGE = 32 << 20


class Space:
    """Gives space back, in small steps, so that writers go on meanwhile."""

    def __init__(self, file: BufferFile, kept: KeptEntries, copies: SQLiteCopies) -> None:
        self._file = file
        self._kept = kept
        self._copies = copies
        self._wal_moved_at = 0  # when it was written last, as of the last time it was moved

    def give_back(self, *, nothing_waits: bool) -> None:
        """Give back all that is free; the disk is not full."""
        self._file.reserve.refill()
        while self.vacuum_step():
            pass
        wal = self._file.path.with_name(self._file.path.name + "-wal")
        with suppress(FileNotFoundError):
            now = wal.stat()
            worth_it = now.st_size > _WAL_WORTH_MOVING and now.st_mtime_ns != self._wal_moved_at
            if worth_it and self.move_wal(truncate=now.st_size > _WAL_LARGE or nothing_waits):
                self._wal_moved_at = wal.stat().st_mtime_ns

    def relieve(self) -> None:
        """The disk is full: give it back what was flushed, in steps that need little room
        themselves."""
        if self._file.identity.missing(now=True) is not None:
            return
        try:
            self._kept.forget_kept(all_=True)
            self._copies.shed_copies()
            while self._may_relieve():
                self._file.reserve.before_write()
                if not self.vacuum_step(_SMALL_STEP):
                    self.move_wal(truncate=True)
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
        with self._file.read() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        if pages * page_bytes - self._file.path.stat().st_size <= self._file.reserve.free() // 2:
            self.move_wal(truncate=True)
            return True
        return bool(
            2 * (pages - free) * page_bytes <= self._file.reserve.free() + self._file.reserve.held()
        )

    def vacuum_step(self, step: int = 2048) -> bool:
        """Give up to 8 MiB (`step` pages) back, holding up writers only that long. True if more is
        to do."""
        with self._file.lock, file.named_errors(self._file.path):
            if self._file.writer is None:
                return False
            (free,) = self._file.writer.execute("PRAGMA freelist_count").fetchone()
            if free <= _FREE_PAGES_KEPT:
                return False
            # `execute` would step once and free one page; `executescript` steps to the end.
            self._file.writer.executescript(f"PRAGMA incremental_vacuum({min(free, step)})")
            return bool(free > _FREE_PAGES_KEPT + step)

    def move_wal(self, *, truncate: bool) -> bool:
        """Move the WAL's pages into the file; True if all were moved, which readers may prevent."""
        # On a connection of its own: writers go on meanwhile.
        connection = file.connect(self._file.path, durability=self._file.durability, kind=BUFFER)
        try:
            with file.named_errors(self._file.path):
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
            with self._file.lock:
                connection.execute("UPDATE totals SET next_token = next_token + 1")
        except sqlite3.OperationalError as error:
            # Busy: another process writes just now, and has done it.
            if error.sqlite_errorname != "SQLITE_BUSY":
                raise
