"""What keeps the SQLite buffer and its sink from going back in time unnoticed.

Each partition remembers the last entry that was acknowledged (its mark), and each handle accepts
under an epoch of its own.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Mapping

from surgetank.buffer.binding import Marked, Rewound
from surgetank.buffer.sqlite import leases, ledger
from surgetank.buffer.sqlite.append import Inserter
from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.chain import isolate
from surgetank.buffer.sqlite.ids import id_range, seq_sql, shift
from surgetank.buffer.sqlite.kept import KeptEntries, covers
from surgetank.model import Lease, Mark

_MARKS_KEPT = 200_000
_MARKS_KEPT_S = 30 * 86_400.0  # the sink keeps its side for 90 days
_MARKED = "SELECT stream, name, mark_epoch, mark_seq, mark_digest, mark_at FROM partitions"


def random_epoch() -> int:
    """A name for what one handle accepts, never given twice. It is never 0."""
    return secrets.randbits(62) | 1


class SQLiteFence:
    """The role `Fence`."""

    def __init__(
        self,
        file: BufferFile,
        kept: KeptEntries,
        inserter: Inserter,
        new_epoch: Callable[[], int],
    ) -> None:
        self._file = file
        self._kept = kept
        self._inserter = inserter
        self._new_epoch = new_epoch

    def marks(self, *, limit: int, offset: int = 0) -> list[Marked]:
        with self._file.read() as connection:
            rows = connection.execute(
                f"{_MARKED} WHERE mark_seq > 0 AND lease_until <= ? AND mark_at > ?"
                " ORDER BY mark_at DESC, id LIMIT ? OFFSET ?",
                (now := self._file.clock(), now - _MARKS_KEPT_S, limit, offset),
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
        with self._file.write() as connection:
            if lease is not None:
                partition_id = leases.require(connection, lease)
            else:
                row = connection.execute(
                    "SELECT id FROM partitions WHERE stream = ? AND name = ? AND lease_until <= ?",
                    (stream, partition, self._file.clock()),
                ).fetchone()
                if row is None:
                    return None
                (partition_id,) = row
            gone_epoch, gone_seq = connection.execute(
                "SELECT gone_epoch, gone_seq FROM partitions WHERE id = ?", (partition_id,)
            ).fetchone()
            missing = gone_seq > 0 and not covers(trusted, gone_epoch, gone_seq)
            known = max((mark.seq for mark in trusted.values()), default=0)
            entries = self._kept.return_to(connection, partition_id, trusted)
            connection.execute(
                "UPDATE partitions SET mark_epoch = 0, mark_seq = 0, mark_digest = 0, gone_epoch = "
                "0, gone_seq = 0,"
                " next_attempt_at = 0 WHERE id = ?",
                (partition_id,),
            )
        return Rewound(entries, (min(known + 1, gone_seq), gone_seq) if missing else None)

    def renew_epoch(self, lease: Lease, *, beyond: int, replayed: bool) -> int:
        epoch = self._new_epoch()
        with self._file.write() as connection:
            partition_id = leases.require(connection, lease)
            seqs = [
                seq
                for (seq,) in connection.execute(
                    f"SELECT DISTINCT {seq_sql('id')} FROM records"
                    " WHERE partition_id = ? AND parked = 0 ORDER BY id",
                    (partition_id,),
                )
            ]
            first = ledger.take_seqs(connection, len(seqs), beyond=beyond)
            if seqs:
                everything = id_range(seqs[0], seqs[-1])
                isolate(connection, self._file.checker, partition_id, *everything)
            connection.executemany(
                "UPDATE records SET id = id + ?, epoch = ?, replays = replays + ?"
                " WHERE partition_id = ? AND parked = 0 AND id >= ? AND id < ?",
                [
                    (shift(old, new), epoch, replayed, partition_id, *id_range(old))
                    for new, old in enumerate(seqs, start=first)
                ],
            )
            connection.execute("UPDATE partitions SET spilled_to = 0 WHERE id = ?", (partition_id,))
            ledger.renumber(connection, partition_id, first + len(seqs) - 1 if seqs else 0)
        # Its own epoch may be the one that another process goes on with as well (a machine that was
        # cloned).
        self._inserter.epoch = self._new_epoch()
        return len(seqs)

    def raise_token(self, lease: Lease, *, beyond: int) -> Lease | None:
        with self._file.write() as connection:
            partition_id = leases.held(connection, lease)
            if partition_id is None:
                return None
            token = ledger.take_tokens(connection, beyond=beyond)
            connection.execute(
                "UPDATE partitions SET token = ? WHERE id = ?", (token, partition_id)
            )
        return Lease(lease.stream, lease.partition, token, lease.owner, lease.expires_at)


def oldest_mark(connection: sqlite3.Connection, now: float) -> float:
    """Marks made before this moment need not be kept."""
    row = connection.execute(
        "SELECT mark_at FROM partitions WHERE mark_seq > 0 ORDER BY mark_at DESC LIMIT 1 OFFSET ?",
        (_MARKS_KEPT,),
    ).fetchone()
    return max(now - _MARKS_KEPT_S, row[0] if row else float("-inf"))
