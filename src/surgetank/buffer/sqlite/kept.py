"""What the SQLite buffer keeps so that neither it nor its sink can go back in time unnoticed.

Each partition remembers the last entry that was acknowledged (its mark). Acknowledged entries stay
in the file for a while, seen by nobody, so that a sink that lost its last minute (a failover to a
replica that was behind) gets them again. To the format before they look like parked ones, which it
leaves alone. Records that are kept are deleted in the order in which they were acknowledged; what
builds on them is made whole then.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from surgetank.buffer.binding import Binding, Marked, Rewound
from surgetank.buffer.sqlite.append import Inserter
from surgetank.buffer.sqlite.chain import free, isolate, let_go, make_whole
from surgetank.buffer.sqlite.checks import Checker
from surgetank.buffer.sqlite.rows import SLOT_BITS
from surgetank.model import Lease, Mark

_MARKS_KEPT = 200_000
_MARKS_KEPT_S = 30 * 86_400.0  # the sink keeps its side for 90 days
_AT_ONCE = 500  # acknowledgements in one transaction, which holds up writers
_KEPT = "partition_id = ? AND kept = 1 AND id >= ? AND id < ?"
_GROUPS = "SELECT id, partition_id, low, high, bytes, epoch FROM kept"
_MARKED = "SELECT stream, name, mark_epoch, mark_seq, mark_digest, mark_at FROM partitions"

Group = tuple[int, int, int, int, int, int]  # number, partition, low, high, bytes, epoch
Acked = tuple[int, int, int, int, Mark]  # partition, low, high, bytes, last entry


def random_epoch() -> int:
    """A name for what one handle accepts, never given twice. It is never 0."""
    return secrets.randbits(62) | 1


class SQLiteKeptSide:
    """Marks, kept entries and new epochs. Mixed into `SQLiteBuffer`, which owns the connections."""

    keep_s: float
    keep_bytes: int
    _new_epoch: Callable[[], int]
    _inserter: Inserter
    _checker: Checker
    _clock: Callable[[], float]
    _write: Callable[[], AbstractContextManager[sqlite3.Connection]]
    _read: Callable[[], AbstractContextManager[sqlite3.Connection]]
    _held: Callable[[sqlite3.Connection, Lease], int | None]
    _require: Callable[[sqlite3.Connection, Lease], int]

    @property
    def epoch(self) -> int:
        """The epoch of what this handle accepts."""
        return self._inserter.epoch

    # -- acknowledged entries

    def _keep(self, connection: sqlite3.Connection, acked: Sequence[Acked]) -> int:
        """Hide the records of acknowledged entries; returns how many. Forget the oldest over the
        limit."""
        now = self._clock()
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
        (kept,) = connection.execute(
            "UPDATE totals SET kept_bytes = kept_bytes + ? RETURNING kept_bytes",
            (sum(size for *_, size, _ in acked),),
        ).fetchone()
        if kept > self.keep_bytes:
            self._drop_kept(connection, _oldest(connection, kept - self.keep_bytes))
        return max(done, 0)

    def _drop_kept(self, connection: sqlite3.Connection, groups: Sequence[Group]) -> None:
        merged: dict[
            int, tuple[int, int]
        ] = {}  # what builds on a record is mostly dropped along with it
        for _, partition_id, low, high, _, _ in groups:
            merged[partition_id] = (merged.get(partition_id, (low, 0))[0], high)
        for partition_id, (low, high) in merged.items():
            free(connection, self._checker, partition_id, low, high)
            added = make_whole(
                connection,
                self._checker,
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
        connection.execute(
            "UPDATE totals SET kept_bytes = (SELECT CASE WHEN EXISTS (SELECT 1 FROM kept)"
            " THEN max(0, kept_bytes - ?) ELSE 0 END)",
            (sum(size for *_, size, _ in groups),),
        )
        self._note_gone(
            connection,
            [(epoch, (high >> SLOT_BITS) - 1, id_) for _, id_, _, high, _, epoch in groups],
        )

    @staticmethod
    def _count_growth(
        connection: sqlite3.Connection, partition_id: int, after: int, added: int
    ) -> None:
        """Count what kept records grew by when they were made whole with their partition's next
        acknowledgement."""
        connection.execute("UPDATE totals SET kept_bytes = kept_bytes + ?", (added,))
        connection.execute(
            "UPDATE kept SET bytes = bytes + ? WHERE id ="
            " (SELECT min(id) FROM kept WHERE partition_id = ? AND low >= ?)",
            (added, partition_id, after),
        )

    @staticmethod
    def _note_gone(connection: sqlite3.Connection, gone: Sequence[tuple[int, int, int]]) -> None:
        """Remember the last entries (epoch, seq, partition) that are not kept any more."""
        connection.executemany(
            "UPDATE partitions SET gone_epoch = ?, gone_seq = ? WHERE id = ?", gone
        )

    def forget_kept(self, *, all_: bool = False) -> None:
        """Delete kept entries that are old enough, or all of them, because their space is
        needed."""
        while True:
            now = self._clock()
            # In the future: by a clock that was set back since.
            old = "acked_at <= ? OR acked_at > ?" if not all_ else "acked_at <> ? OR acked_at <> ?"
            query = f"{_GROUPS} WHERE {old} ORDER BY id LIMIT {_AT_ONCE}"
            limits = (now - self.keep_s, now + self.keep_s)
            with self._read() as connection:
                if connection.execute(query, limits).fetchone() is None:
                    return
            with self._write() as connection:
                self._drop_kept(connection, connection.execute(query, limits).fetchall())

    # -- time travel

    def marks(self, *, limit: int, offset: int = 0) -> list[Marked]:
        with self._read() as connection:
            rows = connection.execute(
                f"{_MARKED} WHERE mark_seq > 0 AND lease_until <= ? AND mark_at > ?"
                " ORDER BY mark_at DESC, id LIMIT ? OFFSET ?",
                (now := self._clock(), now - _MARKS_KEPT_S, limit, offset),
            ).fetchall()
        return [Marked(stream, name, Mark(*mark), at) for stream, name, *mark, at in rows]

    def rewind(
        self,
        stream: str,
        partition: str,
        trusted: Mapping[int, Mark],
        *,
        lease: Lease | None = None,
    ) -> Rewound | None:
        with self._write() as connection:
            if lease is not None:
                partition_id = self._require(connection, lease)
            else:
                row = connection.execute(
                    "SELECT id FROM partitions WHERE stream = ? AND name = ? AND lease_until <= ?",
                    (stream, partition, self._clock()),
                ).fetchone()
                if row is None:
                    return None
                (partition_id,) = row
            gone_epoch, gone_seq = connection.execute(
                "SELECT gone_epoch, gone_seq FROM partitions WHERE id = ?", (partition_id,)
            ).fetchone()
            missing = gone_seq > 0 and not _covers(trusted, gone_epoch, gone_seq)
            known = max((mark.seq for mark in trusted.values()), default=0)
            entries = self._unkeep(connection, partition_id, trusted)
            connection.execute(
                "UPDATE partitions SET mark_epoch = 0, mark_seq = 0, mark_digest = 0, gone_epoch = "
                "0, gone_seq = 0,"
                " next_attempt_at = 0 WHERE id = ?",
                (partition_id,),
            )
        return Rewound(entries, (min(known + 1, gone_seq), gone_seq) if missing else None)

    @staticmethod
    def _unkeep(
        connection: sqlite3.Connection, partition_id: int, trusted: Mapping[int, Mark]
    ) -> int:
        """Let kept entries that the sink doesn't have wait again, and all after them; returns how
        many."""
        rows = connection.execute(
            "SELECT id >> 16, epoch FROM records WHERE partition_id = ? AND kept = 1 ORDER BY id",
            (partition_id,),
        )
        first = next((seq for seq, epoch in rows if not _covers(trusted, epoch, seq)), None)
        if first is None:
            return 0
        low = first << SLOT_BITS
        which, found = "partition_id = ? AND kept = 1 AND id >= ?", (partition_id, low)
        entries, size, oldest_at, last = connection.execute(
            "SELECT count(DISTINCT id >> 16), sum(length(key) + length(value)), min(accepted_at), "
            "max(id) >> 16"
            f" FROM records WHERE {which}",
            found,
        ).fetchone()
        connection.execute(f"UPDATE records SET parked = 0, kept = 0 WHERE {which}", found)
        connection.execute("DELETE FROM kept WHERE partition_id = ? AND low >= ?", found)
        connection.execute(
            "UPDATE kept SET high = ?2, bytes = 0, epoch = coalesce((SELECT epoch FROM records "
            "WHERE partition_id = ?1"
            " AND kept = 1 ORDER BY id DESC LIMIT 1), epoch) WHERE partition_id = ?1 AND high > ?2",
            found,
        )
        connection.execute(
            "UPDATE partitions SET entries = entries + ?, bytes = bytes + ?, oldest_at = ?, "
            "spilled_to = 0,"
            " last_seq = max(last_seq, ?) WHERE id = ?",
            (entries, size, oldest_at, last, partition_id),
        )
        connection.execute(
            "UPDATE totals SET entries = entries + ?, bytes = bytes + ?, kept_bytes = max(0, "
            "kept_bytes - ?)",
            (entries, size, size),
        )
        return int(entries)

    def renew_epoch(self, lease: Lease, *, beyond: int, replayed: bool) -> int:
        epoch = self._new_epoch()
        with self._write() as connection:
            partition_id = self._require(connection, lease)
            seqs = [
                seq
                for (seq,) in connection.execute(
                    "SELECT DISTINCT id >> 16 FROM records WHERE partition_id = ? AND parked = 0 "
                    "ORDER BY id",
                    (partition_id,),
                )
            ]
            (next_seq,) = connection.execute(
                "UPDATE totals SET next_seq = max(next_seq, ?) + ? RETURNING next_seq",
                (beyond + 1, len(seqs)),
            ).fetchone()
            if seqs:
                isolate(
                    connection,
                    self._checker,
                    partition_id,
                    seqs[0] << SLOT_BITS,
                    (seqs[-1] + 1) << SLOT_BITS,
                )
            connection.executemany(
                "UPDATE records SET id = id + ?, epoch = ?, replays = replays + ?"
                " WHERE partition_id = ? AND parked = 0 AND id >= ? AND id < ?",
                [
                    (
                        (new - old) << SLOT_BITS,
                        epoch,
                        replayed,
                        partition_id,
                        old << SLOT_BITS,
                        (old + 1) << SLOT_BITS,
                    )
                    for new, old in enumerate(seqs, start=next_seq - len(seqs))
                ],
            )
            connection.execute(
                "UPDATE partitions SET spilled_to = 0, last_seq = ? WHERE id = ?",
                (next_seq - 1 if seqs else 0, partition_id),
            )
        # Its own epoch may be the one that another process goes on with as well (a machine that was
        # cloned).
        self._inserter.epoch = self._new_epoch()
        return len(seqs)

    def raise_token(self, lease: Lease, *, beyond: int) -> Lease | None:
        with self._write() as connection:
            partition_id = self._held(connection, lease)
            if partition_id is None:
                return None
            (token,) = connection.execute(
                "UPDATE totals SET next_token = max(next_token, ?) + 1 RETURNING next_token - 1",
                (beyond + 1,),
            ).fetchone()
            connection.execute(
                "UPDATE partitions SET token = ? WHERE id = ?", (token, partition_id)
            )
        return Lease(lease.stream, lease.partition, token, lease.owner, lease.expires_at)

    # -- the database that the buffer belongs to

    def binding(self) -> Binding | None:
        with self._read() as connection:
            row = connection.execute(
                "SELECT address, database_id, system_id, database_oid FROM binding"
            ).fetchone()
        return Binding(*row) if row else None

    def bind(self, binding: Binding, *, forget_marks: bool = False) -> None:
        with self._write() as connection:
            connection.execute(
                "INSERT INTO binding (id, address, database_id, system_id, database_oid, bound_at)"
                " VALUES (1, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET address = "
                "excluded.address,"
                " database_id = excluded.database_id, system_id = excluded.system_id,"
                " database_oid = excluded.database_oid, bound_at = excluded.bound_at",
                (*binding, self._clock()),
            )
            if forget_marks:
                connection.execute(
                    "UPDATE partitions SET mark_epoch = 0, mark_seq = 0, mark_digest = 0, "
                    "gone_epoch = 0, gone_seq = 0"
                )
        if forget_marks:
            self.forget_kept(all_=True)


def note_destination(
    connection: sqlite3.Connection, destination: str, new: int, now: float
) -> None:
    """Remember where a buffer's entries are meant to go, if nothing is known of it yet. One that
    never met its database and holds nothing but `new` entries may go elsewhere.
    """
    connection.execute(
        "INSERT INTO binding (id, address, bound_at) VALUES (1, ?, ?) ON CONFLICT (id) DO UPDATE"
        " SET address = excluded.address, bound_at = excluded.bound_at"
        " WHERE database_id IS NULL AND (SELECT entries FROM totals) <= ?",
        (destination, now, new),
    )


def oldest_mark(connection: sqlite3.Connection, now: float) -> float:
    """Marks made before this moment need not be kept."""
    row = connection.execute(
        "SELECT mark_at FROM partitions WHERE mark_seq > 0 ORDER BY mark_at DESC LIMIT 1 OFFSET ?",
        (_MARKS_KEPT,),
    ).fetchone()
    return max(now - _MARKS_KEPT_S, row[0] if row else float("-inf"))


def _oldest(connection: sqlite3.Connection, size: int) -> list[Group]:
    """The acknowledgements kept longest that have so many bytes together."""
    found: list[Group] = []
    for group in connection.execute(f"{_GROUPS} ORDER BY id"):
        if size <= 0:
            break
        found.append(group)
        size -= group[4]
    return found


def _covers(standing: Mapping[int, Mark], epoch: int, seq: int) -> bool:
    mark = standing.get(epoch)
    return mark is not None and seq <= mark.seq
