"""Entries of a sink's own, written the way real ones are and rolled back: what a sink takes when it
takes anything."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.rows import dict_row

from surgetank.database.pool import Database
from surgetank.model import Entry, Lease, Record
from surgetank.sinks.fence import Rows
from surgetank.sinks.protocol import Slice


@contextmanager
def rolled_back(database: Database) -> Iterator[Rows]:
    """A cursor in a transaction of which nothing stays."""
    with (
        database.connection() as connection,
        connection.cursor(binary=True, row_factory=dict_row) as cursor,
    ):
        yield cursor
        connection.rollback()


def probe_name() -> str:
    """A partition that nobody else has."""
    return f"surgetank-probe-{uuid.uuid4()}"


def probe_slice(stream: str, partition: str, *records: Record) -> Slice:
    """An entry of a probe's own, as if it were leased."""
    entry = Entry(stream, partition, 1, records, time.time())
    return Slice(Lease(stream, partition, 1, "probe", 0.0), [entry])
