"""The manifest of tables in PostgreSQL: which files are live, and up to where each store's changes are in them.

Who writes it holds one advisory lock to the end of the transaction. Under it nothing that was read can
change, so that a commit is a comparison and an exchange: what it was made from must still stand there
(`Stale` otherwise, and its maker begins again). Nothing is committed after a failure that was caught.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.types.json import Jsonb

from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.exceptions import LeaseLost, NotFound
from surgetank.model import FlushJob
from surgetank.streams.tables.cold.files import NewFile
from surgetank.streams.tables.cold.location import Location
from surgetank.streams.tables.cold.protocol import DataFile, UserErased
from surgetank.streams.tables.cold.storage import Storage
from surgetank.streams.tables.hot.protocol import Progress, TableLease

SQL = queries("streams/tables/cold/manifest.sql")
LOCK = 0x5347_5441_424C_4553  # "SGTABLES": the order of snapshots


class Stale(Exception):
    """What a commit was made from has changed meanwhile."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A table at one moment: the live files with what they have of each store, and `stamp`, by which
    it is known that nothing changed since. `document` is the same as text, for the mirror."""

    snapshot: int
    stamp: str
    document: str
    files: tuple[DataFile, ...]
    progress: Mapping[str, Progress]

    @classmethod
    def parsed(cls, table_id: int, snapshot: int, stamp: str, document: str) -> Standing:
        """From the document."""
        progress, files = json.loads(document)
        return cls(
            snapshot,
            stamp,
            document,
            tuple(data_file(table_id, file) for file in files),
            {store: Progress(through, held) for store, (through, held) in progress.items()},
        )

    def of(self, store_id: str) -> Progress:
        """What it has of a store."""
        return self.progress.get(store_id, Progress())


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletes:
    """New deletions of a data file: all of its deleted positions, in place of those of
    `replaced`."""

    file: DataFile
    new: NewFile


# Of files with other deletions than they had: what is deleted in new files, by their paths.
Deleted = Callable[[Sequence[DataFile]], Mapping[str, NewFile]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What a flush commits."""

    files: Sequence[NewFile] = ()
    deletes: Sequence[Deletes] = ()
    missed: int = 0  # rows that were to be deleted and are in no file
    progress: Progress = field(default_factory=Progress)
    outcome: Mapping[str, Any] = field(default_factory=dict)

    @property
    def deleted(self) -> int:
        """How many rows it deletes."""
        return sum(each.new.rows - each.file.deleted_rows for each in self.deletes)

    @property
    def bytes(self) -> int:
        """The size of its data files."""
        return sum(file.bytes for file in self.files)

    @property
    def paths(self) -> list[str]:
        """All files that it names first."""
        return [file.path for file in (*self.files, *(each.new for each in self.deletes))]

    @property
    def changes(self) -> str:
        """In a DuckLake catalogue's words, `{}` being the table."""
        words = []
        if self.files:
            words.append("inserted_into_table:{}")
        if self.deletes:
            words.append("deleted_from_table:{}")
        return ",".join(words)


class Manifest:
    """The manifest in a database; the files are in `location`."""

    def __init__(self, database: Database, location: Location) -> None:
        self._database = database
        self._storage = Storage(location)

    # -- reading

    def live(self, table_id: int, known: Standing | None = None) -> Standing:
        """A table as it stands now; `known` itself, where it still does. Raises
        `DatabaseUnavailable`."""
        with self._database.reading() as connection:
            self._storage.check(connection)
            row = connection.execute(
                SQL["live"], {"table_id": table_id, "known": known.stamp if known else ""}
            ).fetchone()
        assert row is not None
        snapshot, stamp, progress, files = row
        if known is not None and files is None:
            return known
        return Standing.parsed(table_id, snapshot, stamp, f"[{progress},{files}]")

    def files_of(self, table_id: int, user: str) -> list[tuple[DataFile, bool]]:
        """All files that may have rows of a user, those of older snapshots too, and whether they
        are live."""
        with self._database.asking(patient=True) as connection:
            rows = connection.execute(
                SQL["all_files"], {"table_id": table_id, "user": user}
            ).fetchall()
        return [(data_file(table_id, row[:-1]), bool(row[-1])) for row in rows]

    def deletes_of(self, file_id: int) -> list[tuple[int, str, bool]]:
        """All deletions that a file ever had: id, path, and whether they are live."""
        with self._database.asking(patient=True) as connection:
            return connection.execute(SQL["deletes_of"], {"file": file_id}).fetchall()

    def named(self, paths: Sequence[str]) -> set[str]:
        """Which of these files the manifest names; the lock is held, so that no commit is missed."""
        with self.transaction(patient=True) as connection:
            rows = connection.execute(SQL["named"], {"paths": list(paths)}).fetchall()
        return {path for (path,) in rows}

    def dropped(self, tables: Collection[int]) -> list[int]:
        """Of these tables, and of those that have a manifest, those that were dropped."""
        with self._database.asking(patient=True) as connection:
            rows = connection.execute(SQL["dropped"], {"tables": list(tables)}).fetchall()
        return [table_id for (table_id,) in rows]

    # -- writing

    @contextmanager
    def transaction(
        self, *, size: int = 0, patient: bool = False, anywhere: bool = False
    ) -> Iterator[Connection[Any]]:
        """A transaction under the lock, committed at its end. Raises `DatabaseUnavailable`, and the
        driver's errors, which flushing classifies; for what is `patient` no error of the driver.
        `Conflict` where the files are another home's, but for what needs no files (`anywhere`)."""
        if not anywhere:
            self._storage.ask()
        use = (
            self._database.asking(patient=True) if patient else self._database.connection(size=size)
        )
        with use as connection:
            self._database.claim(connection)
            connection.execute(SQL["lock"], {"key": LOCK})
            if not anywhere:
                self._storage.name(connection)
            yield connection
        if not anywhere:
            self._storage.committed()

    @contextmanager
    def locked(
        self, table_id: int, *, size: int = 0, patient: bool = False, anywhere: bool = False
    ) -> Iterator[Locked]:
        """The manifest of a table in a transaction. Raises `NotFound` for one that was dropped."""
        with self.transaction(size=size, patient=patient, anywhere=anywhere) as connection:
            yield Locked(connection, table_id)


