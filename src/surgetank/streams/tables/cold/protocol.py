"""What the cold side of tables is to those who flush and read.

A commit is a snapshot of one table: files that were added, positions that were deleted, and up to where the
store's changes are in it, in one PostgreSQL transaction. The live files are mirrored beside the buffer, so
that reads go on in an outage.

A live row is found by its user and `_seq`: both are unique among the live rows, since an update writes the
row again with the same `_seq` and deletes the position where it was. With a PRIMARY KEY the key is unique
as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from surgetank.exceptions import EntryRejected
from surgetank.model import FlushJob
from surgetank.streams.tables.definition import HIDDEN, Table
from surgetank.streams.tables.hot.protocol import Progress, TableLease

if TYPE_CHECKING:
    import pyarrow as pa


class UserErased(Exception):
    """A user was erased since the rows of a commit were taken: they may be among them. It is taken again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One Parquet file, sorted by `_user` and `_seq`. `path` and `delete_path` (the one live file
    with its deleted positions) are relative to the storage. Its users are those whose hash, modulo
    `buckets`, is `bucket`: a small commit has all users in one file (`buckets` 1), and compaction
    distributes them."""

    id: int
    table_id: int
    path: str
    bucket: int
    buckets: int
    rows: int
    bytes: int
    footer_bytes: int
    min_user: str | None
    max_user: str | None
    min_seq: int
    max_seq: int
    schema_version: int
    delete_id: int | None = None
    delete_path: str | None = None
    deleted_rows: int = 0


@dataclass(frozen=True, slots=True)
class ColdTable:
    """The live files of a table, as of one snapshot, and what it has of each hot store that was
    asked for. `stale` tells that the database is away, and this is what was mirrored last."""

    snapshot: int
    files: tuple[DataFile, ...]
    progress: Mapping[str, Progress]
    stale: bool = False

    @property
    def rows(self) -> int:
        """How many live rows there are in these files."""
        return sum(file.rows - file.deleted_rows for file in self.files)


@dataclass(frozen=True, slots=True)
class Flushed:
    """What one commit did. `snapshot` is 0 where there was nothing to do: all was there."""

    snapshot: int = 0
    rows: int = 0
    bytes: int = 0
    files: int = 0
    deleted: int = 0


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did: so many files became so many, with these rows."""

    inputs: int = 0
    outputs: int = 0
    rows: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class ErasedUser:
    """What was rewritten to erase a user. Nobody begins to read `pending` files any more, this
    erasure's and those of others before; they are unlinked when the grace of those who do is over
    (`ColdTables.sweep`), and until then the erasure is not over. Files that somebody is writing just
    now are among them."""

    rows: int = 0
    files: int = 0
    pending: tuple[str, ...] = ()


class ColdTables(Protocol):
    """Files and manifest of all tables. Safe for several threads and processes.

    Where nothing else is said, raises `DatabaseUnavailable` while the database is away.
    """

    @property
    def address(self) -> str:
        """Where the files are, for people: paths of files are relative to it."""
        ...

    def held(self, files: Sequence[DataFile]) -> AbstractContextManager[Mapping[str, Path]]:
        """Files with their deletions on this machine, by their names, while they are held. Raises
        `ColdStateUnavailable`, `InvalidRequest`."""
        ...

    def live(self, table: Table, *, stores: Sequence[str], user: str | None = None) -> ColdTable:
        """The live files (of one user: those that may have rows of that user), and the progress of
        these hot stores (`HotSnapshot.stores`). From the database; from the mirror while it is away.

        Raises `ColdStateUnavailable` where it is away and nothing was mirrored yet.
        """
        ...

    def read(
        self,
        table: Table,
        cold: ColdTable,
        *,
        user: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """The rows of the files, without deleted ones: `_user` (not of a SHARED table), `_seq` and
        the columns. Columns that a file doesn't have yet have their `initial` value."""
        ...

    def scan(
        self,
        table: Table,
        cold: ColdTable,
        *,
        user: str | None = None,
        columns: Sequence[str] | None = None,
        hidden: Sequence[str] = HIDDEN,
    ) -> Iterator[pa.RecordBatch]:
        """As `read`, some thousand rows at a time: memory is bounded however large the table is. With
        those of the `hidden` columns only."""
        ...

    def known_keys(
        self, table: Table, user: str, keys: Sequence[tuple[Any, ...]]
    ) -> Mapping[tuple[Any, ...], int]:
        """Of these values of the PRIMARY KEY (as Python has them, in its order) those that have a
        row here, and its `_seq`. Raises as `live`."""
        ...

    # -- writing

    def refusals(self, table: Table, rows: pa.Table) -> list[EntryRejected]:
        """Of changes those whose rows can't be stored, with their versions; some hundred at most."""
        ...

    def known_snapshot(self, table: Table) -> int:
        """The newest snapshot of a table that was seen here; the database isn't asked."""
        ...

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
        """Commit changes (as `HotTables.take` gives them): files first, then one transaction with
        manifest, job, progress and the check of the lease's token. Repeated after a crash it does
        nothing: the progress is there. `progress` is up to where the store's changes are in the
        manifest afterwards; changes that it doesn't cover are left out. `taken_at` is what
        `known_snapshot` gave before the changes were taken: where a user was erased since,
        nothing is written, because their rows may be among them.

        Raises `LeaseLost`, `UserErased`, `EntryRejected` naming the row that can't be written (`seq`
        is its version).
        """
        ...

    # -- upkeep

    def compact(self, table: Table) -> Compacted:
        """Merge small files, and apply deletions to files that have many."""
        ...

    def erase_user(self, tables: Sequence[Table], user: str) -> ErasedUser:
        """Rewrite all files with rows of the user, those of older snapshots too, and the manifest
        with them."""
        ...

    def forget_table(self, table_id: int) -> None:
        """Remove all of a dropped table; its files go with the next `sweep` after the grace."""
        ...

    def sweep(self) -> int:
        """Forget snapshots that are older than is kept, unlink files that nobody can need any more,
        and orphans of interrupted flushes. Returns how many files were unlinked."""
        ...

    def strays(self) -> list[str]:
        """Old files that no manifest names, and that no interrupted flush of this home left: as
        after a database was set back to an older backup. They are never unlinked."""
        ...

    def dropped(self, tables: Collection[int]) -> list[int]:
        """Of these tables, and of those that have files, those that were dropped, and of which
        something may be left."""
        ...

    def close(self) -> None:
        """Close what it opened. Idempotent."""
        ...
