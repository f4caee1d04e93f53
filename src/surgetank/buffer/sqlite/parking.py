"""Parked entries of the SQLite buffer: set aside with their reason, and put back."""

from __future__ import annotations

from collections.abc import Iterable

from surgetank.buffer.failures import failure_json
from surgetank.buffer.sqlite import ledger
from surgetank.buffer.sqlite.append import Inserter
from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.chain import Load, isolate
from surgetank.buffer.sqlite.checks import STORED
from surgetank.buffer.sqlite.discard import discard_parked
from surgetank.buffer.sqlite.ids import first_id_sql, id_range, shift
from surgetank.buffer.sqlite.leases import require
from surgetank.buffer.sqlite.rows import PARKED, parked_of
from surgetank.model import Entry, Failure, Lease, ParkedEntry, Record


class SQLiteParking:
    """The role `Parking`. What is put back waits under the epoch of this handle."""

    def __init__(self, file: BufferFile, load: Load, inserter: Inserter) -> None:
        self._file = file
        self._load = load
        self._inserter = inserter

    def park(self, lease: Lease, seq: int, failure: Failure) -> ParkedEntry:
        now = self._file.clock()
        low, high = id_range(seq)
        with self._file.write() as connection:
            partition_id = require(connection, lease)
            isolate(connection, self._file.checker, partition_id, low, high)
            row = connection.execute(
                "SELECT sum(length(key) + length(value)), min(accepted_at), max(replays) FROM "
                "records"
                " WHERE partition_id = ? AND parked = 0 AND id >= ? AND id < ?",
                (partition_id, low, high),
            ).fetchone()
            size, accepted_at, replays = row
            if size is None:
                raise self._file.checker.damaged(
                    lease.stream, lease.partition, seq, "it is not there"
                )
            connection.execute(
                "UPDATE records SET parked = 1 WHERE id >= ? AND id < ?", (low, high)
            )
            (id_,) = connection.execute(
                "INSERT INTO parked (id, partition_id, seq, bytes, accepted_at, parked_at, "
                "failure, replays)"
                " VALUES ((SELECT parked_id FROM unparked WHERE seq = ?2), ?1, ?2, ?3, ?4, ?5, ?6, "
                "?7) RETURNING id",
                (partition_id, seq, size, accepted_at, now, failure_json(failure), replays),
            ).fetchone()
            ledger.park(connection, partition_id, size)
        return ParkedEntry(
            id=id_,
            stream=lease.stream,
            partition=lease.partition,
            seq=seq,
            bytes=size,
            accepted_at=accepted_at,
            parked_at=now,
            failure=failure,
            retries=replays,
        )

    def parked(
        self, *, stream: str | None = None, partition: str | None = None
    ) -> list[ParkedEntry]:
        with self._file.read() as connection:
            rows = connection.execute(
                f"SELECT {PARKED} WHERE (?1 IS NULL OR p.stream = ?1) AND (?2 IS NULL OR p.name = "
                f"?2) ORDER BY k.id",
                (stream, partition),
            ).fetchall()
        return [parked_of(row) for row in rows]

    def parked_entry(self, parked_id: int) -> Entry | None:
        with self._file.read() as connection:
            row = connection.execute(f"SELECT {PARKED} WHERE k.id = ?", (parked_id,)).fetchone()
            if row is None:
                return None
            seq = row[3]
            rows = connection.execute(
                f"SELECT {STORED} FROM records WHERE parked = 1 AND id >= ? AND id < ? ORDER BY id",
                id_range(seq),
            ).fetchall()
            self._file.checker.require_entry(row[1], row[2], seq, rows)
            records = tuple(
                Record(key, value if base is None else self._load(connection, base, value))
                for _, _, _, _, _, base, key, value, _ in rows
            )
        return Entry(row[1], row[2], seq, records, row[5], replayed=row[8] > 0, epoch=rows[0][3])

    def unpark(self, parked_ids: Iterable[int]) -> list[int]:
        seqs: list[int] = []
        with self._file.write() as connection:
            connection.execute(  # those that arrived meanwhile, or are parked again
                "DELETE FROM unparked WHERE NOT EXISTS (SELECT 1 FROM records r"
                f" WHERE r.id >= {first_id_sql('unparked.seq')}"
                f" AND r.id < {first_id_sql('unparked.seq + 1')} AND r.parked = 0)"
            )
            for parked_id in parked_ids:
                row = connection.execute(
                    "DELETE FROM parked WHERE id = ? RETURNING partition_id, seq, bytes",
                    (parked_id,),
                ).fetchone()
                if row is None:
                    continue
                partition_id, old, size = row
                seq = ledger.take_seqs(connection)
                connection.execute(
                    "UPDATE records SET id = id + ?, epoch = ?, parked = 0, replays = replays + 1"
                    " WHERE id >= ? AND id < ?",
                    (shift(old, seq), self._inserter.epoch, *id_range(old)),
                )
                ledger.unpark(connection, partition_id, size, self._file.clock())
                connection.execute(
                    "INSERT INTO unparked (seq, parked_id) VALUES (?, ?)", (seq, parked_id)
                )
                seqs.append(seq)
        return seqs

    def discard_parked(self, parked_ids: Iterable[int]) -> None:
        with self._file.write() as connection:
            discard_parked(connection, parked_ids)
