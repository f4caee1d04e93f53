"""What is promised of the hot rows of tables, to those who insert, read and flush.

A change is one row with its `op`. Every change has a number of its own in its table, `version`, that grows with each;
for an INSERT it is the row's `_seq` as well, and an UPDATE or DELETE carries the `_seq` of the row that it changes. All
changes of one call are accepted together or not at all.

The high bits of a version are its **origin**, drawn at random by each handle that accepts into a table. A file that
was copied or set back goes on under another origin, so that no number is ever given twice. Each origin is a store of
its own to the manifest (`store_of(version)` is its id): what two copies of a file both hold is flushed once, and what
either accepts later is never taken for it.

- **Durability**: when a call returned, its changes survive the kill of any process (`process`), or a power
  cut (`power`).
- **Order**: the versions of a table become visible in order: who has seen one has seen all before it.
- **Fencing**: a lease of a table has a larger token than all leases of it before; who lost one can't
  acknowledge (`LeaseLost`).
- **Visibility**: a change is visible to every process on the file at once, until it is acknowledged. What is
  parked or held back stays visible.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from surgetank.exceptions import Conflict, EntryRejected
from surgetank.model import Failure, FailureGroup, ParkedEntry, PartitionState, StreamDepth
from surgetank.streams.tables.definition import Table

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

OP, VERSION = "_op", "_version"  # columns of what `HotSnapshot.rows` gives, beside the table's own
DELETED = 0  # in `HotTables.known_keys`: the newest change of a key leaves no row
DELETION_PARKED = -1  # and: it is to leave none, but is parked; the key is not free
ORIGIN_SHIFT = 24  # bits of a version that count within its origin


def store_of(version: int) -> str:
    """The id of the store that gave this version, as the manifest keeps its progress."""
    return f"{version >> ORIGIN_SHIFT:010x}"


class ErasedSince(Conflict):
    """A user was erased since what is to be accepted was read: it may be of them."""


class Op(IntEnum):
    """What a change does. An UPDATE has the row as it is afterwards, a DELETE its key only."""

    INSERT = 0
    UPDATE = 1
    DELETE = 2


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one user's row. `values` has one value for each column of the table, in order,
    as Python has it (`None` for columns of a DELETE that are no part of the key); `seq` is that of
    the row that is changed, None for an INSERT."""

    user: str
    op: Op
    values: tuple[Any, ...]
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class BatchKey:
    """An idempotency key, of one user and one table, kept for a day. `digest` is of what the caller
    gave: the same key with another digest is a `Conflict`."""

    key: str
    digest: bytes
    user: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a call was given: its versions are `first` to `last`. `repeated` tells that its
    idempotency key was known, and nothing was done."""

    first: int
    last: int
    repeated: bool = False

    @property
    def rows(self) -> int:
        """How many changes were accepted."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Waiting:
    """How much of a table waits. `held` are the users whose rows failed and wait for their next
    attempt."""

    table: Table
    changes: int
    bytes: int
    oldest_at: float
    held: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """Up to where a store's changes of one table are in the manifest: `through`, but those of the
    users in `held` only up to what stands there."""

    through: int = 0
    held: Mapping[str, int] = field(default_factory=dict)

    def covers(self, user: str, version: int) -> bool:
        """Whether the manifest has this change of this store."""
        return version <= self.held.get(user, self.through)

    def advanced(self, through: int, held: Collection[str]) -> Progress:
        """When all up to `through` are in the manifest too, but nothing more of the users `held`.

        Users that were held and are over it are behind the others: what they have waiting is in the
        manifest up to `through` only, not up to where the others are.
        """
        reached = {user: self.held.get(user, self.through) for user in held}
        if through < self.through:
            behind = {user: max(at, through) for user, at in self.held.items() if user not in held}
            reached |= behind
        return Progress(max(through, self.through), reached)


@dataclass(frozen=True, slots=True)
class TableLease:
    """The right to flush one table until `expires_at`. Changes of the store `store_id` up to
    `through` are to be taken; those of the users in `held` (whose next attempt is not due) are left
    out. `progress` is what was acknowledged before.

    A lease covers one store, the oldest that has something to take: lease again until there is
    none."""

    table_id: int
    token: int
    owner: str
    expires_at: float
    through: int
    store_id: str = ""
    held: frozenset[str] = frozenset()
    progress: Progress = Progress()


@dataclass(frozen=True, slots=True)
class Held:
    """Users whose changes stay, with the reason, after so many attempts, until then."""

    failure: Failure
    attempts: int
    next_attempt_at: float


