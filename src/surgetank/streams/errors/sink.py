"""System errors into PostgreSQL: occurrences and actions are folded onto the rows of their groups.

The rules of grouping are `streams.errors.groups.fold`; here stands only how a group is read, locked
and stored.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode import jsontext
from surgetank.events.types import Severity
from surgetank.model import Entry, Record
from surgetank.sinks.fence import Passed, Rows, fence, unreadable
from surgetank.sinks.protocol import Slice, Written
from surgetank.sinks.table import TableSink
from surgetank.streams.errors.groups import (
    FORGET_THREAD,
    KEY,
    STREAM,
    Audit,
    ErrorAction,
    ErrorGroup,
    ErrorReport,
    fold,
    group_id,
    unpack,
    without_forgotten,
)

SQL = queries("streams/errors/errors.sql")
_HOUR = 3600.0


def error_sink(database: Database) -> TableSink:
    """The sink of the stream `system_errors`; a partition is a fingerprint."""

    def probe_record(name: str) -> Record:
        report = ErrorReport("probe", "probe", fingerprint=name, at=time.time())
        return Record(KEY, report.pack())

    return TableSink(database, STREAM, write=_write, probe_record=probe_record)


def _write(
    cursor: Rows, slices: Sequence[Slice], buffer_id: str, database_id: str | None
) -> list[Written]:
    passed = fence(cursor, slices, buffer_id, database_id)
    ids = [group_id(part.partition) for part in passed if part.entries]
    cursor.execute(SQL["claim_errors"], {"ids": ids})
    cursor.execute(SQL["lock_errors"], {"ids": ids})
    groups = {row["fingerprint"]: group_of(row) for row in cursor.fetchall()}
    return [_write_group(cursor, part, groups.get(part.partition)) for part in passed]


def write_through(
    database: Database, name: str, items: Sequence[ErrorReport | ErrorAction]
) -> None:
    """Fold items onto the group of a fingerprint in the database, past the buffer. Raises
    `DatabaseUnavailable`."""
    ids = {"ids": [group_id(name)]}
    with database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(SQL["claim_errors"], ids)
        cursor.execute(SQL["lock_errors"], ids)
        row = cursor.fetchone()
        _fold_onto(cursor, name, group_of(row) if row is not None else None, items)


def group_of(row: Mapping[str, Any]) -> ErrorGroup:
    """The group that a row of `lock_errors` or `find_errors` holds."""
    return ErrorGroup(
        id=str(row["id"]),
        fingerprint=row["fingerprint"],
        error_type=row["error_type"],
        severity=Severity.of(row["severity"]),
        thread_id=row["thread_id"],
        error_message=row["error_message"],
        stack_trace=row["stack_trace"],
        error_context=row["error_context"],
        created_at=row["created"],
        last_seen=row["seen"],
        occurrences=row["occurrences"],
        resolved_at=row["resolved"],
        resolved_by=row["resolved_by"],
        resolution_notes=row["resolution_notes"],
        regressions=row["regressions"],
        regressed_at=row["regressed"],
        previous_resolution=row["previous_resolution"],
        snoozed_until=row["snoozed"],
        snoozed_by=row["snoozed_by"],
    )


def _item(name: str, entry: Entry, record: Record) -> ErrorReport | ErrorAction:
    try:
        return unpack(record.value)
    except ValueError as error:
        raise unreadable(name, entry, record, error) from error


def _write_group(cursor: Rows, part: Passed, group: ErrorGroup | None) -> Written:
    name, entries = part.partition, part.entries
    items = [_item(name, entry, record) for entry in entries for record in entry.records]
    audited = _fold_onto(cursor, name, group, items)
    size = sum(entry.size for entry in entries)
    return Written(
        rows=bool(entries) + audited, size=size, skipped=len(part.written_before), mark=part.mark
    )


def _fold_onto(
    cursor: Rows,
    name: str,
    group: ErrorGroup | None,
    items: Sequence[ErrorReport | ErrorAction],
) -> int:
    """Fold items onto a group that is locked; how many rows the audit got."""
    audits: list[Audit] = []
    reports: list[ErrorReport] = []
    stored = group is not None
    forgotten = [i.notes for i in items if isinstance(i, ErrorAction) and i.kind == FORGET_THREAD]
    for item in without_forgotten(items):
        after, audit = fold(group, item)
        if audit is not None:
            audits.append(audit)
        if isinstance(item, ErrorReport):
            reports.append(item)
        if group is not None and after is None:
            reports.clear()  # counted for a group that is gone
        group = after
    if group is not None and items:
        cursor.execute(SQL["store_error"], _row(group))
        if forgotten:
            cursor.execute(SQL["forget_threads_of_error"], {"id": group.id, "threads": forgotten})
        _count(cursor, group.id, reports)
    elif stored and group is None:
        cursor.execute(SQL["delete_errors"], {"ids": [group_id(name)]})
    for audit in audits:
        cursor.execute(
            SQL["audit"],
            {
                "error_id": group_id(name),
                "at": audit.at,
                "actor": audit.actor,
                "action": audit.action,
                "notes": audit.notes,
                "detail": _json(audit.detail),
            },
        )
    return len(audits)


def _row(group: ErrorGroup) -> dict[str, Any]:
    row = asdict(group)
    previous = group.previous_resolution
    return {
        **row,
        "severity": group.severity.value,
        "error_context": _json(group.error_context),
        "previous_resolution": _json(previous) if previous is not None else None,
    }


def _count(cursor: Rows, error_id: str, reports: Sequence[ErrorReport]) -> None:
    threads: dict[str, list[float]] = {}
    counts: Counter[str] = Counter()
    hours: Counter[float] = Counter()
    for report in reports:
        hours[report.at // _HOUR * _HOUR] += report.count
        if report.thread_id is not None:
            threads.setdefault(report.thread_id, []).append(report.at)
            counts[report.thread_id] += report.count
    ids = uuid.UUID(error_id)
    if threads:
        names = sorted(threads)
        cursor.execute(
            SQL["count_threads"],
            {
                "ids": [ids] * len(names),
                "threads": names,
                "counts": [counts[n] for n in names],
                "firsts": [min(threads[n]) for n in names],
                "lasts": [max(threads[n]) for n in names],
            },
        )
    if hours:
        cursor.execute(
            SQL["count_hours"],
            {"ids": [ids] * len(hours), "hours": list(hours), "counts": list(hours.values())},
        )


def _json(value: object) -> Jsonb:
    return Jsonb(value, dumps=jsontext.dumps)
