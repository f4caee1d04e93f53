"""The cold side of tables: Parquet files in a folder, their manifest in PostgreSQL, its mirror beside the
buffer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from surgetank.bounded import BoundedMap
from surgetank.database.pool import Database
from surgetank.exceptions import (
    BufferProblem,
    ColdStateUnavailable,
    DatabaseUnavailable,
    EntryRejected,
    LeaseLost,
    NotFound,
    SinkError,
    StateCorrupt,
    SurgetankError,
)
from surgetank.model import FlushJob
from surgetank.sqlite.shared import SharedFile
from surgetank.streams.tables.cold.compaction import choose, merge
from surgetank.streams.tables.cold.erasing import UserErasure
from surgetank.streams.tables.cold.files import Folder, NewFile
from surgetank.streams.tables.cold.location import FolderLocation, Location
from surgetank.streams.tables.cold.manifest import (
    Commit,
    Deleted,
    Manifest,
    Stale,
    Standing,
)
from surgetank.streams.tables.cold.mirror import Mirror
from surgetank.streams.tables.cold.protocol import (
    ColdTable,
    Compacted,
    DataFile,
    ErasedUser,
    Flushed,
    UserErased,
)
from surgetank.streams.tables.cold.reading import Reader, columns_of, may_have, read_schema
from surgetank.streams.tables.cold.resolve import merged, outstanding
from surgetank.streams.tables.cold.upkeep import KEEPING, Keeping, strays, sweep
from surgetank.streams.tables.cold.writing import prepare, refusals
from surgetank.streams.tables.definition import HIDDEN, SEQ, Table
from surgetank.streams.tables.hot.protocol import OP, Op, Progress, TableLease

pc: Any = pyarrow.compute  # its functions are made when it is imported
_ATTEMPTS = 20  # of a commit, when others replace what it deletes in
_BATCH = 65_536


class FileTables:
    """Implements `ColdTables` over one database and one location (a folder by its path). `file` is the file
    of tables beside the buffer (with `mirror.SCRIPT`); it is closed with this."""

    def __init__(
        self,
        database: Database,
        location: Path | Location,
        *,
        file: SharedFile,
        keeping: Keeping = KEEPING,
        clock: Callable[[], float] = time.time,
        on_problem: Callable[[SurgetankError], None] = lambda _: None,
    ) -> None:
        self._on_problem = on_problem
        self._keeping = keeping
        self._clock = clock
        self._mirror = Mirror(file)
        self._location = FolderLocation(location) if isinstance(location, Path) else location
        self._folder = Folder(
            self._location, begins=lambda path: self._mirror.begins(path, self._clock())
        )
        self._manifest = Manifest(database, self._location)
        self._reader = Reader(self._folder)
        self._lock = threading.Lock()
        self._known: BoundedMap[int, Standing] = BoundedMap(1000)

    @property
    def address(self) -> str:
        """Where the files are."""
        return self._location.address

    def held(self, files: Sequence[DataFile]) -> AbstractContextManager[Mapping[str, Path]]:
        """Files with their deletions on this machine, by their names."""
        sizes = {file.path: file.bytes for file in files}
        return self._location.held(
            sizes | {file.delete_path: 0 for file in files if file.delete_path is not None}
        )

    # -- reading

    def live(self, table: Table, *, stores: Sequence[str], user: str | None = None) -> ColdTable:
        """The live files, of one user those that may have rows of that user."""
        stale = False
        try:
            standing = self._standing(table.id, mirrored=False)
        except DatabaseUnavailable as error:
            mirrored = self._mirror.find(table.id)
            if mirrored is None:
                raise ColdStateUnavailable(
                    f"The files of {table.full_name} are not known here, and the database that knows "
                    "them can't be reached.",
                    remedy="wait until the database is back; what is inserted meanwhile is safe.",
                ) from error
            standing, stale = mirrored, True
        files = standing.files
        if user is not None and table.by_user:
            files = tuple(file for file in files if may_have(file, user))
        progress = {each: standing.progress[each] for each in stores if each in standing.progress}
        return ColdTable(standing.snapshot, files, progress, stale)

    def _standing(self, table_id: int, *, mirrored: bool = True) -> Standing:
        """As it is in the database, mirrored. Who only reads can do without the mirror (a full disk)."""
        with self._lock:
            known = self._known.use(table_id)
        standing = self._manifest.live(table_id, known)
        if standing is not known:
            try:
                self._mirror.keep(table_id, standing)
            except BufferProblem:
                if mirrored:
                    raise
                return standing
            with self._lock:
                self._known[table_id] = standing
        return standing

    def read(
        self,
        table: Table,
        cold: ColdTable,
        *,
        user: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """The rows of the files, without deleted ones."""
        batches = self.scan(table, cold, user=user, columns=columns)
        return pa.Table.from_batches(list(batches), read_schema(table, columns_of(table, columns)))

    def scan(
        self,
        table: Table,
        cold: ColdTable,
        *,
        user: str | None = None,
        columns: Sequence[str] | None = None,
        hidden: Sequence[str] = HIDDEN,
    ) -> Iterator[pa.RecordBatch]:
        """As `read`, some thousand rows at a time."""
        wanted = columns_of(table, columns)
        owner = user if table.by_user else None
        for file in cold.files:
            for _, rows in self._reader.parts(
                table, file, user=owner, columns=wanted, hidden=hidden
            ):
                yield from rows.to_batches(max_chunksize=_BATCH)

    def known_keys(
        self, table: Table, user: str, keys: Sequence[tuple[Any, ...]]
    ) -> Mapping[tuple[Any, ...], int]:
        """Of these keys those that have a row, and its `_seq`."""
        asked = set(keys)
        found: dict[tuple[Any, ...], int] = {}
        if not asked:
            return found
        cold = self.live(table, stores=(), user=user)
        for batch in self.scan(table, cold, user=user, columns=table.key):
            values = zip(*(batch.column(name).to_pylist() for name in table.key), strict=True)
            for at, key in enumerate(values):
                if key in asked:
                    found[key] = batch.column(SEQ)[at].as_py()
        return found

    # -- writing

    def refusals(self, table: Table, rows: pa.Table) -> list[EntryRejected]:
        """See `ColdTables.refusals`."""
        return refusals(table, rows)

    def write(
        self,
        table: Table,
        rows: pa.Table,
        *,
        lease: TableLease,
        progress: Progress,
        store_id: str,
        job: FlushJob,
        taken_at: int | None = None,
    ) -> Flushed:
        """Commit changes: files first, then one transaction."""
        went_back = False
        for attempt in range(_ATTEMPTS):
            before = None if attempt else self._supposed(table, rows, lease, store_id)
            if before is None:
                before = self._standing(table.id)
            done = before.of(store_id)
            if done.through < lease.progress.through and not went_back:
                went_back = True
                self._on_problem(_went_back(table, self.address))
            after = merged(done, progress)
            changes = outstanding(table, rows, done, after)
            if after == done and not changes.num_rows:
                return Flushed()
            commit = prepare(
                table, changes, before, after, folder=self._folder, reader=self._reader
            )
            try:
                with self._manifest.locked(table.id, size=commit.bytes) as locked:
                    snapshot = locked.commit(
                        before, commit, lease=lease, store_id=store_id, job=job, taken_at=taken_at
                    )
            except Stale:
                self._discard(commit.paths)
                continue
            except (UserErased, LeaseLost, NotFound):
                self._discard(commit.paths)
                raise
            self._mirror.ends(commit.paths)
            self._standing(table.id)
            return _flushed(commit, snapshot)
        raise SinkError(
            f"The files of {table.full_name} were replaced while a flush deleted in them, "
            f"{_ATTEMPTS} times.",
            remedy="nothing to do: it is tried again.",
        )

    def _supposed(
        self, table: Table, rows: pa.Table, lease: TableLease, store_id: str
    ) -> Standing | None:
        """What was known last, for a commit that adds rows only: the commit finds out if it is old,
        and the database is asked once less."""
        with self._lock:
            known = self._known.use(table.id)
        if known is None or known.of(store_id).through < lease.progress.through:
            return None
        return known if pc.all(pc.equal(rows.column(OP), int(Op.INSERT))).as_py() else None

    def known_snapshot(self, table: Table) -> int:
        """The newest snapshot of a table that was seen here."""
        with self._lock:
            known = self._known.use(table.id)
        return known.snapshot if known is not None else 0

    def _discard(self, paths: Sequence[str]) -> None:
        """Unlink files of which it is certain that they are in no manifest."""
        self._folder.unlink(paths)
        self._mirror.ends(paths)

    # -- upkeep

    def compact(self, table: Table) -> Compacted:
        """Merge small files, and apply deletions to files that have many."""
        for _ in range(_ATTEMPTS):
            inputs = choose(self._standing(table.id).files)
            if not inputs or any(file.schema_version > table.schema_version for file in inputs):
                break  # who knows the newer schema merges them
            made, deleted = merge(table, inputs, folder=self._folder, reader=self._reader)
            paths = [file.path for file in made]

            def noted(
                changed: Sequence[DataFile], of: Deleted = deleted, written: list[str] = paths
            ) -> Mapping[str, NewFile]:
                found = of(changed)
                written += [file.path for file in found.values()]
                return found

            try:
                with self._manifest.locked(table.id, patient=True) as locked:
                    locked.replace(inputs, made, noted)
            except (Stale, NotFound):
                self._discard(paths)
                continue
            self._mirror.ends(paths)
            self._standing(table.id)
            return Compacted(
                len(inputs),
                len(made),
                rows=sum(file.rows for file in made),
                bytes=sum(file.bytes for file in made),
            )
        return Compacted()

    def erase_user(self, tables: Sequence[Table], user: str) -> ErasedUser:
        """Rewrite all files with rows of the user, those of older snapshots too."""
        named = [table for table in tables if table.by_user]
        erasure = UserErasure(
            self._manifest,
            self._folder,
            self._reader,
            self._mirror,
            written_before=self._clock() - self._keeping.grace_s,
            orphans_before=self._clock() - self._keeping.orphans_s,
        )
        done = erasure.erase(named, user)
        for table in named:
            self._standing(table.id)
        return done

    def forget_table(self, table_id: int) -> None:
        """Remove all of a dropped table."""
        with (
            suppress(NotFound),
            self._manifest.locked(table_id, patient=True, anywhere=True) as locked,
        ):
            files = [row[0] for row in locked.run("ids_of_files").fetchall()]
            locked.run("remove_files", files=files)
            locked.run("drop_table")
            locked.add_snapshot("dropped_table:{}")
        self._mirror.forget(table_id)

    def sweep(self) -> int:
        """Forget old snapshots, unlink files that nobody can need any more."""
        return sweep(self._manifest, self._folder, self._mirror, self._keeping, self._clock)

    def strays(self) -> list[str]:
        """Old files that no manifest names."""
        before = self._clock() - self._keeping.orphans_s
        return strays(self._manifest, self._folder, self._mirror, before)

    def dropped(self, tables: Collection[int]) -> list[int]:
        """Of these tables, and of those that have files, those that were dropped."""
        return self._manifest.dropped(tables)

    def close(self) -> None:
        """Close what it opened. Idempotent."""
        self._mirror.close()


def _went_back(table: Table, address: str) -> StateCorrupt:
    return StateCorrupt(
        f"The database has less of {table.full_name} than it had: it was set back, and rows that were "
        "flushed since are missing in it.",
        remedy=f"set it forward if you can; their files are still in {address}/{table.id}, are named "
        "by nothing, and are told of after a day.",
    )


def _flushed(commit: Commit, snapshot: int) -> Flushed:
    return Flushed(
        snapshot,
        rows=sum(file.rows for file in commit.files),
        bytes=commit.bytes,
        files=len(commit.files),
        deleted=commit.deleted,
    )