@dataclass(frozen=True, slots=True)
class Acked:
    """What an acknowledgement did: changes that are gone, users that had failed and are over it, and
    changes (user and version) that don't wait any more beside those that were refused: what has the
    key of a row whose deletion is parked now is parked with it."""

    changes: int
    recovered: tuple[str, ...] = ()
    behind: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """A change that can't be flushed, by its version, and why: it is parked with the whole row."""

    user: str
    version: int
    failure: Failure


class Inserted(Protocol):
    """Rows that one call inserted, of one store, as they lie. Readable while the snapshot is open
    in which they were found; what `rows` gave stays readable."""

    @property
    def store(self) -> str:
        """The id of the store that their versions are of."""
        ...

    def rows(
        self, progress: Progress | None, changed: np.ndarray[Any, np.dtype[np.int64]]
    ) -> pa.Table | None:
        """Those that the progress of their store doesn't cover, without those whose `_seq` is
        `changed`; None for no row. Without a copy where all are wanted."""
        ...


@dataclass(frozen=True, slots=True)
class Pending:
    """What a reader merges: `changes` one by one, in no order, as `HotSnapshot.rows` gives them, and
    rows that were `inserted` many at a time, with the hidden columns that were asked for."""

    changes: pa.Table
    inserted: Sequence[Inserted] = ()


class HotSnapshot(Protocol):
    """A consistent view of the hot rows; short-lived."""

    def through(self, table: Table) -> int:
        """The largest version of a table that was given by then."""
        ...

    def stores(self, table: Table) -> tuple[str, ...]:
        """The ids of the stores whose changes of a table it shows, oldest first: those whose
        progress a reader asks the manifest for."""
        ...

    def rows(
        self,
        table: Table,
        *,
        user: str | None = None,
        columns: Sequence[str] | None = None,
        after: int = 0,
        up_to: int | None = None,
    ) -> pa.Table:
        """Changes in the order of user and version, as Arrow: `_user` (text; not of a SHARED table),
        `_seq`, `_version` (int64), `_op` (int8) and the columns (all, or these). Only those of one
        user, where one is given. Newer than `after`, at most `up_to`. Rows from before a column was
        added have its `initial` value. What a TTL ended is missing.

        Parked rows are among them, with versions of a store of their own that no manifest has a
        progress of: they stay visible until they are put back or discarded."""
        ...

    def pending(
        self, table: Table, *, user: str | None, columns: Sequence[str], hidden: Sequence[str]
    ) -> Pending:
        """The same changes, all of them, for who needs no order: nothing is copied that need not
        be. `hidden` are those of `_user` and `_seq` that are wanted."""
        ...


