"""What the cold side of tables is to those who flush and read.

A commit is a snapshot of one table: files that were added, positions that were deleted, and up to where the
store's changes are in it, in one PostgreSQL transaction. The live files are mirrored beside the buffer, so
that reads go on in an outage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from surgetank.model import FlushJob
from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.hot.protocol import Progress, TableLease

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One Parquet file, sorted by `_user` and `_seq`. `path` is relative to the storage. `bucket` is
    the hash of the users in it; `delete_path` the one live file with its deleted positions."""

    id: int
    table_id: int
    path: str
    bucket: int
    rows: int
    bytes: int
    footer_bytes: int
    min_user: str | None
    max_user: str | None
    min_seq: int
    max_seq: int
    schema_version: int
    delete_path: str | None = None
    deleted_rows: int = 0


@dataclass(frozen=True, slots=True)
class ColdTable:
    """The live files of a table, as of one snapshot. `stale` tells that the database is away, and
    this is what was mirrored last."""

    snapshot: int
    files: tuple[DataFile, ...]
    progress: Progress
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Flushed:
    """What one commit did."""

    snapshot: int
    rows: int
    bytes: int
    files: int
    deleted: int


class ColdTables(Protocol):
    """Files and manifest of all tables."""

    def live(self, table: Table, *, store_id: str, user: str | None = None) -> ColdTable:
        """The live files (of one user: those that may have rows of that user), and the progress of
        the hot store `store_id`. From the database; from the mirror while it is away.

        Raises `ColdStateUnavailable` where it is away and nothing was mirrored yet.
        """
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
    ) -> Flushed:
        """Commit changes (as `HotTables.take` gives them): files first, then one transaction with
        manifest, job, progress and the check of the lease's token. Repeated after a crash it does
        nothing: the progress is there.

        Raises `LeaseLost`, `DatabaseUnavailable`, `EntryRejected` naming the row that can't be
        written (`seq` is its version).
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
        """The rows of the files, without deleted ones: `_user`, `_seq` and the columns. Columns that
        a file doesn't have yet have their `initial` value."""
        ...

    def known_keys(self, table: Table, user: str, keys: Sequence[bytes]) -> Mapping[bytes, int]:
        """Of these encoded keys those that have a row here, and its `_seq`."""
        ...
