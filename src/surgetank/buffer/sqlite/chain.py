"""Records of one family as chains in the SQLite buffer: a whole value, then differences, each from
the one before.

What must stay true: a record that others build on is in the file, unchanged, and waiting. So
whatever takes records away (an acknowledgement) or sets them aside (parking) first makes those
whole that build on them, in the same transaction. A chain is short, and its differences together
are smaller than one whole value.

A negative base tells that the value was spilled to a file (spill.py). Nothing builds on such
a record.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from surgetank.bounded import BoundedMap
from surgetank.buffer.sqlite import ledger
from surgetank.buffer.sqlite.checks import (
    REMEDY,
    STORED,
    Checker,
    moved,
    names_sum,
    record_sum,
    seed,
)
from surgetank.encode.differences import delta
from surgetank.exceptions import BufferCorrupt

MIN_BYTES = 1024  # smaller values are kept whole
_MAX_DEPTH = 32  # differences that a reader has to apply, at most
_REMEMBERED_BYTES = 64 * 1024**2

Family = tuple[str, str, bytes]  # stream, partition, name
Recall = Callable[[int], bytes | None]
Check = Callable[[Sequence[Any]], object]  # of the columns `STORED`
Load = Callable[
    [sqlite3.Connection, int, bytes], bytes
]  # a spilled value, by the negative base and its place


class Link(NamedTuple):
    """The newest record of a family that this process wrote."""

    id: int
    partition_id: int
    key: bytes
    value: bytes
    depth: int
    chain_bytes: int  # of the differences since the whole value

    def extended(self, key: bytes, value: bytes, size: int) -> Link:
        """The next one, kept as a difference of that size; where it lies is not known yet."""
        return Link(
            id=0,
            partition_id=0,
            key=key,
            value=value,
            depth=self.depth + 1,
            chain_bytes=self.chain_bytes + size,
        )


class Memory:
    """What this process knows of the file without reading it: ids of partitions, and the newest
    value of each family, as far as it wrote it lately. Changed only under the write lock.
    """

    def __init__(self, limit: int = _REMEMBERED_BYTES) -> None:
        values: dict[int, bytes] = {}

        # Not a method: a reference to itself would keep all this until the garbage collector runs.
        def forget(_: Family, link: Link) -> None:
            values.pop(link.id, None)  # an interrupt may have come between

        self._links = BoundedMap[Family, Link](
            most_weight=limit, weigh=lambda link: len(link.value), on_evict=forget
        )
        self._values = values
        self._fresh: dict[Family, Link] = {}
        self.ids: dict[tuple[str, str], int] = {}  # by stream and partition

    def write(self, family: Family, link: Link) -> None:
        """A record was inserted; it is remembered once that is committed."""
        self._fresh[family] = link

    def committed(self) -> None:
        """What was written since the last call is in the file."""
        if self._fresh:
            self.keep(self._fresh)
            self._fresh = {}

    def rolled_back(self) -> None:
        """What was written is not in the file: its ids will be given to others."""
        self.ids.clear()
        self._fresh = {}

    def newest(self, family: Family) -> Link | None:
        """What the next record of the family is compared with."""
        return self._fresh.get(family) or self._links.get(family)

    def recall(self, record_id: int) -> bytes | None:
        """The whole value of a record, if it is remembered. Safe from any thread."""
        return self._values.get(record_id)

    def keep(self, links: Mapping[Family, Link]) -> None:
        """Remember committed records; the least recently written families are forgotten over the
        limit."""
        for family, link in links.items():
            before = self._links.get(family)
            if before is not None:
                self._values.pop(before.id, None)
            self._values[link.id] = link.value
            self._links[family] = link


def shorten(connection: sqlite3.Connection, link: Link, value: bytes) -> bytes | None:
    """The difference from the record before; None when the value is better kept whole."""
    if link.depth >= _MAX_DEPTH or link.chain_bytes > len(value):
        return None
    difference = delta.diff(link.value, value)
    if difference is None or link.chain_bytes + len(difference) > len(value):
        return None
    # It may have been flushed or spilled meanwhile.
    there = connection.execute(
        "SELECT 1 FROM records WHERE id = ? AND partition_id = ? AND parked = 0 AND key = ?"
        " AND (base IS NULL OR base >= 0)",
        (link.id, link.partition_id, link.key),
    ).fetchone()
    return difference if there else None


def full_value(
    connection: sqlite3.Connection, base: int, difference: bytes, recall: Recall, check: Check
) -> bytes:
    """The value of a record that is kept as a difference. `recall` knows some whole values by id;
    `check` is shown each record that is read, and raises for a damaged one.
    """
    differences = [difference]
    value = recall(base)
    while value is None:
        row = connection.execute(f"SELECT {STORED} FROM records WHERE id = ?", (base,)).fetchone()
        if row is None or len(differences) > 2 * _MAX_DEPTH:
            raise BufferCorrupt(
                f"The buffer {_path(connection)} is damaged: a record builds on the record {base}, "
                f"which is not there.",
                remedy=REMEDY,
            )
        check(row)
        if row[5] is None:
            value = row[7]
        else:
            differences.append(row[7])
            base = row[5]
            value = recall(base)
    return delta.apply(value, differences[::-1])


def let_go(connection: sqlite3.Connection, which: str, ranges: Sequence[tuple[int, ...]]) -> None:
    """Count the spilled ones among records that are about to be deleted out of their files."""
    if connection.execute("SELECT 1 FROM spills LIMIT 1").fetchone() is None:
        return
    for parameters in ranges:
        gone = connection.execute(
            f"SELECT count(*), -base FROM records WHERE {which} AND base < 0 GROUP BY base",
            parameters,
        ).fetchall()
        connection.executemany("UPDATE spills SET records = records - ? WHERE id = ?", gone)


def free(
    connection: sqlite3.Connection, checker: Checker, partition_id: int, low: int, high: int
) -> None:
    """Make the records whole that build on those with ids from `low` up to `high`, and stand after
    them."""
    _make_full(
        connection,
        checker,
        partition_id,
        "partition_id = ? AND parked = 0 AND id >= ? AND base >= ? AND base < ?",
        (partition_id, high, low, high),
    )


def isolate(
    connection: sqlite3.Connection, checker: Checker, partition_id: int, low: int, high: int
) -> None:
    """Make the records with ids from `low` up to `high` whole, and those that build on them."""
    which = "partition_id = ? AND parked = 0 AND id >= ? AND id < ? AND base >= 0"
    _make_full(connection, checker, partition_id, which, (partition_id, low, high))
    free(connection, checker, partition_id, low, high)


def _make_full(
    connection: sqlite3.Connection,
    checker: Checker,
    partition_id: int,
    which: str,
    parameters: tuple[int, ...],
) -> None:
    added = make_full(connection, checker, partition_id, which, parameters)
    if added:
        ledger.grow(connection, partition_id, added)


def make_full(
    connection: sqlite3.Connection,
    checker: Checker,
    partition_id: int,
    which: str,
    parameters: tuple[int, ...],
) -> int:
    """Make these records whole; returns by how many bytes they grew, which is not counted yet."""
    rows = connection.execute(f"SELECT id FROM records WHERE {which}", parameters).fetchall()
    if not rows:
        return 0
    named = connection.execute(
        "SELECT stream, name FROM partitions WHERE id = ?", (partition_id,)
    ).fetchone()
    if named is None:  # a damaged page: they stay as they are
        return 0
    stream, name = named
    names = names_sum(stream, name)
    added = 0
    for (id_,) in rows:
        row = connection.execute(f"SELECT {STORED} FROM records WHERE id = ?", (id_,)).fetchone()
        if row is None or row[5] is None:  # gone by a damaged page; or made whole by one before
            continue
        _, _, _, _, accepted_at, base, key, difference, checksum = row
        try:
            checked = checker.require(stream, name, names, row) is not None
            value = full_value(
                connection,
                base,
                difference,
                _knows_nothing,
                partial(checker.require, stream, name, names),
            )
        except BufferCorrupt:
            # it stays as it is: whoever reads it is told, and no new checksum hides it
            continue
        if checked:
            seeded = seed(names, accepted_at)
            grown = record_sum(seeded, None, key, value) - record_sum(seeded, base, key, difference)
            checksum = moved(checksum, grown)
        connection.execute(
            "UPDATE records SET base = NULL, value = ?, checksum = ? WHERE id = ?",
            (value, checksum, id_),
        )
        added += len(value) - len(difference)
    return added


def _knows_nothing(_: int) -> None:
    return None


def _path(connection: sqlite3.Connection) -> Path:
    return Path(connection.execute("PRAGMA database_list").fetchone()[2])
