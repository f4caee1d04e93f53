"""Upkeep of the SQLite buffer: what is old is forgotten, damage is looked for, space is given back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from surgetank.buffer.sqlite import ledger
from surgetank.buffer.sqlite.audit import announce_damage, note_damage, read_damage
from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.copies import CopyTables, SQLiteCopies
from surgetank.buffer.sqlite.erase import erase_partitions, erase_words
from surgetank.buffer.sqlite.fence import oldest_mark
from surgetank.buffer.sqlite.kept import KeptEntries
from surgetank.buffer.sqlite.schema import BUFFER
from surgetank.buffer.sqlite.space import Space
from surgetank.buffer.sqlite.writers import oldest_kept
from surgetank.exceptions import BufferCorrupt, BufferProblem, BufferUnavailable
from surgetank.model import Advice, Damage
from surgetank.sqlite.scrub import scrub


class SQLiteErasing:
    """The role `Erasing`."""

    def __init__(self, file: BufferFile, tables: CopyTables) -> None:
        self._file = file
        self._tables = tables

    def erase(self, partitions: Iterable[str], words: Sequence[str]) -> tuple[int, list[str]]:
        with self._file.write() as connection:
            gone, waiting = erase_partitions(connection, partitions, self._tables)
            erase_words(connection, words)
        return gone, waiting

    def scrub(self) -> bool:
        return scrub(self._file.path, kind=BUFFER)


class SQLiteUpkeep:
    """The role `Upkeep`, but for erasing. So many notes and jobs are kept."""

    def __init__(
        self,
        file: BufferFile,
        space: Space,
        *,
        kept: KeptEntries,
        copies: SQLiteCopies,
        jobs_kept: int,
        notes_kept: int,
    ) -> None:
        self._file = file
        self._space = space
        self._kept = kept
        self._copies = copies
        self._jobs_kept = jobs_kept
        self._notes_kept = notes_kept

    def taken_away(self) -> BufferUnavailable | None:
        return self._file.identity.problem(now=True)

    def advices(self) -> list[Advice]:
        """None: what the disk lacks is refused when it lacks it."""
        return []

    # -- damage

    def damage(self, *, new: bool = False) -> list[Damage]:
        with self._file.read() as connection:
            return read_damage(connection, new=new)

    def damage_announced(self, ids: Sequence[int]) -> None:
        with self._file.write() as connection:
            announce_damage(connection, self._file.clock(), ids)

    def check(self) -> None:
        """Read the whole file and raise `BufferCorrupt` if any page of it is damaged."""
        with self._file.read() as connection:
            problems = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
        if problems != ["ok"]:
            raise BufferCorrupt(
                f"The buffer file {self._file.path} is damaged: {'; '.join(problems)}. It was left as it "
                f"is.",
                remedy="copy it to a safe place and start with another SURGETANK_HOME.",
            )

    def maintain(self, *, thorough: bool = True) -> None:
        """Move the WAL into the file, give free pages back; if `thorough`, forget old notes, jobs
        and partitions."""
        self._file.refuse_fork()
        self._copies.trim_copies()
        self._kept.forget_kept()
        if thorough:
            self._inspect_for_damage()
            self._forget()
        if self._file.identity.missing(now=True) is not None:
            return  # what it would do to the path would be done to another file
        if self._file.reserve.is_short():
            self._space.relieve()
        else:
            self._space.give_back(nothing_waits=not self._totals().entries)

    def _totals(self) -> ledger.Totals:
        with self._file.read() as connection:
            return ledger.totals(connection)

    def _inspect_for_damage(self) -> None:
        auditor = self._file.auditor
        with self._file.read() as connection:
            auditor.inspect(connection)
        if not (auditor.problems or auditor.suspect):
            return
        with self._file.write() as connection:
            for problem in auditor.problems:
                note_damage(connection, self._file.clock(), "", "", problem)
        try:
            with self._file.write() as connection:
                auditor.rebuild(connection)
        except BufferProblem as error:
            # what can't be rebuilt is told as it is; records are read one by one
            with self._file.write() as connection:
                note_damage(
                    connection,
                    self._file.clock(),
                    "",
                    "",
                    f"an index can't be made anew: {error.what}",
                )
        with self._file.read() as connection:
            auditor.inspect(connection)

    def _forget(self) -> None:
        """Forget expired notes, the oldest notes and jobs over their limits, and empty
        partitions."""
        now = self._file.clock()
        with self._file.read() as connection:
            (notes,) = connection.execute("SELECT count(*) FROM notes").fetchone()
            (jobs,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
            marked, fenced = oldest_mark(connection, now), oldest_kept(connection, now)
            (unfenced,) = connection.execute(
                "SELECT count(*) FROM writers WHERE seen_at < ?", (fenced,)
            ).fetchone()
            (expired,) = connection.execute(
                "SELECT count(*) FROM notes WHERE expires_at IS NOT NULL AND expires_at <= ?",
                (now,),
            ).fetchone()
            idle = connection.execute(
                "SELECT 1 FROM partitions p WHERE oldest_at IS NULL AND lease_until < ? AND "
                "mark_at < ? AND NOT EXISTS"
                " (SELECT 1 FROM notes n WHERE n.partition_id = p.id) AND NOT EXISTS"
                " (SELECT 1 FROM kept k WHERE k.partition_id = p.id) AND NOT EXISTS"
                " (SELECT 1 FROM parked k WHERE k.partition_id = p.id) AND NOT EXISTS"
                " (SELECT 1 FROM copies c WHERE c.partition_id = p.id) AND NOT EXISTS"
                " (SELECT 1 FROM writers w WHERE w.partition_id = p.id) LIMIT 1",
                (now, marked),
            ).fetchone()
        over_notes, over_jobs = notes - self._notes_kept, jobs - self._jobs_kept
        if not (
            expired or idle or unfenced or over_notes > 0 or over_jobs > self._jobs_kept // 100
        ):
            return
        with self._file.write() as connection:
            connection.execute(
                "DELETE FROM notes WHERE expires_at IS NOT NULL AND expires_at <= ?", (now,)
            )
            connection.execute("DELETE FROM writers WHERE seen_at < ?", (fenced,))
            if over_notes > 0:
                connection.execute(
                    "DELETE FROM notes WHERE (partition_id, key) IN"
                    " (SELECT partition_id, key FROM notes ORDER BY noted_at LIMIT ?)",
                    (over_notes,),
                )
            if over_jobs > 0:
                connection.execute(
                    "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE status <> 'running'"
                    " ORDER BY created_at LIMIT ?)",
                    (over_jobs,),
                )
            connection.execute(
                "UPDATE partitions SET guarded = 0 WHERE guarded = 1 AND oldest_at IS NULL AND NOT "
                "EXISTS (SELECT 1"
                " FROM notes n WHERE n.partition_id = partitions.id AND n.expires_at IS NOT NULL)"
            )
            connection.execute(
                "DELETE FROM partitions WHERE oldest_at IS NULL AND lease_until < ? AND mark_at < ?"
                " AND id NOT IN (SELECT partition_id FROM notes) AND id NOT IN (SELECT "
                "partition_id FROM parked)"
                " AND id NOT IN (SELECT partition_id FROM kept) AND id NOT IN (SELECT partition_id "
                "FROM copies) AND id NOT IN (SELECT partition_id FROM writers)",
                (now, marked),
            )
