"""Looking for what is missing in the SQLite buffer: ledgers against records, names and numbers
against their indexes.

What is found when entries are acknowledged is written down in the table `damage` by the same
transaction, so that it is told even if the process dies; a ledger that was wrong is set right,
because nothing else would be told of it.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence

from surgetank.buffer.sqlite import ledger
from surgetank.buffer.sqlite.checks import REMEDY, Checker, file_problems, ledger_problem
from surgetank.buffer.sqlite.ids import position_sql, seq_sql
from surgetank.exceptions import BufferCorrupt
from surgetank.model import Damage

_EVERY_S = 300.0
_REMEMBERED = 100_000
_KEPT_S = 30 * 86_400.0
_WRONG = "(entries > 0) <> (oldest_at IS NOT NULL)"


class Auditor:
    """Inspects a partition's ledger when it is read for the first time, and again after some
    minutes."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._sound: dict[int, float] = {}  # by partition, when
        self.problems: list[str] = []  # of the file as a whole
        self.suspect = False  # something made no sense that an index may be the cause of
        self._rebuilt_at = float("-inf")

    def inspect(self, connection: sqlite3.Connection) -> None:
        """Inspect the file; a malformed one is a problem too."""
        try:
            self.problems = file_problems(connection)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            self.problems = [str(error)]

    def compare(self, connection: sqlite3.Connection, ids: Sequence[int]) -> None:
        """Before partitions are flushed: an entry that only an index has lost must be found before
        later ones are written, because a sink takes no earlier one after them. What is gone for
        good is told when all else is written.
        """
        wrong = connection.execute(
            "SELECT p.id FROM partitions p WHERE p.id IN (SELECT value FROM json_each(?)) AND "
            "p.entries <>"
            " (SELECT count(*) FROM records r INDEXED BY records_waiting WHERE r.partition_id = "
            "p.id"
            f" AND r.parked = 0 AND {position_sql('r.id')} = 0) LIMIT 1",
            (json.dumps(ids),),
        ).fetchone()
        if wrong is not None:
            self.suspect = True
            self.rebuild(connection)

    def rebuild(self, connection: sqlite3.Connection) -> None:
        """Make the indexes anew from the tables, whose records have checksums, if something was
        found."""
        if not (self.problems or self.suspect) or time.monotonic() - self._rebuilt_at < _EVERY_S:
            return
        self._rebuilt_at, self.suspect = time.monotonic(), False
        self._sound.clear()
        connection.execute("REINDEX")

    def audit(
        self, connection: sqlite3.Connection, stream: str, partition: str, partition_id: int | None
    ) -> None:
        """Raise `BufferCorrupt` if a partition that is about to be read is not as its ledger
        says."""
        if partition_id is None:
            if self.problems:
                raise BufferCorrupt(
                    f"{stream}/{partition} can't be found in the buffer {self._checker.path}, "
                    f"which is damaged"
                    f" ({self.problems[0]}).",
                    remedy=REMEDY, partition=partition,
                )  # fmt: skip
            return
        now = time.monotonic()
        if now - self._sound.get(partition_id, float("-inf")) < _EVERY_S:
            return
        why = ledger_problem(connection, partition_id)
        if why is not None:
            raise BufferCorrupt(
                f"{stream}/{partition} in the buffer {self._checker.path} is damaged: {why}.",
                remedy=REMEDY, partition=partition,
            )  # fmt: skip
        if len(self._sound) >= _REMEMBERED:
            self._sound.clear()
        self._sound[partition_id] = now


def note_damage(
    connection: sqlite3.Connection, now: float, stream: str, partition: str, what: str
) -> None:
    """Write down what was found, once."""
    connection.execute(
        "INSERT INTO damage (found_at, stream, partition, what) SELECT ?1, ?2, ?3, ?4 WHERE NOT "
        "EXISTS"
        " (SELECT 1 FROM damage WHERE stream = ?2 AND partition = ?3 AND what = ?4)",
        (now, stream, partition, what),
    )


def correct_ledgers(connection: sqlite3.Connection, now: float, ids: Sequence[int]) -> None:
    """Compare the ledgers of partitions that were just acknowledged: what they still count is
    there, or is missing."""
    wrong = connection.execute(
        f"SELECT id, stream, name, entries, bytes, oldest_at FROM partitions"
        f" WHERE id IN (SELECT value FROM json_each(?)) AND {_WRONG}",
        (json.dumps(ids),),
    ).fetchall()
    for id_, stream, name, entries, size, oldest_at in wrong:
        there = there_bytes = 0
        if oldest_at is not None:
            there, there_bytes = connection.execute(
                f"SELECT count(DISTINCT {seq_sql('id')}), sum(length(key) + length(value)) FROM records"
                " WHERE partition_id = ? AND parked = 0",
                (id_,),
            ).fetchone()
            what = f"its ledger counted {entries} entries, {there} are there"
        else:
            what = f"{entries} accepted entries are missing from the buffer; they were not written"
        note_damage(connection, now, stream, name, what)
        ledger.correct(connection, id_, entries=(entries, there), size=(size, there_bytes or 0))


def read_damage(connection: sqlite3.Connection, *, new: bool) -> list[Damage]:
    """What was found damaged, oldest first; if `new`, only what was not announced yet."""
    rows = connection.execute(
        "SELECT id, found_at, stream, partition, what FROM damage WHERE NOT ? OR announced_at IS "
        "NULL ORDER BY id",
        (new,),
    )
    return [Damage(*row) for row in rows]


def announce_damage(connection: sqlite3.Connection, now: float, ids: Sequence[int]) -> None:
    """Remember that this was announced; forget what is old."""
    connection.executemany(
        "UPDATE damage SET announced_at = ? WHERE id = ?", [(now, id_) for id_ in ids]
    )
    connection.execute("DELETE FROM damage WHERE announced_at < ?", (now - _KEPT_S,))
