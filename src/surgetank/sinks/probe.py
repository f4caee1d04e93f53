"""Entries of a sink's own, written the way real ones are and rolled back: what a sink takes when it takes anything."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.rows import dict_row

from surgetank.database.pool import Database
from surgetank.encode import envelope, errors, logline
from surgetank.encode.envelope import CheckpointRecord, WriteRecord
from surgetank.encode.errors import ErrorReport
from surgetank.encode.logline import LogLine
from surgetank.model import Entry, Lease, Record
from surgetank.sinks.progress import Rows
from surgetank.sinks.protocol import Slice
from surgetank.sinks.rows import SMALL_BYTES

_ID = "1ef00000-0000-6000-8000-000000000000"


@contextmanager
def rolled_back(database: Database) -> Iterator[Rows]:
    """A cursor in a transaction of which nothing stays."""
    with database.connection() as connection, connection.cursor(binary=True, row_factory=dict_row) as cursor:
        yield cursor
        connection.rollback()


def checkpoints() -> Slice:
    """A checkpoint with a value and a pending write: a row for every table that checkpoints are written to."""
    structure = envelope.structure_of({"v": 4, "id": _ID, "channel_versions": {"probe": "1"}})
    record = CheckpointRecord(None, structure, ("probe",), "null", b"", b"{}", b"{}")
    return _slice(
        envelope.STREAM,
        f"surgetank-probe-{uuid.uuid4()}",
        Record(envelope.checkpoint_key("", _ID), record.pack()),
        # Large enough for a row of its own at every level of the storage format.
        envelope.blob_record("", "probe", "1", envelope.pack_blob("bytes", bytes(2 * SMALL_BYTES))),
        Record(envelope.write_key("", _ID, "probe", 0), WriteRecord("probe", "", "null", b"").pack()),
    )


def log_line() -> Slice:
    """A line of a thread's log."""
    name = f"surgetank-probe-{uuid.uuid4()}"
    return _slice(logline.STREAM, name, Record(logline.KEY, LogLine(name, "probe", at=time.time()).pack()))


def error_report() -> Slice:
    """A system error."""
    name = f"surgetank-probe-{uuid.uuid4()}"
    report = ErrorReport("probe", "probe", fingerprint=name, at=time.time())
    return _slice(errors.STREAM, name, Record(errors.KEY, report.pack()))


def _slice(stream: str, partition: str, *records: Record) -> Slice:
    return Slice(
        Lease(stream, partition, 1, "probe", 0.0), [Entry(stream, partition, 1, records, time.time())]
    )
