"""Acknowledging entries of the SQLite buffer: one transaction removes or hides them, keeps notes and
marks, and changes copies, for many partitions at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from surgetank.buffer.coordination import Ack
from surgetank.buffer.sqlite import leases, ledger
from surgetank.buffer.sqlite.audit import correct_ledgers, note_damage
from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.chain import free, let_go
from surgetank.buffer.sqlite.checks import REMEDY
from surgetank.buffer.sqlite.copies import CopyTables
from surgetank.buffer.sqlite.ids import id_range
from surgetank.buffer.sqlite.kept import Acked, KeptEntries
from surgetank.buffer.sqlite.ledger import Acknowledged
from surgetank.buffer.sqlite.notes import note_acks
from surgetank.buffer.sqlite.space import Space
from surgetank.encode.digest import mark_of
from surgetank.exceptions import BufferCorrupt, BufferUnavailable
from surgetank.model import Lease

_RANGE = "partition_id = ? AND parked = 0 AND id >= ? AND id < ?"
_SPILLED = f"SELECT 1 FROM records WHERE {_RANGE} AND base < 0 LIMIT 1"
_STORED = f"SELECT sum(length(key) + length(value)) FROM records WHERE {_RANGE}"


class SQLiteAcks:
    """`Leases.ack`."""

    def __init__(
        self, file: BufferFile, kept: KeptEntries, copies: CopyTables, space: Space
    ) -> None:
        self._file = file
        self._kept = kept
        self._copies = copies
        self._space = space
        self._economical = False  # the disk is full: nothing is kept, and nothing wiped

    def ack(self, acks: Sequence[Ack]) -> list[Lease]:
        try:
            lost = self._acknowledge(acks)
            if self._file.reserve.is_short():
                self._space.relieve()
            return lost
        except BufferUnavailable:
            if not self._file.reserve.is_short():
                raise
            if len(acks) == 1:
                return self._acknowledge(acks)  # with what the reserve gave up for it
            return [lost for ack in acks for lost in self.ack([ack])]
        except BufferCorrupt as error:
            self._file.auditor.suspect = True
            if len(acks) > 1:  # one partition's damage must not keep the others
                return [lost for ack in acks for lost in self.ack([ack])]
            lease = acks[0].lease
            with self._file.write() as connection:
                what = f"written entries can't be taken out of the buffer: {error.what}"
                note_damage(connection, self._file.clock(), lease.stream, lease.partition, what)
            return [lease]

    def _acknowledge(self, acks: Sequence[Ack]) -> list[Lease]:
        lost: list[Lease] = []
        with self._file.write() as connection:
            held: list[tuple[int, Ack]] = []
            for ack in acks:
                partition_id = leases.held(connection, ack.lease)
                if partition_id is None:
                    lost.append(ack.lease)
                else:
                    held.append((partition_id, ack))
            self._remove(connection, [(id_, ack) for id_, ack in held if ack.entries])
            note_acks(connection, held, self._file.clock())
            if self._economical:
                self._copies.remove(connection, [id_ for id_, ack in held if ack.entries])
            else:
                self._copies.change(connection, held, self._file.clock())
            connection.executemany(
                "UPDATE partitions SET lease_until = 0, owner = NULL WHERE id = ?",
                [(id_,) for id_, ack in held if ack.release],
            )
        self._file.made_space()
        return lost

    def _remove(self, connection: sqlite3.Connection, held: Sequence[tuple[int, Ack]]) -> None:
        """Remove acknowledged entries (they are kept a while), and what was remembered of failures
        before."""
        kept: list[Acked] = []
        deleted: list[Acked] = []
        counts: list[Acknowledged] = []
        records = 0
        spilled = connection.execute("SELECT 1 FROM spills LIMIT 1").fetchone() is not None
        short = self._file.reserve.is_short()
        # many builds of SQLite write zeros over what is deleted, to the log
        if short != self._economical:
            connection.execute(
                f"PRAGMA secure_delete = {'OFF' if short else self._file.secure_delete}"
            )
            self._economical = short
        for partition_id, ack in held:
            mark = ack.mark or mark_of(ack.entries[-1])
            where = (partition_id, *id_range(ack.entries[0].seq, ack.entries[-1].seq))
            # Values in spill files are not kept: the files could not be deleted.
            keep = (
                self._kept.keeps
                and not short
                and not (spilled and connection.execute(_SPILLED, where).fetchone())
            )
            if not keep:
                free(connection, self._file.checker, *where)
            # may be less than what was read
            (taken,) = connection.execute(_STORED, where).fetchone()
            if taken is None:
                raise self._file.checker.damaged(
                    ack.lease.stream,
                    ack.lease.partition,
                    ack.entries[0].seq,
                    "it is not there any more",
                )
            (kept if keep else deleted).append((*where, taken, mark))
            records += sum(len(entry.records) for entry in ack.entries)
            counts.append(
                Acknowledged(partition_id, len(ack.entries), taken, *mark, self._file.clock())
            )
        gone = self._kept.keep(connection, kept) if kept else 0
        if deleted:
            ranges = [acked[:3] for acked in deleted]
            let_go(connection, _RANGE, ranges)
            gone += max(
                connection.executemany(f"DELETE FROM records WHERE {_RANGE}", ranges).rowcount, 0
            )
            self._kept.note_gone(
                connection, [(mark.epoch, mark.seq, id_) for id_, _, _, _, mark in deleted]
            )
        # Entries are read in order and without gaps; anything else would acknowledge what was not
        # written.
        if gone != records:
            name = held[0][1].lease
            raise BufferCorrupt(
                f"{records} records of {name.stream}/{name.partition} and {len(held) - 1} more "
                f"partitions were"
                f" acknowledged, {gone} are there.",
                remedy=REMEDY,
            )
        ledger.acknowledge(connection, counts)
        correct_ledgers(connection, self._file.clock(), [partition_id for partition_id, _ in held])