class Locked:
    """The manifest of one table, for who holds the lock."""

    def __init__(self, connection: Connection[Any], table_id: int) -> None:
        self._connection = connection
        self._table_id = table_id
        self.snapshot, dropped, self._given, self._erased = self.one("standing")
        if dropped:
            raise NotFound(
                f"The table {table_id} was dropped.", remedy="nothing to do: its rows go with it."
            )

    def commit(
        self,
        before: Standing,
        commit: Commit,
        *,
        lease: TableLease,
        store_id: str,
        job: FlushJob,
        taken_at: int | None = None,
    ) -> int:
        """Write a flush's commit; returns its snapshot. Its rows were taken when the snapshot
        `taken_at` was known. Raises `Stale`, `LeaseLost`, `UserErased`."""
        if taken_at is not None and taken_at < self._erased:
            raise UserErased
        self._check_progress(before, lease, store_id)
        if commit.missed and self.snapshot != before.snapshot:
            raise Stale  # what was not found may be in files that are new
        self._claim("claim_files", [each.file for each in commit.deletes])
        snapshot = self.add_snapshot(commit.changes)
        self.add_files(commit.files, snapshot)
        self.replace_deletes(commit.deletes, snapshot)
        rows = sum(file.rows for file in commit.files)
        self.run(
            "note_commit",
            store_id=store_id,
            through=commit.progress.through,
            held=Jsonb(dict(commit.progress.held)),
            token=lease.token,
            job_id=job.id,
            trigger=job.trigger,
            node=job.node,
            snapshot=snapshot,
            outcome=Jsonb(dict(commit.outcome)),
            given=rows,
            rows=rows - commit.deleted,
            bytes=commit.bytes,
        )
        return snapshot

    def _check_progress(self, before: Standing, lease: TableLease, store_id: str) -> None:
        row = self.one_or_none("progress", store_id=store_id)
        progress, token = (Progress(row[0], row[1]), row[2]) if row else (Progress(), 0)
        if token > lease.token:
            raise lost(lease, token)
        if progress != before.of(store_id):
            raise Stale

    def _claim(self, query: str, files: Sequence[DataFile]) -> None:
        """Keep files from being replaced. Raises `Stale` where one was already."""
        if not files:
            return
        rows = self.run(query, files=[file.id for file in files]).fetchall()
        now = {file_id: (path, delete_id) for file_id, path, delete_id in rows}
        if any(now.get(file.id) != (file.path, file.delete_id) for file in files):
            raise Stale

    def replace(
        self, files: Sequence[DataFile], new: Sequence[NewFile], deleted: Deleted
    ) -> dict[str, int]:
        """End files and add others in their stead. `deleted` gives, of the files that have other
        deletions than they had, what is deleted in the new ones. The ids of new files, by path.
        Raises `Stale`."""
        rows = self.run("take_files", files=[file.id for file in files]).fetchall()
        now = {row[0]: row[1:] for row in rows}
        changed: list[DataFile] = []
        for file in files:
            path, *deletes = now.get(file.id, ("", None, None, 0))
            if path != file.path:
                raise Stale
            if deletes[0] != file.delete_id:
                changed.append(
                    replace(
                        file,
                        delete_id=deletes[0],
                        delete_path=deletes[1],
                        deleted_rows=deletes[2],
                    )
                )
        snapshot = self.add_snapshot("compacted_table:{}")
        ended = [file.id for file in files]
        self.run("end_deletes", files=ended, snapshot=snapshot)
        self.run("end_files", files=ended, snapshot=snapshot)
        ids = self.add_files(new, snapshot)
        self._add_deletes(
            [(ids[path], found) for path, found in deleted(changed).items()], snapshot
        )
        self.add_totals(
            sum(file.rows for file in new),
            0,
            sum(file.bytes for file in new) - sum(file.bytes for file in files),
        )
        return ids

    def add_snapshot(self, changes: str) -> int:
        """A new snapshot; `{}` in what changed is the table."""
        changes = changes.replace("{}", str(self._table_id))
        return int(self.one("add_snapshot", changes=changes)[0])

    def add_files(self, files: Sequence[NewFile], snapshot: int) -> dict[str, int]:
        """Add data files; their ids, by path."""
        if not files:
            return {}
        described, start = [], self._given
        for file in files:
            described.append(described_file(file) | {"row_start": start})
            start += file.rows
        rows = self.run("add_files", files=Jsonb(described), snapshot=snapshot).fetchall()
        return {path: file_id for file_id, path in rows}

    def replace_deletes(self, deletes: Sequence[Deletes], snapshot: int) -> None:
        """Put deletions in the stead of those that files have now."""
        if deletes:
            files = [each.file.id for each in deletes]
            self.run("end_deletes", files=files, snapshot=snapshot)
            self._add_deletes([(each.file.id, each.new) for each in deletes], snapshot)

    def _add_deletes(self, deletes: Sequence[tuple[int, NewFile]], snapshot: int) -> None:
        if deletes:
            described = [
                {
                    "file_id": file_id, "path": new.path, "rows": new.rows, "bytes": new.bytes,
                    "footer_bytes": new.footer_bytes,
                }
                for file_id, new in deletes
            ]  # fmt: skip
            self.run("add_deletes", deletes=Jsonb(described), snapshot=snapshot)

    def add_totals(self, given: int, rows: int, size: int) -> None:
        """Count rows that were written, and by how much those that are there grew."""
        self.run("add_totals", given=given, rows=rows, bytes=size)

    def run(self, query: str, **parameters: Any) -> psycopg.Cursor[Any]:
        """A query of `manifest.sql` about the table."""
        return self._connection.execute(SQL[query], {"table_id": self._table_id, **parameters})

    def one_or_none(self, query: str, **parameters: Any) -> tuple[Any, ...] | None:
        """Its first row."""
        cursor = self.run(query, **parameters)
        return cursor.fetchone() if cursor.description else None

    def one(self, query: str, **parameters: Any) -> tuple[Any, ...]:
        """Its row, which is there."""
        row = self.one_or_none(query, **parameters)
        assert row is not None
        return row


