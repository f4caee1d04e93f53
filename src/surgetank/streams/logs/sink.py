"""Thread logs into PostgreSQL: COPY, one transaction for all slices of a group."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode import jsontext
from surgetank.model import Entry, Record
from surgetank.sinks.fence import Rows, fence, unreadable
from surgetank.sinks.probe import probe_name, probe_slice, rolled_back
from surgetank.sinks.protocol import Slice, Written
from surgetank.streams.checkpoints.envelope import OPERATION_KEY
from surgetank.streams.logs.line import DELETED, KEY, STREAM, LogLine

SQL = queries("streams/logs/logs.sql")
_TYPES = ["text", "int8", "text", "text", "timestamptz", "text", "text", "text", "jsonb"]


class PostgresLogSink:
    """The sink of the stream `thread_logs`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def name(self) -> str:
        return "postgresql"

    def ping(self) -> str:
        return self._database.ping()

    def close(self) -> None:
        """The database belongs to whoever made it."""

    def probe(self, *, buffer_id: str) -> None:
        name = probe_name()
        line = probe_slice(STREAM, name, Record(KEY, LogLine(name, "probe", at=time.time()).pack()))
        with rolled_back(self._database) as cursor:
            _write(cursor, [line], buffer_id, self._database.claim(cursor.connection))

    def write(self, slices: Sequence[Slice], *, buffer_id: str) -> list[Written]:
        size = sum(entry.size for part in slices for entry in part.entries)
        with (
            self._database.connection(size=size) as connection,
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            return _write(cursor, slices, buffer_id, self._database.claim(cursor.connection))


def _write(
    cursor: Rows, slices: Sequence[Slice], buffer_id: str, database_id: str | None
) -> list[Written]:
    written: list[Written] = []
    passed = fence(cursor, slices, buffer_id, database_id)
    deleted = {part.partition: seq for part in passed if (seq := _deleted_seq(part.entries))}
    if deleted:
        for query in ("forget_thread_logs", "forget_thread_errors"):
            cursor.execute(SQL[query], {"threads": sorted(deleted)})
    with cursor.copy(SQL["copy_logs"]) as copy:
        copy.set_types(_TYPES)
        for part in passed:
            thread_id = part.partition
            rows, size = int(thread_id in deleted), 0  # a deletion counts as one
            for entry in part.entries:
                if entry.seq <= deleted.get(thread_id, 0):
                    continue
                for record in entry.records:
                    line = _line(thread_id, entry, record, buffer_id)
                    copy.write_row(
                        (
                            thread_id,
                            line.seq,
                            buffer_id,
                            line.level,
                            datetime.fromtimestamp(line.at, UTC),
                            line.logger,
                            line.user_id,
                            line.message,
                            Jsonb(line.fields, dumps=jsontext.dumps),
                        )
                    )
                    rows, size = rows + 1, size + len(record.value)
            last = max(deleted.get(thread_id, 0), _deleted_seq(part.written_before))
            noted = {DELETED: last.to_bytes(8)} if last else {}
            skipped = len(part.written_before)
            written.append(
                Written(rows=rows, size=size, skipped=skipped, mark=part.mark, maxima=noted)
            )
    return written


def _deleted_seq(entries: Sequence[Entry]) -> int:
    """The entry with which the thread was deleted last; 0 when it was not."""
    return max(
        (e.seq for e in entries if any(r.key == OPERATION_KEY for r in e.records)), default=0
    )


def _line(thread_id: str, entry: Entry, record: Record, buffer_id: str) -> LogLine:
    try:
        return LogLine.unpack(thread_id, record.value, seq=entry.seq, buffer_id=buffer_id)
    except ValueError as error:
        raise unreadable(thread_id, entry, record, error) from error
