"""`SQLiteStreamLog`: a `StreamLog` in a file beside the buffer."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from surgetank.events.streams import StreamEvent, StreamGroup, StreamPage, Written
from surgetank.sqlite.kind import Kind
from surgetank.sqlite.scrub import scrub
from surgetank.sqlite.shared import SharedFile

_ABANDONED_S = 7 * 24 * 3600.0  # nothing was heard of such a run: its end was recorded elsewhere
_THREADS_KEPT = 200_000

_SCHEMA = """
CREATE TABLE identity (id INTEGER PRIMARY KEY CHECK (id = 1), buffer_id TEXT NOT NULL) STRICT;
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, thread_id TEXT NOT NULL, seq INTEGER NOT NULL,
    run_id TEXT NOT NULL, event TEXT NOT NULL, at REAL NOT NULL, data BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX events_by_thread ON events (thread_id, seq);
CREATE INDEX events_by_run ON events (run_id, seq);
CREATE TABLE threads (
    thread_id TEXT PRIMARY KEY, last_seq INTEGER NOT NULL, dropped_seq INTEGER NOT NULL,
    updated_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, thread_id TEXT NOT NULL, attempt INTEGER NOT NULL,
    first_seq INTEGER NOT NULL, dropped_seq INTEGER NOT NULL, bytes INTEGER NOT NULL,
    updated_at REAL NOT NULL, ended_at REAL
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_by_end ON runs (ended_at) WHERE ended_at IS NOT NULL;
"""
_NEWEST = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'"
STREAMS = Kind("stream log", application_id=0x53545354, version=1, schema=_SCHEMA)  # "STST"


class SQLiteStreamLog:
    """A `StreamLog` in the file at `path`. Events of an ended run stay `keep_s`, unless all
    together are more than `max_bytes`: then those that ended first go.

    Raises `BufferUnavailable`, `BufferCorrupt`.
    """

    over_network = False

    def __init__(
        self,
        path: Path,
        *,
        keep_s: float = 3600.0,
        max_bytes: int = 1024 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = Path(path)
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._file = SharedFile(
            self.path, kind=STREAMS, name="stream log", script="", before_write=before_write
        )
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Written], None]] = []

    def append_all(self, groups: Sequence[StreamGroup]) -> list[int | None]:
        with self._file.write() as writer:
            written, newest = self._append_all(writer, groups)
        self._tell(groups, written, newest)
        return written

    def try_append_all(self, groups: Sequence[StreamGroup]) -> list[int | None] | None:
        done = self._file.write_unless_held(lambda writer: self._append_all(writer, groups))
        if done is None:
            return None
        written, newest = done
        self._tell(groups, written, newest)
        return written

    def _append_all(
        self, writer: sqlite3.Connection, groups: Sequence[StreamGroup]
    ) -> tuple[list[int | None], int]:
        now = self._clock()
        written = [self._append(writer, group, now) for group in groups]
        (newest,) = writer.execute(_NEWEST).fetchone()
        return written, newest

    def _tell(
        self, groups: Sequence[StreamGroup], written: Sequence[int | None], newest: int
    ) -> None:
        with self._lock:
            listeners = list(self._listeners)
        if not listeners:
            return
        fresh = [group for group, last in zip(groups, written, strict=True) if last is not None]
        before = newest - sum(len(group.events) for group in fresh)
        for group in fresh:
            news = Written(group.thread_id, before, newest, group.ends)
            for heard in listeners:
                heard(news)

    @staticmethod
    def _append(writer: sqlite3.Connection, group: StreamGroup, now: float) -> int | None:
        run_id, events = group.run_id, group.events
        row = writer.execute("SELECT attempt FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        if row is not None and row[0] > group.attempt:
            return None
        (last,) = writer.execute(
            "INSERT INTO threads VALUES (?1, ?2, 0, ?3) ON CONFLICT (thread_id) DO UPDATE SET"
            " last_seq = last_seq + ?2, updated_at = ?3 RETURNING last_seq",
            (group.thread_id, len(events), now),
        ).fetchone()
        first = last - len(events) + 1
        writer.executemany(
            "INSERT INTO events (thread_id, seq, run_id, event, at, data) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (group.thread_id, first + number, run_id, event, now, data)
                for number, (event, data) in enumerate(events)
            ],
        )
        ended = now if group.ends else None
        writer.execute(
            "INSERT INTO runs VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7) ON CONFLICT (run_id) DO UPDATE SET"
            " attempt = ?3, bytes = bytes + ?5, updated_at = ?6, ended_at = ?7",
            (run_id, group.thread_id, group.attempt, first, group.size, now, ended),
        )
        return int(last)

    def read(
        self,
        thread_id: str,
        *,
        run_id: str | None = None,
        after: int = 0,
        limit: int = 500,
        max_bytes: int = 2 * 1024 * 1024,
    ) -> StreamPage:
        with self._file.read() as reader:
            if run_id is None:
                found = reader.execute(
                    "SELECT seq, run_id, event, data, at FROM events WHERE thread_id = ? AND seq > ?"
                    " ORDER BY seq LIMIT ?",
                    (thread_id, after, limit),
                )
            else:
                found = reader.execute(
                    "SELECT seq, run_id, event, data, at FROM events WHERE run_id = ? AND seq > ?"
                    " AND thread_id = ? ORDER BY seq LIMIT ?",
                    (run_id, after, thread_id, limit),
                )
            events, size = list[StreamEvent](), 0
            for row in found:
                events.append(StreamEvent(*row))
                size += len(row[3])
                if size >= max_bytes:
                    break
            found.close()
            last, dropped = reader.execute(
                "SELECT last_seq, dropped_seq FROM threads WHERE thread_id = ?", (thread_id,)
            ).fetchone() or (0, 0)
            if run_id is not None:
                (dropped,) = reader.execute(
                    "SELECT dropped_seq FROM runs WHERE run_id = ?", (run_id,)
                ).fetchone() or (0,)
        if after > last:  # a number of a log that is gone
            return StreamPage((), last, gap=last)
        return StreamPage(tuple(events), last, gap=dropped if after < dropped else None)

    def has_ended(self, run_id: str) -> bool:
        with self._file.read() as reader:
            row = reader.execute("SELECT ended_at FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        return row is not None and row[0] is not None

    def last(self, run_id: str, most: int = 2) -> Sequence[StreamEvent]:
        with self._file.read() as reader:
            rows = reader.execute(
                "SELECT seq, run_id, event, data, at FROM events WHERE run_id = ?"
                " ORDER BY seq DESC LIMIT ?",
                (run_id, most),
            ).fetchall()
        return [StreamEvent(*row) for row in reversed(rows)]

    def newest(self) -> int:
        with self._file.read() as reader:
            (newest,) = reader.execute(_NEWEST).fetchone()
        return int(newest)

    def listen(self, heard: Callable[[Written], None]) -> Callable[[], None]:
        with self._lock:
            self._listeners.append(heard)

        def end() -> None:
            with self._lock:
                if heard in self._listeners:
                    self._listeners.remove(heard)

        return end

    def forget_thread(self, thread_id: str) -> None:
        with self._file.write() as writer:
            writer.execute("DELETE FROM events WHERE thread_id = ?", (thread_id,))
            writer.execute("DELETE FROM runs WHERE thread_id = ?", (thread_id,))
            writer.execute(
                "UPDATE threads SET dropped_seq = last_seq WHERE thread_id = ?", (thread_id,)
            )

    def forget_run(self, run_id: str) -> None:
        with self._file.write() as writer:
            self._drop(writer, run_id)

    def size_bytes(self) -> int:
        return self._file.size_bytes()

    def maintain(self) -> None:
        with self._file.write() as writer:
            now = self._clock()
            writer.execute(
                "UPDATE runs SET ended_at = updated_at WHERE ended_at IS NULL AND updated_at < ?",
                (now - _ABANDONED_S,),
            )
            (total,) = writer.execute(
                "SELECT coalesce(sum(bytes), 0) FROM runs WHERE bytes > 0"
            ).fetchone()
            for run_id, ended_at, size in writer.execute(
                "SELECT run_id, ended_at, bytes FROM runs WHERE ended_at IS NOT NULL AND bytes > 0 ORDER BY ended_at"
            ).fetchall():
                if ended_at >= now - self._keep_s and total <= self._max_bytes:
                    break
                self._drop(writer, run_id)
                total -= size
            # What is remembered of a run whose events are gone, so that a reader is told of it.
            writer.execute(
                "DELETE FROM runs WHERE bytes = 0 AND ended_at < ?", (now - _ABANDONED_S,)
            )
            writer.execute(
                "DELETE FROM threads WHERE last_seq = dropped_seq AND thread_id NOT IN"
                " (SELECT thread_id FROM threads ORDER BY updated_at DESC LIMIT ?)",
                (_THREADS_KEPT,),
            )
        self._file.tidy()

    @staticmethod
    def _drop(writer: sqlite3.Connection, run_id: str) -> None:
        row = writer.execute(
            "SELECT thread_id, max(seq) FROM events WHERE run_id = ? GROUP BY thread_id", (run_id,)
        ).fetchone()
        if row is not None:
            thread_id, last = row
            writer.execute("DELETE FROM events WHERE run_id = ?", (run_id,))
            writer.execute(
                "UPDATE threads SET dropped_seq = max(dropped_seq, ?) WHERE thread_id = ?",
                (last, thread_id),
            )
            writer.execute(
                "UPDATE runs SET dropped_seq = ?, bytes = 0, ended_at = coalesce(ended_at, updated_at)"
                " WHERE run_id = ?",
                (last, run_id),
            )

    def scrub(self) -> bool:
        return scrub(self.path, kind=STREAMS)

    def close(self) -> None:
        self._file.close()
