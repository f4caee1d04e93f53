"""Thread logs into PostgreSQL: COPY, one transaction for all slices of a group."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from psycopg.types.json import Jsonb

from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode import jsontext
from surgetank.model import Entry, Record
from surgetank.sinks.fence import Rows, fence, unreadable
from surgetank.sinks.protocol import Slice, Written
from surgetank.sinks.table import TableSink
from surgetank.streams.checkpoints.envelope import OPERATION_KEY
from surgetank.streams.logs.line import DELETED, KEY, STREAM, LogLine

SQL = queries("streams/logs/logs.sql")
_TYPES = ["text", "int8", "text", "text", "timestamptz", "text", "text", "text", "jsonb"]


def log_sink(database: Database) -> TableSink:
    """The sink of the stream `thread_logs`."""

    def probe_record(name: str) -> Record:
        return Record(KEY, LogLine(name, "probe", at=time.time()).pack())

    return TableSink(database, STREAM, write=_write, probe_record=probe_record)


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