def lost(lease: TableLease, token: int) -> LeaseLost:
    """The refusal of a flusher whose lease has run out."""
    return LeaseLost(
        f"A newer lease ({token}) of the table {lease.table_id} has written to the manifest.",
        remedy="nothing to do: whoever holds the table now flushes it.",
        seen={str(lease.table_id): token},
    )


def data_file(table_id: int, row: Sequence[Any]) -> DataFile:
    """From a row of the manifest."""
    (
        file_id, path, bucket, buckets, rows, size, footer, min_user, max_user, min_seq, max_seq,
        schema_version, delete_id, delete_path, deleted_rows,
    ) = row  # fmt: skip
    return DataFile(
        id=file_id, table_id=table_id, path=path, bucket=bucket, buckets=buckets, rows=rows,
        bytes=size, footer_bytes=footer, min_user=min_user, max_user=max_user, min_seq=min_seq,
        max_seq=max_seq, schema_version=schema_version, delete_id=delete_id,
        delete_path=delete_path, deleted_rows=deleted_rows,
    )  # fmt: skip


def described_file(file: NewFile) -> dict[str, Any]:
    """As it goes to the database."""
    return {
        "path": file.path, "bucket": file.bucket, "buckets": file.buckets, "rows": file.rows,
        "bytes": file.bytes, "footer_bytes": file.footer_bytes, "min_user": file.min_user,
        "max_user": file.max_user, "min_seq": file.min_seq, "max_seq": file.max_seq,
        "schema_version": file.schema_version, "stats": [each.described() for each in file.stats],
    }  # fmt: skip
