"""Upkeep of the hot store: what is over is removed, and a user is erased to the last byte."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from surgetank.exceptions import BufferUnavailable
from surgetank.sqlite.scrub import scrub
from surgetank.streams.tables.definition import Kind, Table
from surgetank.streams.tables.file import TABLES
from surgetank.streams.tables.hot import segments
from surgetank.streams.tables.hot.counting import mark, newest, recount, retire
from surgetank.streams.tables.hot.covering import covered
from surgetank.streams.tables.hot.flushing import remove_covered
from surgetank.streams.tables.hot.hot_file import HotFile
from surgetank.streams.tables.hot.progress import keep_progress, progress_of
from surgetank.streams.tables.hot.protocol import Progress
from surgetank.streams.tables.hot.schema import keys_of, rows_of
from surgetank.streams.tables.hot.segment_files import SegmentFiles

_DAY_S = 86_400.0
_IMPORT_S = 30 * _DAY_S  # somebody mends what stopped an import, and goes on with it
_ORPHAN_S = 3600.0  # longer than any call takes between its file and its row


_OLD_BATCH = "at < CASE WHEN key GLOB 'import:*' THEN ? ELSE ? END"


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The file that a segment has instead."""

    file: str
    size: int


Rewrite = Callable[[Table, segments.Segment], "Rewritten | None"]


