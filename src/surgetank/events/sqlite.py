"""The event log in a SQLite file of its own, beside the buffer's, so that live events never hold up
an append.

Losing this file loses replay and nothing else: log lines, errors and checkpoints travel through the
buffer.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from surgetank.encode import jsontext
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.events import forwarded
from surgetank.events.erase import erase_words_of
from surgetank.events.types import (
    Forwarded,
    Gap,
    Incident,
    NewEvent,
    Original,
    PublicCause,
    RunEvent,
    Severity,
)
from surgetank.sqlite.kind import Kind
from surgetank.sqlite.scrub import scrub
from surgetank.sqlite.shared import SharedFile

_THREADS_KEPT = 200_000
_ORIGINALS_KEPT = 50_000

_SCHEMA = """
CREATE TABLE identity (id INTEGER PRIMARY KEY CHECK (id = 1), buffer_id TEXT NOT NULL) STRICT;
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, thread_id TEXT NOT NULL, seq INTEGER NOT NULL,
    type TEXT NOT NULL, at REAL NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE INDEX events_by_thread ON events (thread_id, seq);
CREATE TABLE threads (
    thread_id TEXT PRIMARY KEY, last_seq INTEGER NOT NULL, dropped_seq INTEGER NOT NULL, updated_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE dropped (id INTEGER PRIMARY KEY CHECK (id = 1), event_id INTEGER NOT NULL) STRICT;
INSERT INTO dropped VALUES (1, 0);
CREATE TABLE originals (
    id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, partition TEXT NOT NULL, job TEXT NOT NULL,
    path TEXT NOT NULL, reason TEXT NOT NULL, original TEXT NOT NULL, at REAL NOT NULL
) STRICT;
CREATE TABLE incidents (
    key TEXT PRIMARY KEY, stream TEXT NOT NULL, thread_id TEXT, severity TEXT NOT NULL, since REAL NOT NULL,
    message TEXT NOT NULL, detail TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""
# Not of `sqlite_sequence` in whole: the alert book is in the same file.
_LAST_ID = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'"
EVENTS = Kind("event log", application_id=0x53544556, version=1, schema=_SCHEMA)  # "STEV"
# Made when it is missing, so that an older version, which does not know it, can share the file.
_ADDED = f"""
{forwarded.SCHEMA}
CREATE TABLE IF NOT EXISTS public_causes (
    key TEXT PRIMARY KEY, error TEXT NOT NULL, reference TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS affected (
    key TEXT PRIMARY KEY, partitions INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""
_INCIDENTS = (
    "SELECT i.key, stream, thread_id, severity, since, message, detail, coalesce(error, ''), "
    "coalesce(reference, ''), coalesce(partitions, 1)"
    " FROM incidents i LEFT JOIN public_causes c USING (key) LEFT JOIN affected a USING (key)"
)


class SQLiteEventLog:
    """An `EventLog` in the file at `path`, keeping at most `max_events` events for at most
    `max_age_s`.

    Raises `BufferUnavailable`, `BufferCorrupt`.
    """

    over_network = False

    def __init__(
        self,
        path: Path,
        *,
        max_events: int = 200_000,
        max_age_s: float = 24 * 3600.0,
        originals_max_age_s: float = 24 * 3600.0,
        clock: Callable[[], float] = time.time,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = Path(path)
        self._max_events = max_events
        self._max_age_s = max_age_s
        self._originals_max_age_s = originals_max_age_s
        self._clock = clock
        self._file = SharedFile(
            self.path, kind=EVENTS, name="event log", script=_ADDED, before_write=before_write
        )

    # -- events

    def publish(self, events: Sequence[NewEvent]) -> list[RunEvent]:
        bodies = [dumps_jsonb(dict(event.data))[0] for event in events]
        with self._file.write() as writer:
            return self._publish(writer, events, bodies)

    def _publish(
        self, writer: sqlite3.Connection, events: Sequence[NewEvent], bodies: Sequence[bytes]
    ) -> list[RunEvent]:
        now = self._clock()
        found: list[RunEvent] = []
        for event, body in zip(events, bodies, strict=True):
            thread = event.thread_id or ""
            (seq,) = writer.execute(
                "INSERT INTO threads VALUES (?, 1, 0, ?)"
                " ON CONFLICT (thread_id) DO UPDATE SET last_seq = last_seq + 1, updated_at = "
                "excluded.updated_at"
                " RETURNING last_seq",
                (thread, now),
            ).fetchone()
            (id_,) = writer.execute(
                "INSERT INTO events (thread_id, seq, type, at, body) VALUES (?, ?, ?, ?, ?) "
                "RETURNING id",
                (thread, seq, str(event.type), now, body),
            ).fetchone()
            found.append(
                RunEvent(
                    id=id_,
                    type=str(event.type),
                    thread_id=event.thread_id,
                    seq=seq,
                    at=now,
                    data=dict(event.data),
                )
            )
        return found

    def forward(self, rows: Sequence[Forwarded], position: str, *, anew: bool = False) -> int:
        with self._file.write() as writer:
            fresh = forwarded.advance(writer, rows, position, anew=anew, now=self._clock())
            events = [row.event for row in fresh if row.event is not None]
            bodies = [dumps_jsonb(dict(event.data))[0] for event in events]
            return len(self._publish(writer, events, bodies))

    def forward_position(self) -> str | None:
        with self._file.read() as reader:
            return forwarded.position(reader)

    def forwarded(self, chains: Sequence[int]) -> dict[int, int]:
        with self._file.read() as reader:
            return forwarded.chains(reader, chains)

    def tail(
        self, after_id: int, *, limit: int = 1000, max_bytes: int | None = None
    ) -> tuple[Gap | None, list[RunEvent]]:
        with self._file.read() as reader:
            found = reader.execute(
                "SELECT id, type, thread_id, seq, at, body FROM events WHERE id > ? ORDER BY id "
                "LIMIT ?",
                (after_id, limit),
            )
            rows = _page(found, max_bytes)
            (dropped,) = reader.execute("SELECT event_id FROM dropped").fetchone()
            (last,) = reader.execute(
                "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'"
            ).fetchone()
        if after_id > last:  # a number of a log that is gone: begin anew rather than wait for it
            return Gap(None, after_id, last), []
        gap = Gap(None, after_id, dropped) if after_id < dropped else None
        return gap, [_event(row) for row in rows]

    def thread_events(
        self,
        thread_id: str | None,
        after_seq: int = 0,
        *,
        limit: int = 1000,
        max_bytes: int | None = None,
    ) -> tuple[Gap | None, list[RunEvent]]:
        with self._file.read() as reader:
            found = reader.execute(
                "SELECT id, type, thread_id, seq, at, body FROM events WHERE thread_id = ? AND seq "
                "> ?"
                " ORDER BY seq LIMIT ?",
                (thread_id or "", after_seq, limit),
            )
            rows = _page(found, max_bytes)
            last, dropped = self._bounds(reader, thread_id)
        if after_seq > last:
            return Gap(thread_id, after_seq, last), []
        gap = Gap(thread_id, after_seq, dropped) if after_seq < dropped else None
        return gap, [_event(row) for row in rows]

    @staticmethod
    def _bounds(reader: sqlite3.Connection, thread_id: str | None) -> tuple[int, int]:
        row = reader.execute(
            "SELECT last_seq, dropped_seq FROM threads WHERE thread_id = ?", (thread_id or "",)
        ).fetchone()
        return row or (0, 0)

    def last_id(self) -> int:
        with self._file.read() as reader:
            (last,) = reader.execute(
                "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'"
            ).fetchone()
        return int(last)

    def before_last(self, count: int) -> int:
        if count < 1:
            return self.last_id()
        with self._file.read() as reader:
            row = reader.execute(
                "SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?", (count - 1,)
            ).fetchone()
            if row is None:  # all that there are, and after what is gone: that is no news
                row = reader.execute("SELECT event_id + 1 FROM dropped").fetchone()
        return int(row[0]) - 1

    def last_seq(self, thread_id: str | None) -> int:
        with self._file.read() as reader:
            return self._bounds(reader, thread_id)[0]

    # -- incidents

    def raise_incident(self, incident: Incident) -> bool:
        with self._file.write() as writer:
            row = writer.execute(
                "SELECT severity FROM incidents WHERE key = ?", (incident.key,)
            ).fetchone()
            if row is None or Severity.of(row[0]).rank < incident.severity.rank:
                self._tell_incident(writer, incident)
                new = True
            else:
                new = False
            writer.execute(
                "INSERT OR REPLACE INTO affected (key, partitions) VALUES (?, ?)",
                (incident.key, incident.affected),
            )
            return new

    @staticmethod
    def _tell_incident(writer: sqlite3.Connection, incident: Incident) -> None:
        writer.execute(
            "INSERT INTO incidents VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
            " severity = excluded.severity, message = excluded.message, detail = "
            "excluded.detail",
            (
                incident.key,
                incident.stream,
                incident.thread_id,
                incident.severity.value,
                incident.since,
                incident.message,
                incident.detail,
            ),
        )
        public = incident.public
        writer.execute(
            "INSERT OR REPLACE INTO public_causes (key, error, reference) VALUES (?, ?, ?)",
            (incident.key, public.error, public.reference),
        )

    def clear_incident(self, key: str) -> Incident | None:
        with self._file.write() as writer:
            row = writer.execute(f"{_INCIDENTS} WHERE i.key = ?", (key,)).fetchone()
            for table in ("incidents", "public_causes", "affected"):
                writer.execute(f"DELETE FROM {table} WHERE key = ?", (key,))
        return _incident(row) if row else None

    def incidents(self) -> list[Incident]:
        with self._file.read() as reader:
            rows = reader.execute(f"{_INCIDENTS} ORDER BY since, i.key").fetchall()
        return [_incident(row) for row in rows]

    # -- originals

    def keep_originals(self, originals: Sequence[Original]) -> None:
        with self._file.write() as writer:
            writer.executemany(
                "INSERT INTO originals (stream, partition, job, path, reason, original, at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (o.stream, o.partition, o.job, o.path, o.reason, o.original, o.at)
                    for o in originals
                ],
            )

    def originals(self, *, thread_id: str | None = None, limit: int = 500) -> list[Original]:
        with self._file.read() as reader:
            rows = reader.execute(
                "SELECT stream, partition, job, path, reason, original, at FROM originals"
                " WHERE at >= ? AND (? IS NULL OR partition = ?) ORDER BY id DESC LIMIT ?",
                (self._clock() - self._originals_max_age_s, thread_id, thread_id, limit),
            ).fetchall()
        return [Original(*row) for row in rows]

    def forget_thread(self, thread_id: str) -> None:
        with self._file.write() as writer:
            writer.execute("DELETE FROM events WHERE thread_id = ?", (thread_id,))
            writer.execute(
                "UPDATE threads SET dropped_seq = last_seq WHERE thread_id = ?", (thread_id,)
            )
            writer.execute("DELETE FROM originals WHERE partition = ?", (thread_id,))
            # told to operators only
            writer.execute("DELETE FROM incidents WHERE key = ?", (f"fork:{thread_id}",))
            for table in ("public_causes", "affected"):
                writer.execute(
                    f"DELETE FROM {table} WHERE key IN"
                    " (SELECT key FROM incidents WHERE thread_id = ?)",
                    (thread_id,),
                )
            writer.execute("DELETE FROM incidents WHERE thread_id = ?", (thread_id,))

    def forget_lines(self, thread_id: str, numbers: Sequence[int]) -> None:
        with self._file.write() as writer:
            writer.executemany(
                "DELETE FROM events WHERE thread_id = ? AND type = 'log'"
                " AND json_extract(CAST(body AS TEXT), '$.log_seq') = ?",
                [(thread_id, number) for number in numbers],
            )

    def erase(self, threads: Iterable[str], words: Sequence[str]) -> None:
        with self._file.write() as writer:
            erase_words_of(writer, threads, words)

    def size_bytes(self) -> int:
        return self._file.size_bytes()

    def scrub(self) -> bool:
        return scrub(self.path, kind=EVENTS)

    # -- life

    def maintain(self) -> None:
        with self._file.write() as writer:
            self._drop(writer)
            forwarded.forget_old(writer, self._clock())
            writer.execute(
                "DELETE FROM originals WHERE at < ? OR id <= (SELECT max(id) FROM originals) - ?",
                (self._clock() - self._originals_max_age_s, _ORIGINALS_KEPT),
            )
        self._file.tidy()

    def _drop(self, writer: sqlite3.Connection) -> None:
        (last,) = writer.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()
        # By id, so that what is kept is always the end of the log, whatever the clock did
        # meanwhile.
        oldest = self._clock() - self._max_age_s
        young = writer.execute(
            "SELECT id FROM events WHERE at >= ? ORDER BY id LIMIT 1", (oldest,)
        ).fetchone()
        through = max((young[0] if young else last + 1) - 1, last - self._max_events)
        gone = writer.execute(
            "SELECT thread_id, max(seq) FROM events WHERE id <= ? GROUP BY thread_id", (through,)
        ).fetchall()
        if not gone:
            return
        writer.executemany(
            "UPDATE threads SET dropped_seq = ? WHERE thread_id = ?",
            [(seq, name) for name, seq in gone],
        )
        writer.execute("DELETE FROM events WHERE id <= ?", (through,))
        writer.execute("UPDATE dropped SET event_id = ?", (through,))
        # Counters of threads that have been silent longest; a reader of such a thread is told of a
        # gap.
        writer.execute(
            "DELETE FROM threads WHERE last_seq = dropped_seq AND thread_id NOT IN"
            " (SELECT thread_id FROM threads ORDER BY updated_at DESC LIMIT ?)",
            (_THREADS_KEPT,),
        )

    def close(self) -> None:
        self._file.close()


def _page(found: sqlite3.Cursor, max_bytes: int | None) -> list[tuple[Any, ...]]:
    """The rows up to the one that reaches the limit; no more of them are read."""
    if max_bytes is None:
        return found.fetchall()
    rows: list[tuple[Any, ...]] = []
    size = 0
    for row in found:
        rows.append(row)
        size += len(row[5])
        if size >= max_bytes:
            break
    found.close()
    return rows


def _event(row: tuple[Any, ...]) -> RunEvent:
    id_, type_, thread, seq, at, body = row
    try:
        data = dict(jsontext.loads(body))
    except (TypeError, ValueError) as error:  # shown as such: its neighbours are read
        data = {"unreadable": f"{len(body)} bytes ({error})", "begins": jsontext.preview(body)}
    return RunEvent(id=id_, type=type_, thread_id=thread or None, seq=seq, at=at, data=data)


def _incident(row: tuple[Any, ...]) -> Incident:
    key, stream, thread_id, severity, since, message, detail, error, reference, affected = row
    public = PublicCause(error, reference)
    return Incident(
        key=key,
        stream=stream,
        thread_id=thread_id,
        severity=Severity.of(severity),
        since=since,
        message=message,
        detail=detail,
        public=public,
        affected=affected,
    )