class HotTables(Protocol):
    """The hot rows of all tables of a home. Safe for several threads; several processes share
    one."""

    def accept(
        self,
        table: Table,
        changes: Sequence[Change],
        *,
        batch: BatchKey | None = None,
        unless_newer_than: int | None = None,
        unless_acked_since: int | None = None,
        unless_erased_since: int | None = None,
    ) -> Accepted:
        """Accept single rows. With `unless_newer_than`, the changes are refused with `Conflict` if a
        row that they concern was changed after that version (an UPDATE that read older rows). With
        `unless_acked_since`, also if `acks` is another number by now: what the caller knows of cold
        keys may be old then. With `unless_erased_since` they are refused with `ErasedSince` if
        `erasures` is another number by now: what the caller read may be of a user who is erased.

        Raises `Conflict` for an INSERT of a key that is hot already, or whose deletion is parked, and
        for a change of a row that is parked, `BufferFull`, `BufferUnavailable`, `EntryRejected` for a row
        that is too large.
        """
        ...

    def accept_arrow(
        self,
        table: Table,
        rows: pa.Table,
        *,
        batch: BatchKey | None = None,
        unless_acked_since: int | None = None,
        unless_erased_since: int | None = None,
    ) -> Accepted:
        """Accept many rows (INSERT): the table's columns, and `_user` in a table of users'. They
        become a segment: an Arrow file, sorted by user, that its row in the store commits."""
        ...

    def too_large(
        self, table: Table, user: str, values: Sequence[Any], index: int
    ) -> EntryRejected | None:
        """Why a row, the one of this index in a batch, takes more bytes than one may; None where it
        doesn't."""
        ...

    def large_rows(self, table: Table, rows: pa.Table) -> list[EntryRejected]:
        """The same of many rows, as `accept_arrow` takes them: of the largest one."""
        ...

    def repeated(self, table: Table, batch: BatchKey) -> Accepted | None:
        """What the batch of this key was given, if it was accepted already. Raises `Conflict` where
        it had other content."""
        ...

    def acks(self, table: Table) -> int:
        """How often changes of a table were acknowledged: while it stays the same, what is not hot
        has not become cold."""
        ...

    def erasures(self) -> int:
        """How many erasures of users were begun here: while it stays the same, nobody was erased
        whose rows were read."""
        ...

    def snapshot(self) -> AbstractContextManager[HotSnapshot]:
        """A consistent view. Segments that it shows stay readable until it ends."""
        ...

    def known_keys(self, table: Table, user: str, keys: Sequence[bytes]) -> Mapping[bytes, int]:
        """Of these encoded keys those that are hot: the `_seq` of the row, `DELETED` where the newest
        change deletes it, `DELETION_PARKED` where that is parked."""
        ...

    # -- flushing

    def waiting(self) -> list[Waiting]:
        """What waits of each table, those of STREAM tables left out."""
        ...

    def lease(
        self, table: Table, *, owner: str, ttl_s: float, force: bool = False
    ) -> TableLease | None:
        """The right to flush the table, None where somebody has it or nothing is due. With `force`
        also what waits for its next attempt."""
        ...

    def renew(self, lease: TableLease, *, ttl_s: float) -> None:
        """Extend a lease. Raises `LeaseLost`."""
        ...

    def take(
        self, lease: TableLease, *, after: int = 0, max_bytes: int = 40 * 1024**2
    ) -> tuple[pa.Table, int]:
        """The next changes to flush, as `HotSnapshot.rows` gives them, and the version up to which
        they are all: bounded, at least one if there is one."""
        ...

    def ack(
        self,
        lease: TableLease,
        through: int,
        *,
        held: Mapping[str, Held] | None = None,
        refused: Sequence[Refused] = (),
    ) -> Acked:
        """Changes up to `through` are in the manifest, but those of `held` users (they stay, and
        are postponed) and of `refused` changes (they are parked). Users that were held in an earlier
        call for the same lease stay held. Users have recovered when all of the lease was
        acknowledged. With `through` 0 rows are parked only: done before the manifest has what
        follows them, no crash between the two loses them. Raises `LeaseLost`."""
        ...

    def fail(self, lease: TableLease, held: Held) -> None:
        """Nothing of the table could be flushed: all of it waits until then. Gives the lease
        back."""
        ...

    def release(self, lease: TableLease) -> None:
        """Give a lease back. A lost one is ignored."""
        ...

    def progress(self, table: Table) -> Mapping[str, Progress]:
        """What was acknowledged last, by store: the least that the manifest has."""
        ...

    def retry_now(self, table: Table | None = None) -> int:
        """What waits for its next attempt is due. How many partitions."""
        ...

    # -- what waits, in the words of the buffer

    def depth(self) -> StreamDepth:
        """How much of the stream `tables` waits."""
        ...

    def states(self, *, failing: bool = False, limit: int = 1000) -> list[PartitionState]:
        """Partitions (`Table.partition`) that have changes waiting, or that failed last time."""
        ...

    def failures(self, *, limit: int = 1000) -> list[FailureGroup]:
        """What waits and failed last time, counted by failure."""
        ...

    def parked(self) -> list[ParkedEntry]:
        """Rows that were refused, oldest first. Their ids are negative: no entry of the buffer has
        one of them."""
        ...

    def parked_row(self, parked_id: int) -> tuple[str, Mapping[str, Any]] | None:
        """The table's full name and the row, with its hidden columns."""
        ...

    def unpark(self, parked_ids: Sequence[int]) -> list[int]:
        """Put parked rows back, as their newest change, and with a row those of the same PRIMARY KEY
        that are parked before or behind it. Returns the new versions."""
        ...

    def discard_parked(self, parked_ids: Sequence[int]) -> None:
        """Remove parked rows for good. Unknown ids are ignored. Raises `Conflict` for a deletion
        behind which another row of its PRIMARY KEY is parked, unless that goes as well."""
        ...

    # -- upkeep

    def tables(self) -> list[int]:
        """The tables that have or had rows here, but those that were forgotten."""
        ...

    def forget_table(self, table_id: int) -> None:
        """Remove all of a dropped table."""
        ...

    def erase_user(self, user: str) -> int:
        """Remove all of a user's changes, in pages, log and segments: no byte of them is left. How
        many there were. What was read before (`erasures`) is not accepted after it."""
        ...

    def maintain(self) -> None:
        """Remove segments that nothing names and nobody reads, what a TTL ended, old idempotency
        keys; move the log into the file."""
        ...

    def close(self) -> None:
        """Close all connections. Idempotent."""
        ...