class Upkeep:
    """The side of `HotTables` that keeps it small."""

    def __init__(self, file: HotFile) -> None:
        self._file = file

    def tables(self) -> list[int]:
        """See `HotTables.tables`."""
        with self._file.read() as connection:
            return [table.id for table in self._file.tables(connection)]

    def forget_table(self, table_id: int) -> None:
        """See `HotTables.forget_table`."""
        with self._file.write() as connection:
            # Kept as dropped: who still has its definition must not bring it back.
            connection.execute(
                "INSERT INTO hot_tables (table_id, dropped) VALUES (?1, 1) ON CONFLICT (table_id)"
                " DO UPDATE SET dropped = 1, definition = '', changes = 0, bytes = 0, parked = 0, tallied = 0,"
                " segment_changes = 0, segment_bytes = 0, segment_oldest_at = NULL,"
                " oldest_at = NULL, failure = NULL, owner = NULL, lease = NULL WHERE table_id = ?1",
                (table_id,),
            )
            for name in (rows_of(table_id), keys_of(table_id)):
                connection.execute(f"DROP TABLE IF EXISTS {name}")
            connection.execute(
                "INSERT OR IGNORE INTO hot_retired (file) SELECT file FROM hot_segments WHERE table_id = ?",
                (table_id,),
            )
            for name in (
                "progress",
                "failing",
                "segments",
                "skipped",
                "parked",
                "retried",
                "batches",
            ):
                connection.execute(f"DELETE FROM hot_{name} WHERE table_id = ?", (table_id,))

    def erase_user(self, user: str) -> int:
        """See `HotTables.erase_user`."""
        erased = self.erase_rows(user, self._rewritten(user))
        self.remove_bytes()
        return erased

    def erase_rows(self, user: str, rewritten: Rewrite) -> int:
        """Remove a user's changes, and let segments be without them. Files of segments that were
        flushed have the user's rows too, until they are unlinked."""
        erased = 0
        with self._file.write() as connection:
            # From now on what was read before is not accepted: it is not written again.
            connection.execute(
                "INSERT INTO hot_erasures (id, begun) VALUES (1, 1)"
                " ON CONFLICT (id) DO UPDATE SET begun = begun + 1"
            )
            tables = self._file.tables(connection)
        for table in tables:
            if not table.by_user:
                continue
            with self._file.write() as connection:
                connection.execute("PRAGMA secure_delete = ON")
                erased += self._erase_rows(connection, table, user)
                for segment in segments.segments_of(connection, table):
                    mine = [part for part in segment.parts if part.user == user]
                    if mine:
                        erased += sum(part.count for part in mine)
                        _replace(connection, table, segment, user, rewritten(table, segment))
                recount(connection, table)
        return erased

    def files_with(
        self, connection: sqlite3.Connection, user: str
    ) -> dict[str, tuple[Table, segments.Segment]]:
        """The segments that have rows of a user, by their files."""
        return {
            segment.file: (table, segment)
            for table in self._file.tables(connection)
            if table.by_user
            for segment in segments.segments_of(connection, table)
            if any(part.user == user for part in segment.parts)
        }

    def remove_bytes(self) -> None:
        """No byte is left of what was removed, here, and of segments that nothing names. Raises
        `BufferUnavailable` where somebody always reads."""
        with self._file.read() as connection:
            retired = sorted(name for (name,) in connection.execute("SELECT file FROM hot_retired"))
        if not scrub(self._file.path, kind=TABLES):
            raise BufferUnavailable(
                f"The table store {self._file.path} was always in use: bytes of what was erased may be left.",
                remedy="erase again; end what reads for a long time.",
            )
        self._file.segments.remove(retired)
        self._file.mapped.forget()
        self._forget_retired(retired)

    def maintain(self) -> None:
        """See `HotTables.maintain`."""
        self.expire()
        with self._file.read() as connection:
            retired = [name for (name,) in connection.execute("SELECT file FROM hot_retired")]
        # With all of the log in the file, nobody reads a state in which these were named.
        if retired and self._file.tidy():
            self._file.segments.remove(retired)
            self._forget_retired(retired)
        elif not retired:
            self._file.tidy()
        self._file.mapped.forget()  # of what another process unlinked, too
        self._sweep()

    def expire(self) -> None:
        """Remove what a TTL ended, what a flush has left, and old idempotency keys."""
        now = self._file.clock()
        with self._file.read() as connection:
            tables = self._file.tables(connection)
        for table in tables:
            if table.kind is Kind.STREAM and table.ttl_s is not None:
                self._expire(table, now - table.ttl_s)
            else:
                self._remove_acknowledged(table, now)
        with self._file.write() as connection:
            connection.execute(
                f"DELETE FROM hot_batches WHERE {_OLD_BATCH}", (now - _IMPORT_S, now - _DAY_S)
            )

    def is_something_over(self) -> bool:
        """Whether `expire` has something to do."""
        now = self._file.clock()
        with self._file.read() as connection:
            for table in self._file.tables(connection):
                if table.kind is Kind.STREAM and table.ttl_s is not None:
                    until = now - table.ttl_s
                    if connection.execute(
                        f"SELECT 1 FROM {rows_of(table.id)} WHERE at <= ?1 UNION ALL"
                        " SELECT 1 FROM hot_segments WHERE table_id = ?2 AND at <= ?1 LIMIT 1",
                        (until, table.id),
                    ).fetchone():
                        return True
                elif self._has_left(connection, table, now):
                    return True
            old = connection.execute(
                f"SELECT 1 FROM hot_batches WHERE {_OLD_BATCH} LIMIT 1",
                (now - _IMPORT_S, now - _DAY_S),
            )
            return old.fetchone() is not None

    def _erase_rows(self, connection: sqlite3.Connection, table: Table, user: str) -> int:
        gone, last = 0, newest(connection, table.id)
        for name in (rows_of(table.id), keys_of(table.id)):
            count = connection.execute(f"DELETE FROM {name} WHERE user = ?", (user,)).rowcount
            gone += count if name == rows_of(table.id) else 0
        mark(connection, table.id, last)
        for name in ("parked", "failing", "batches"):
            count = connection.execute(
                f"DELETE FROM hot_{name} WHERE table_id = ? AND user = ?", (table.id, user)
            ).rowcount
            gone += count if name == "parked" else 0
        connection.execute(
            "UPDATE hot_tables SET lease = (SELECT json_group_array(value) FROM json_each(lease)"
            " WHERE value <> ?) WHERE table_id = ? AND lease IS NOT NULL",
            (user, table.id),
        )
        for origin, reached in progress_of(connection, table.id).items():
            held = {name: at for name, at in reached.held.items() if name != user}
            if len(held) < len(reached.held):
                keep_progress(connection, table.id, origin, Progress(reached.through, held))
        return gone

    def _rewritten(self, user: str) -> Rewrite:
        def write(table: Table, segment: segments.Segment) -> Rewritten | None:
            return without(self._file.segments, table, segment, user)

        return write

    def _expire(self, table: Table, until: float) -> None:
        with self._file.write() as connection:
            connection.execute(
                f"DELETE FROM {keys_of(table.id)} WHERE (user, version) IN"
                f" (SELECT user, version FROM {rows_of(table.id)} WHERE at <= ?)",
                (until,),
            )
            last = newest(connection, table.id)
            connection.execute(
                f"DELETE FROM {rows_of(table.id)} WHERE at <= ? OR user IS NULL", (until,)
            )
            mark(connection, table.id, last)
            for segment in segments.segments_of(connection, table):
                if segment.at <= until:
                    connection.execute(
                        f"DELETE FROM {keys_of(table.id)} WHERE version BETWEEN ? AND ?",
                        (segment.first, segment.last),
                    )
                    retire(connection, table.id, segment)
            recount(connection, table)

    def _remove_acknowledged(self, table: Table, now: float) -> None:
        """Remove what a flush that ended half way has acknowledged and left in the journal."""
        with self._file.read() as connection:
            left = self._has_left(connection, table, now)
        if left:
            with self._file.write() as connection:
                for origin, reached in progress_of(connection, table.id).items():
                    remove_covered(connection, table.id, origin, reached)

    @staticmethod
    def _has_left(connection: sqlite3.Connection, table: Table, now: float) -> bool:
        (until,) = connection.execute(
            "SELECT lease_until FROM hot_tables WHERE table_id = ?", (table.id,)
        ).fetchone()
        return until <= now and any(
            _has_covered(connection, table, origin, reached)
            for origin, reached in progress_of(connection, table.id).items()
        )

    def _forget_retired(self, names: list[str]) -> None:
        if names:
            with self._file.write() as connection:
                connection.executemany(
                    "DELETE FROM hot_retired WHERE file = ?", [(n,) for n in names]
                )

    def _sweep(self) -> None:
        """Unlink files that a crash left between file and row."""
        old = self._file.segments.older(_ORPHAN_S)
        if not old:
            return
        with self._file.read() as connection:
            named = {
                name
                for (name,) in connection.execute(
                    "SELECT file FROM hot_segments UNION ALL SELECT file FROM hot_retired"
                )
            }
        self._file.segments.remove([name for name in old if name not in named])


