"""Acknowledged entries that stay in the file for a while, seen by nobody, so that a sink that lost its
last minute (a failover to a replica that was behind) gets them again.

To the format before they look like parked ones, which it leaves alone. Records that are kept are
deleted in the order in which they were acknowledged; what builds on them is made whole then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from surgetank.buffer.sqlite import ledger
from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.chain import free, let_go, make_full
from surgetank.buffer.sqlite.ids import first_id, seq_of, seq_sql
from surgetank.model import Mark

_AT_ONCE = 500  # acknowledgements in one transaction, which holds up writers
_KEPT = "partition_id = ? AND kept = 1 AND id >= ? AND id < ?"
_GROUPS = "SELECT id, partition_id, low, high, bytes, epoch FROM kept"

Group = tuple[int, int, int, int, int, int]  # number, partition, low, high, bytes, epoch
Acked = tuple[int, int, int, int, Mark]  # partition, low, high, bytes, last entry


class KeptEntries:
    """Keeps acknowledged entries for `keep_s`, up to `keep_bytes` of them."""

    def __init__(self, file: BufferFile, keep_s: float, keep_bytes: int) -> None:
        self._file = file
        self._keep_s, self._keep_bytes = keep_s, keep_bytes

    @property
    def keeps(self) -> bool:
        """Whether anything is kept."""
        return self._keep_s > 0

    def keep(self, connection: sqlite3.Connection, acked: Sequence[Acked]) -> int:
        """Hide the records of acknowledged entries; returns how many. Forget the oldest over the
        limit."""
        now = self._file.clock()
        done = connection.executemany(
            "UPDATE records SET parked = 1, kept = 1 WHERE partition_id = ? AND parked = 0 AND id "
            ">= ? AND id < ?",
            [(id_, low, high) for id_, low, high, _, _ in acked],
        ).rowcount
        connection.executemany(
            "INSERT INTO kept (partition_id, low, high, bytes, epoch, acked_at) VALUES (?, ?, ?, "
            "?, ?, ?)",
            [(id_, low, high, size, mark.epoch, now) for id_, low, high, size, mark in acked],
        )
        kept = ledger.keep(connection, sum(size for *_, size, _ in acked))
        if kept > self._keep_bytes:
            self._drop(connection, _oldest(connection, kept - self._keep_bytes))
        return max(done, 0)

    def _drop(self, connection: sqlite3.Connection, groups: Sequence[Group]) -> None:
        merged: dict[
            int, tuple[int, int]
        ] = {}  # what builds on a record is mostly dropped along with it
        for _, partition_id, low, high, _, _ in groups:
            merged[partition_id] = (merged.get(partition_id, (low, 0))[0], high)
        for partition_id, (low, high) in merged.items():
            free(connection, self._file.checker, partition_id, low, high)
            added = make_full(
                connection,
                self._file.checker,
                partition_id,
                "partition_id = ? AND kept = 1 AND id >= ? AND base >= ? AND base < ?",
                (partition_id, high, low, high),
            )
            if added:
                self._count_growth(connection, partition_id, high, added)
        ranges = [group[1:4] for group in groups]
        let_go(connection, _KEPT, ranges)
        connection.executemany(f"DELETE FROM records WHERE {_KEPT}", ranges)
        connection.executemany("DELETE FROM kept WHERE id = ?", [group[:1] for group in groups])
        ledger.forget_kept(connection, sum(group[4] for group in groups))
        self.note_gone(
            connection,
            [(epoch, seq_of(high) - 1, id_) for _, id_, _, high, _, epoch in groups],
        )

    @staticmethod
    def _count_growth(
        connection: sqlite3.Connection, partition_id: int, after: int, added: int
    ) -> None:
        """Count what kept records grew by when they were made whole with their partition's next
        acknowledgement."""
        ledger.keep(connection, added)
        connection.execute(
            "UPDATE kept SET bytes = bytes + ? WHERE id ="
            " (SELECT min(id) FROM kept WHERE partition_id = ? AND low >= ?)",
            (added, partition_id, after),
        )

    @staticmethod
    def note_gone(connection: sqlite3.Connection, gone: Sequence[tuple[int, int, int]]) -> None:
        """Remember the last entries (epoch, seq, partition) that are not kept any more."""
        connection.executemany(
            "UPDATE partitions SET gone_epoch = ?, gone_seq = ? WHERE id = ?", gone
        )

    def forget_kept(self, *, all_: bool = False) -> None:
        """Delete kept entries that are old enough, or all of them, because their space is
        needed."""
        while True:
            now = self._file.clock()
            # In the future: by a clock that was set back since.
            old = "acked_at <= ? OR acked_at > ?" if not all_ else "acked_at <> ? OR acked_at <> ?"
            query = f"{_GROUPS} WHERE {old} ORDER BY id LIMIT {_AT_ONCE}"
            limits = (now - self._keep_s, now + self._keep_s)
            with self._file.read() as connection:
                if connection.execute(query, limits).fetchone() is None:
                    return
            with self._file.write() as connection:
                self._drop(connection, connection.execute(query, limits).fetchall())

    @staticmethod
    def return_to(
        connection: sqlite3.Connection, partition_id: int, trusted: Mapping[int, Mark]
    ) -> int:
        """Let kept entries that the sink doesn't have wait again, and all after them; returns how
        many."""
        rows = connection.execute(
            f"SELECT {seq_sql('id')}, epoch FROM records WHERE partition_id = ? AND kept = 1 ORDER BY id",
            (partition_id,),
        )
        first = next((seq for seq, epoch in rows if not covers(trusted, epoch, seq)), None)
        if first is None:
            return 0
        low = first_id(first)
        which, found = "partition_id = ? AND kept = 1 AND id >= ?", (partition_id, low)
        entries, size, oldest_at, last = connection.execute(
            f"SELECT count(DISTINCT {seq_sql('id')}), sum(length(key) + length(value)),"
            f" min(accepted_at), {seq_sql('max(id)')}"
            f" FROM records WHERE {which}",
            found,
        ).fetchone()
        connection.execute(f"UPDATE records SET parked = 0, kept = 0 WHERE {which}", found)
        connection.execute("DELETE FROM kept WHERE partition_id = ? AND low >= ?", found)
        connection.execute(
            "UPDATE kept SET high = ?2, bytes = (SELECT coalesce(sum(length(r.key)"
            " + length(r.value)), 0) FROM records r WHERE r.partition_id = ?1 AND r.kept = 1"
            " AND r.id >= kept.low AND r.id < ?2), epoch = coalesce((SELECT epoch FROM records"
            " WHERE partition_id = ?1 AND kept = 1 ORDER BY id DESC LIMIT 1), epoch)"
            " WHERE partition_id = ?1 AND high > ?2",
            found,
        )
        ledger.rewind(connection, partition_id, entries, size, oldest_at=oldest_at, newest=last)
        return int(entries)


def covers(standing: Mapping[int, Mark], epoch: int, seq: int) -> bool:
    """Whether the sink has that entry."""
    mark = standing.get(epoch)
    return mark is not None and seq <= mark.seq


def _oldest(connection: sqlite3.Connection, size: int) -> list[Group]:
    """The acknowledgements kept longest that have so many bytes together."""
    found: list[Group] = []
    for group in connection.execute(f"{_GROUPS} ORDER BY id"):
        if size <= 0:
            break
        found.append(group)
        size -= group[4]
    return found
