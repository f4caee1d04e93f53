"""Bringing out of a damaged buffer file what is whole: into a new file, with the same identity and
numbers.

The pages are read one by one, without SQLite's trees: a record that agrees with its checksum is as
it was accepted, however damaged the rest is. Entries keep their numbers and epochs, so that what
the database has already is skipped. An entry comes out whole or not at all. Records of format 3
have no checksums and come as they are found.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections import defaultdict
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from surgetank.buffer.failures import failure_json
from surgetank.buffer.sqlite import ledger
from surgetank.buffer.sqlite.checks import (
    MASK,
    Checker,
    checksum,
    moved,
    names_sum,
    seed,
)
from surgetank.buffer.sqlite.ids import position_of, seq_of
from surgetank.buffer.sqlite.pages import rows
from surgetank.buffer.sqlite.schema import BUFFER
from surgetank.encode.differences import delta
from surgetank.exceptions import ConfigurationError
from surgetank.model import Failure, FailureKind
from surgetank.sqlite import file

# Small tables that are copied as far as SQLite can read them.
_AS_THEY_ARE = ("notes", "spills", "recovered", "tallies", "binding", "writers")
_PARTITION_COLUMNS = 17
_UNKNOWN = Failure(
    FailureKind.REJECTED, "why it was parked can't be read any more", "BufferCorrupt"
)


class _Record(NamedTuple):
    """A row of `records` as it lies in its page."""

    id: int
    partition_id: int
    parked: int
    replays: int
    accepted_at: float
    base: int | None
    key: bytes
    value: bytes
    checksum: int | None = None
    epoch: int = 0
    kept: int = 0

    def stored(self) -> tuple[Any, ...]:
        """As `checks.STORED` has it."""
        return (
            self.id,
            int(self.parked > self.kept),
            self.replays,
            self.epoch,
            self.accepted_at,
            self.base,
            self.key,
            self.value,
            self.checksum,
        )


@dataclass(slots=True)
class Salvaged:
    """What was brought out. `lost`: entries of which something was found that is damaged or
    incomplete."""

    path: Path
    entries: int = 0
    parked: int = 0
    lost: list[tuple[str, str, int]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)  # tables that could not be copied whole


def salvage(path: Path, folder: Path) -> Salvaged:
    """Copy what is whole of the buffer at `path` into a new one in `folder`; the old file is only
    read.

    No process may write to it meanwhile. Raises `ConfigurationError` when there is no such file or
    there is a buffer in the folder already, `BufferProblem`.
    """
    target = folder / path.name
    if target.exists() or not path.exists():
        raise ConfigurationError(
            f"{target} exists already." if target.exists() else f"There is no buffer at {path}.",
            remedy="name an empty folder, and the home of the damaged buffer.",
        )
    with closing(file.connect(target, durability="process", kind=BUFFER)) as new:
        work = target.with_name(f"{path.name}-damaged")
        try:
            for end in ("", "-wal"):
                with suppress(FileNotFoundError):
                    shutil.copyfile(f"{path}{end}", f"{work}{end}")
            return _Salvage(work, new, Salvaged(target)).run()
        finally:
            for end in ("", "-wal", "-shm"):
                work.with_name(work.name + end).unlink(missing_ok=True)


class _Salvage:
    def __init__(self, work: Path, new: sqlite3.Connection, found: Salvaged) -> None:
        self._work, self._new, self._found = work, new, found
        self._names: dict[int, tuple[str, str, int]] = {}  # stream, name, token
        self._records: dict[int, _Record] = {}  # as they were accepted
        self._broken: set[tuple[int, int]] = set()  # partition, entry
        self._counts: dict[int, int | None] = {}
        self._parked: dict[int, tuple[float, str]] = {}  # by entry: when and why
        self._checker = Checker(work, 1)

    def run(self) -> Salvaged:
        with closing(sqlite3.connect(self._work)) as old:
            with suppress(sqlite3.Error):
                old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._read_pages()
            with file.transaction(self._new):
                self._copy_tables(old)
                self._write_entries()
        return self._found

    def _read_pages(self) -> None:
        found: list[_Record] = []
        for rowid, row in rows(self._work.read_bytes()):
            if rowid == 0:
                if len(row) == 3 and isinstance(row[0], str) and isinstance(row[1], str):
                    self._names.setdefault(row[2], (row[0], row[1], 0))  # from the index of names
            elif (
                len(row) >= _PARTITION_COLUMNS
                and isinstance(row[1], str)
                and isinstance(row[2], str)
            ):
                self._names[rowid] = (row[1], row[2], row[6] if isinstance(row[6], int) else 0)
            elif 8 <= len(row) <= 11 and isinstance(row[6], bytes) and isinstance(row[7], bytes):
                found.append(_Record(rowid, *row[1:]))
            elif len(row) == 8 and isinstance(row[6], str) and isinstance(row[2], int):
                self._parked[row[2]] = (float(row[5] or 0), row[6])
            elif (
                2 <= len(row) <= 3 and rowid == 1 and isinstance(row[1], str) and len(row[1]) == 32
            ):
                self._identify(row[1], row[2] if len(row) > 2 and isinstance(row[2], int) else 1)
        for record in found:
            self._take(record)

    def _identify(self, buffer_id: str, checked_from: int) -> None:
        self._checker = Checker(self._work, checked_from)
        self._new.execute(
            "UPDATE identity SET buffer_id = ?, checked_from = ?", (buffer_id, checked_from)
        )

    def _take(self, record: _Record) -> None:
        name = self._names.get(record.partition_id)
        try:
            if name is None:
                raise ValueError("of no partition that is known")  # noqa: TRY301 - as all that is damaged
            self._counts[record.id] = self._checker.count(names_sum(*name[:2]), record.stored())
            self._records[record.id] = record
        except (TypeError, ValueError):
            if record.id not in self._records:
                self._broken.add((record.partition_id, seq_of(record.id)))

    def _copy_tables(self, old: sqlite3.Connection) -> None:
        for table in _AS_THEY_ARE:
            try:
                columns = [row[1] for row in self._new.execute(f"PRAGMA table_info({table})")]
                marks = ",".join("?" * len(columns))
                for row in old.execute(f"SELECT {','.join(columns)} FROM {table}"):
                    self._new.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)
            except (sqlite3.DatabaseError, UnicodeDecodeError):
                self._found.unreadable.append(table)
        guarded: dict[int, int] = {}
        with suppress(sqlite3.DatabaseError):
            guarded = dict(old.execute("SELECT id, guarded FROM partitions").fetchall())
        next_seq = next_token = 1
        with suppress(sqlite3.DatabaseError, TypeError):
            next_seq, next_token = old.execute("SELECT next_seq, next_token FROM totals").fetchone()
        for id_, (stream, name, token) in self._names.items():
            self._new.execute(
                "INSERT OR IGNORE INTO partitions (id, stream, name, entries, bytes, token, "
                "guarded)"
                " VALUES (?, ?, ?, 0, 0, ?, ?)",
                (id_, stream, name, token, guarded.get(id_, 0)),
            )
        newest = max(map(seq_of, self._records), default=0)
        tokens = max((token for _, _, token in self._names.values()), default=0)
        ledger.take_seqs(self._new, 0, beyond=max(next_seq - 1, newest))
        ledger.take_tokens(self._new, 0, beyond=max(next_token - 1, tokens))

    def _write_entries(self) -> None:
        entries: dict[tuple[int, int], list[_Record]] = defaultdict(list)
        for id_ in sorted(self._records):
            record = self._records[id_]
            if not record.kept:  # what is kept was acknowledged; others may build on it
                entries[record.partition_id, seq_of(id_)].append(record)
        for (partition_id, seq), records in entries.items():
            values = [self._full_value(record) for record in records]
            expected = self._counts[records[0].id]
            complete = position_of(records[0].id) == 0 and expected in (None, len(records))
            if not complete or any(value is None for value in values):
                self._broken.add((partition_id, seq))
            else:
                self._write(partition_id, seq, records, values)
                self._broken.discard((partition_id, seq))
        for partition_id, seq in sorted(self._broken):
            stream, name, _ = self._names.get(partition_id, ("?", "?", 0))
            self._found.lost.append((stream, name, seq))

    def _full_value(self, record: _Record) -> bytes | None:
        """The value, or the place of a spilled one; None when something that it builds on is
        lost."""
        differences: list[bytes] = []
        at: _Record | None = record
        while at is not None and at.base is not None and at.base >= 0 and len(differences) < 1000:
            differences.append(at.value)
            at = self._records.get(at.base)
        if at is None or (differences and at.base is not None):
            return None
        return delta.apply(at.value, differences[::-1]) if differences else at.value

    def _write(
        self, partition_id: int, seq: int, records: list[_Record], values: list[bytes | None]
    ) -> None:
        stream, name, _ = self._names[partition_id]
        first = records[0]
        size = 0
        for record, value in zip(records, values, strict=True):
            assert value is not None
            base = record.base if record.base is not None and record.base < 0 else None
            seeded = seed(names_sum(stream, name), record.accepted_at)
            mark = checksum(seeded, record.id, base, record.key, value, len(records))
            variable = ((2 * record.replays + record.parked) << 32) + record.epoch % 4_294_967_291
            mark = moved(mark, variable) if self._counts[record.id] is not None else MASK
            self._new.execute(
                "INSERT INTO records (id, partition_id, parked, replays, epoch, accepted_at, base, "
                "key, value,"
                " checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.id,
                    partition_id,
                    record.parked,
                    record.replays,
                    record.epoch,
                    record.accepted_at,
                    base,
                    record.key,
                    value,
                    mark,
                ),
            )
            size += len(record.key) + len(value)
        ledger.discard(self._new, -1, -size)
        self._found.entries += 1
        if first.parked:
            self._found.parked += 1
            at, why = self._parked.get(seq, (first.accepted_at, failure_json(_UNKNOWN)))
            self._new.execute(
                "INSERT INTO parked (partition_id, seq, bytes, accepted_at, parked_at, failure, "
                "replays)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (partition_id, seq, size, first.accepted_at, at, why, first.replays),
            )
            return
        ledger.take_in(self._new, partition_id, size, accepted_at=first.accepted_at, seq=seq)