def _replace(
    connection: sqlite3.Connection,
    table: Table,
    segment: segments.Segment,
    user: str,
    rewritten: Rewritten | None,
) -> None:
    """Let a segment be without this user's rows; the others keep their versions."""
    if rewritten is None:
        retire(connection, table.id, segment)
        return
    kept, start = [], 0
    for part in segment.parts:
        if part.user != user:
            kept.append(segments.Part(part.user, start, part.count, part.first))
            start += part.count
    connection.execute(
        "UPDATE hot_segments SET file = ?, bytes = ?, directory = ? WHERE id = ?",
        (rewritten.file, rewritten.size, segments.directory_of(kept), segment.id),
    )
    connection.execute("INSERT OR IGNORE INTO hot_retired (file) VALUES (?)", (segment.file,))


def without(
    files: SegmentFiles, table: Table, segment: segments.Segment, user: str
) -> Rewritten | None:
    """A file of a segment's rows without those of a user; None where there are no others."""
    stored = segments.read_file(files, segment)
    pieces = [stored.slice(part.start, part.count) for part in segment.parts if part.user != user]
    if not pieces:
        return None
    rest = pa.concat_tables(pieces).combine_chunks()
    return Rewritten(*segments.write_stored(files, table, rest))


def _has_covered(
    connection: sqlite3.Connection, table: Table, origin: int, reached: Progress
) -> bool:
    where, values = covered(origin, reached)
    found = connection.execute(
        f"SELECT 1 FROM {rows_of(table.id)} WHERE {where} AND bytes IS NOT NULL LIMIT 1", values
    )
    return found.fetchone() is not None
