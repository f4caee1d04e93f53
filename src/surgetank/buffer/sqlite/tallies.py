"""Tallies in the SQLite buffer: repeated reports folded into one row each, as durable as an entry
and far smaller.

A tally is the newest value of a key and how often it came. It becomes an entry of its partition
when somebody asks for that (`send_tallies`), in the same transaction that removes it: neither a
kill nor a second process loses or doubles it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from surgetank.buffer.sqlite.append import Inserter, Request
from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.chain import Memory
from surgetank.buffer.tallies import Tally
from surgetank.exceptions import BufferFull
from surgetank.model import Record

_AT_ONCE = 500


class SQLiteTallies:
    """The role `Tallies`."""

    def __init__(self, file: BufferFile, inserter: Inserter, memory: Memory) -> None:
        self._file = file
        self._inserter = inserter
        self._memory = memory

    def tally(
        self, stream: str, partition: str, key: bytes, value: bytes, *, count: int = 1
    ) -> None:
        with self._file.write() as connection:
            connection.execute(
                "INSERT INTO tallies (stream, partition, key, value, count, since) VALUES (?, ?, "
                "?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET value = excluded.value, count = count + excluded.count",
                (stream, partition, key, value, count, self._file.clock()),
            )

    def try_tally(self, stream: str, partition: str, key: bytes, value: bytes) -> bool:
        return self._file.unless_held(lambda: self.tally(stream, partition, key, value))

    def send_tallies(
        self, stream: str, entry_of: Callable[[Tally], Record], *, older_s: float
    ) -> int:
        now = self._file.clock()
        # In the future: by a clock that was set back since.
        due = "stream = ? AND NOT since BETWEEN ? AND ?"
        limits = (stream, now - older_s + 1e-9, now + older_s)
        with self._file.read() as connection:
            if (
                connection.execute(f"SELECT 1 FROM tallies WHERE {due} LIMIT 1", limits).fetchone()
                is None
            ):
                return 0
        sent = 0
        while True:
            with self._file.write() as connection:
                chosen = [
                    Tally(*row)
                    for row in connection.execute(
                        f"SELECT partition, key, value, count FROM tallies WHERE {due} LIMIT "
                        f"{_AT_ONCE}",
                        limits,
                    )
                ]
                for tally in chosen:
                    self._send(connection, stream, tally, entry_of(tally), now)
            self._memory.committed()
            sent += len(chosen)
            if len(chosen) < _AT_ONCE:
                return sent

    def _send(
        self, connection: sqlite3.Connection, stream: str, tally: Tally, record: Record, now: float
    ) -> None:
        request = Request(stream, tally.partition, (record,), None, start_guarding=False)
        self._inserter.insert(connection, request, now)
        if request.full:
            raise BufferFull(
                f"The buffer is full; {tally.count} reports for {tally.partition!r} stay counted.",
                remedy="nothing to do: they are sent when there is room.",
            )
        connection.execute(
            "DELETE FROM tallies WHERE stream = ? AND partition = ? AND key = ?",
            (stream, tally.partition, tally.key),
        )
