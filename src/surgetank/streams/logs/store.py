"""Thread logs: written to the buffer first, read hot and cold in one order, without gap or double.

A line's number is its entry's `seq`, given in the transaction that accepted it: whoever reads on
after a number misses nothing, from whichever process the lines come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from psycopg.rows import dict_row

from surgetank.buffer.log import Log
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode import limits
from surgetank.events.protocol import EventLog
from surgetank.events.types import EventType, RunEvent
from surgetank.exceptions import SurgetankError
from surgetank.model import Record
from surgetank.streams.checkpoints.envelope import OPERATION_KEY
from surgetank.streams.logs.line import KEY, STREAM, LogLine

SQL = queries("streams/logs/logs.sql")
MAX_LIMIT = 10_000
_PAGE = 5000


@dataclass(frozen=True, slots=True)
class LogPage:
    """Lines in order. `problem` says why older lines may be missing: the database can't be asked
    just now."""

    lines: tuple[LogLine, ...]
    problem: str | None = None

    def __iter__(self) -> Iterator[LogLine]:
        return iter(self.lines)


class ThreadLogs:
    """Writes and reads the logs of threads. Safe to use from several threads."""

    def __init__(
        self, buffer: Log, database: Database, events: EventLog, *, clock: Callable[[], float]
    ) -> None:
        self._buffer = buffer
        self._database = database
        self._events = events
        self._clock = clock

    def write(self, line: LogLine, *, wait: bool = True) -> LogLine:
        """Accept a line; returned with its number. Raises `BufferFull`, `BufferUnavailable`,
        `EntryRejected`."""
        self._check(line)
        line = line if line.at else replace(line, at=self._clock())
        seq = self._buffer.append(STREAM, line.thread_id, (Record(KEY, line.pack()),), wait=wait)
        return replace(line, seq=seq, buffer_id=self._buffer.id)

    @staticmethod
    def _check(line: LogLine) -> None:
        limits.check_names(
            line.thread_id,
            [
                ("$.thread_id", line.thread_id),
                ("$.logger", line.logger),
                ("$.user_id", line.user_id or ""),
            ],
        )
        limits.check_mapping(line.thread_id, "$.fields", line.fields)

    def try_write(self, line: LogLine) -> LogLine | None:
        """`write` for an event loop: None, and nothing accepted, while another process holds the
        buffer. Raises `BufferFull` at once, `BufferUnavailable`, `EntryRejected`.
        """
        self._check(line)
        seq = self._buffer.try_append(STREAM, line.thread_id, (Record(KEY, line.pack()),))
        return replace(line, seq=seq, buffer_id=self._buffer.id) if seq is not None else None

    def read(
        self,
        thread_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = 500,
        levels: Sequence[str] | None = None,
    ) -> LogPage:
        """Lines of a thread in order: the first `limit` after a number, or with `before` the last
        ones before it.

        While the database is down, lines that are there already come from the event log, as far
        back as it reaches.
        """
        limits.check_names(thread_id, [("$.thread_id", thread_id)])
        limit = max(1, min(limit, MAX_LIMIT))
        # First what is hot: what is flushed meanwhile is in the database then.
        hot, deleted = self._hot(thread_id, after)
        problem = None
        try:
            cold = [] if deleted else self._cold(thread_id, after, before, limit, levels)
        except SurgetankError as error:
            cold = self._replayed(thread_id, after)
            problem = f"The oldest lines can't be read just now: {error.what}"
        lines = {(line.seq, line.buffer_id): line for line in cold}
        for line in hot:
            lines[line.seq, line.buffer_id] = line
        lines = {
            key: line
            for key, line in lines.items()
            if (levels is None or line.level in levels) and (before is None or line.seq < before)
        }
        ordered = [lines[key] for key in sorted(lines)]
        return LogPage(tuple(ordered[-limit:] if before is not None else ordered[:limit]), problem)

    def _hot(self, thread_id: str, after: int) -> tuple[list[LogLine], bool]:
        """The lines in the buffer, and whether all that is in the database is about to be
        deleted."""
        buffer_id = self._buffer.id
        with self._buffer.snapshot() as snapshot:
            deletion = snapshot.last(STREAM, thread_id, OPERATION_KEY)
            since = max(after, deletion.seq if deletion is not None else 0)
            found = snapshot.scan(STREAM, thread_id, KEY, after_seq=since)
        lines = [
            LogLine.unpack_or_show(thread_id, f.value, seq=f.seq, buffer_id=buffer_id)
            for f in found
        ]
        return lines, deletion is not None

    def _replayed(self, thread_id: str, after: int) -> list[LogLine]:
        """Lines out of the events that told them live. Long messages are cut there."""
        lines: list[LogLine] = []
        page: list[RunEvent] = []
        seq = 0
        while page or seq == 0:
            _, page = self._events.thread_events(thread_id, seq, limit=_PAGE)
            seq = page[-1].seq if page else -1
            for event in page:
                number = int(event.data.get("log_seq", 0)) if event.type == EventType.LOG else 0
                if number > after:
                    data = event.data
                    lines.append(
                        LogLine(
                            thread_id=thread_id,
                            message=str(data.get("message", "")),
                            level=str(data.get("level", "info")),
                            at=event.at,
                            logger=str(data.get("logger", "")),
                            user_id=None,
                            fields=data.get("fields", {}),
                            seq=number,
                            buffer_id=self._buffer.id,
                        )
                    )
        return lines

    def _cold(
        self,
        thread_id: str,
        after: int,
        before: int | None,
        limit: int,
        levels: Sequence[str] | None,
    ) -> list[LogLine]:
        arguments = {
            "thread_id": thread_id, "after": after, "before": before, "limit": limit,
            "levels": list(levels) if levels is not None else None,
        }  # fmt: skip
        query = SQL["logs_after" if before is None else "logs_before"]
        with (
            self._database.asking() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            rows = cursor.execute(query, arguments).fetchall()
        return [LogLine(**row) for row in rows]
