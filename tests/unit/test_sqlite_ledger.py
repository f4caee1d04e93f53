"""`ledger.verify` finds each kind of wrong count, so that the tests which ask it prove something."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.buffers import BAD, drain, put, read_all, take
from surgetank.buffer.coordination import Ack
from surgetank.buffer.sqlite import ledger
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.model import CopyChange


@pytest.fixture
def file(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A buffer's file with something of each kind in it, counted right."""
    path = tmp_path / "buffer.db"
    with closing(SQLiteBuffer(path, keep_s=60.0)) as buffer:
        put(buffer, "kept")
        drain(buffer)
        put(buffer, "copied")
        leased = take(buffer)
        entries = read_all(buffer, leased.lease)
        copy = CopyChange(b"mark", 2, {b"k": b"v"})
        buffer.ack([Ack(leased.lease, entries, release=True, keep=lambda _: copy)])
        seq = put(buffer, "parked", b"bad")
        lease = take(buffer).lease
        buffer.park(lease, seq, BAD)
        put(buffer, "p", b"one")
        put(buffer, "p", b"two", b"three")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def test_what_is_counted_right_is_found_right(file: sqlite3.Connection) -> None:
    assert ledger.totals(file).entries == 3
    assert ledger.totals(file).copied == 2
    assert ledger.totals(file).kept_bytes > 0
    assert ledger.verify(file) == []


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        ("UPDATE partitions SET entries = 3 WHERE name = 'p'", "s/p counts 3 entries"),
        ("UPDATE partitions SET bytes = bytes + 1 WHERE name = 'p'", "s/p counts 2 entries and 15"),
        ("UPDATE partitions SET oldest_at = NULL WHERE name = 'p'", "the oldest of None"),
        ("UPDATE partitions SET last_seq = 77 WHERE name = 'p'", "77 as its last seq"),
        ("UPDATE parked SET bytes = 1000", "the parked entry 3 of 1000 bytes; 4 are there"),
        ("UPDATE totals SET entries = 9", "sum  counts 9 entries"),
        ("UPDATE totals SET bytes = 9", "sum  counts 3 entries and 9 bytes"),
        ("UPDATE totals SET copied = 9", "counts 9 bytes of copies; 2 are there"),
        ("DELETE FROM kept", "bytes that are kept; 0 are"),
        (
            "INSERT INTO spills VALUES (1, 'f', 's', 'a', 'file', 'kept', 5, 0, 0, 0)",
            "file file counts 5 records; 0 refer to it",
        ),
    ],
)
def test_a_wrong_count_is_found(file: sqlite3.Connection, harm: str, found: str) -> None:
    file.execute(harm)
    assert any(found in sentence for sentence in ledger.verify(file)), ledger.verify(file)
