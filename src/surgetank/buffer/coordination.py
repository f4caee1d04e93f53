"""Coordination: what flushing needs beside the log. Leases, attempts, parked entries, and what waits.

It is kept with the buffer, never with the sink: the sink is what fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from surgetank.buffer.identity import Identified
from surgetank.model import (
    BufferDepth,
    Entry,
    Failure,
    FailureGroup,
    Keeper,
    Lease,
    Mark,
    ParkedEntry,
    PartitionState,
)

NOTE_TTL_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Due:
    """Which partitions of a stream are to be leased: those that crossed any of the thresholds.

    `force` takes every partition that has entries, also one whose next attempt is not yet due.
    Only this `partition`, or only these `partitions`, where one of them is given. Not many more than
    have `enough_entries` or `enough_bytes` together, of each at most its share: what a worker can't
    write soon is left to others.
    `max_horizon_s` bounds how far in the future a stored time can be believed, so that a clock that
    was set back doesn't freeze a partition.
    """

    entries: int = 1
    bytes: int = 0
    age_s: float = 0.0
    partition: str | None = None
    partitions: Sequence[str] | None = None
    force: bool = False
    limit: int = 1000
    enough_entries: int = 1 << 50
    enough_bytes: int = 1 << 50
    share_entries: int = 1 << 50
    share_bytes: int = 1 << 50
    max_horizon_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Leased:
    """A lease together with the state of its partition when it was taken."""

    lease: Lease
    state: PartitionState


@dataclass(frozen=True, slots=True)
class ReadFrom:
    """Where to go on reading a leased partition."""

    lease: Lease
    after_seq: int = 0


@dataclass(frozen=True, slots=True)
class Ack:
    """Entries of one leased partition that are safe in the sink, and what to remember of them.

    Notes are small values kept with the partition after its entries are gone: `forget` removes
    those with a prefix, then `maxima` are kept where they are larger than what was noted, and
    `passing` ones for `NOTE_TTL_S`. `release` gives the lease back as well. `keep` says what the
    partition's copy becomes (see `buffer.copies`). `mark` is the last entry's, if the sink made
    one.
    """

    lease: Lease
    entries: Sequence[Entry]
    forget: Sequence[bytes] = ()
    maxima: Mapping[bytes, bytes] = field(default_factory=dict)
    passing: Mapping[bytes, bytes] = field(default_factory=dict)
    release: bool = False
    keep: Keeper | None = None
    mark: Mark | None = None


class Leases(Identified, Protocol):
    """Partitions are leased, read in order and acknowledged.

    - **Fencing**: each lease of a partition has a larger token than all leases before it. A lease
      that was lost can't acknowledge, postpone or park: `LeaseLost`, or it is returned as lost.
    - **Order**: entries are read in the order of their `seq`, without gaps.
    - **All or nothing**: an acknowledgement removes entries, keeps notes and marks, and changes the
      copy in one step.
    - **Damage**: what was changed or lost is raised as `EntryUnreadable`, and is never
      acknowledged.
    """

    def lease(self, stream: str, due: Due, *, owner: str, ttl_s: float) -> list[Leased]:
        """Lease the due partitions of a stream that nobody else holds. Tenants take turns, each
        with its oldest first; what only `force` takes, because the next attempt is not due, comes last.

        Where a buffer has shards, some that are younger may be leased before some of another shard.
        """
        ...

    def renew(self, leases: Sequence[Lease], *, ttl_s: float) -> list[Lease]:
        """Extend leases; those that were lost are missing from the result."""
        ...

    def release(self, leases: Sequence[Lease]) -> None:
        """Give leases back. A lost lease is ignored."""
        ...

    def read(
        self, lease: Lease, *, after_seq: int = 0, max_entries: int, max_bytes: int
    ) -> list[Entry]:
        """Waiting entries in order, at least one if there is one, until a limit is reached (by one
        entry at most)."""
        ...

    def read_many(
        self,
        starts: Sequence[ReadFrom],
        *,
        share_entries: int,
        share_bytes: int,
        max_entries: int,
        max_bytes: int,
    ) -> list[list[Entry]]:
        """`read` for several partitions in one round trip, each up to its share.

        Partitions have their turn in order until the sum reaches `max_entries` or `max_bytes` (by one
        entry at most); the first always has. Returns one list for each that had its turn.
        What is damaged, or was spilled and can't be read, ends the list before it; for the first
        entry of the first one `EntryUnreadable` is raised.
        """
        ...

    def ack(self, acks: Sequence[Ack]) -> list[Lease]:
        """Remove entries that are in the sink. Returns the leases that were lost; theirs are not
        removed.

        The last one becomes its partition's mark. Entries are kept for a while, hidden from readers
        and limits, for `rewind`.
        """
        ...


class Attempts(Protocol):
    """When a partition that failed is tried again. Survives the process that failed."""

    def postpone(
        self, lease: Lease, *, attempts: int, next_attempt_at: float, failure: Failure
    ) -> None:
        """Record a failed attempt, when the next one is due, and give the lease back. Raises
        `LeaseLost`."""
        ...

    def retry_now(
        self, stream: str | None = None, partition: str | None = None, *, spread_s: float = 0.0
    ) -> int:
        """Make postponed partitions due at once; returns how many. With `spread_s`, those beyond
        the first hundred are due at any time within it.
        """
        ...


class Parking(Protocol):
    """Entries that a sink refused, set aside with the reason (the dead letters).

    They stay until somebody puts them back or discards them, count as part of the buffer, and stay
    visible to readers.
    """

    def park(self, lease: Lease, seq: int, failure: Failure) -> ParkedEntry:
        """Set one entry aside with its reason. Raises `LeaseLost`."""
        ...

    def parked(
        self, *, stream: str | None = None, partition: str | None = None
    ) -> list[ParkedEntry]:
        """Parked entries, oldest first."""
        ...

    def parked_entry(self, parked_id: int) -> Entry | None:
        """The data of a parked entry."""
        ...

    def unpark(self, parked_ids: Iterable[int]) -> list[int]:
        """Put parked entries at the end of their partitions, to be tried again. Returns their new
        seqs.

        One that is parked again has the id that it had.
        """
        ...

    def discard_parked(self, parked_ids: Iterable[int]) -> None:
        """Remove parked entries for good. Unknown ids are ignored."""
        ...


class Backlog(Protocol):
    """What waits, as of now. Reading it holds nobody up."""

    def states(
        self, stream: str | None = None, *, failing: bool = False, limit: int = 1000
    ) -> list[PartitionState]:
        """Partitions that have entries waiting (or, with `failing`, that failed last time), oldest
        first."""
        ...

    def state(self, stream: str, partition: str) -> PartitionState | None:
        """One partition's state, or None when nothing of it waits."""
        ...

    def failures(self, *, limit: int = 1000) -> list[FailureGroup]:
        """What waits and failed last time, counted by stream and failure; the largest groups first.

        It costs a scan of what waits, not one answer for each partition.
        """
        ...

    def last_seq(self, stream: str, partition: str | None = None) -> int:
        """The largest seq that waits in the stream or partition, 0 when none does."""
        ...

    def waiting(self, stream: str, *, up_to_seq: int, partition: str | None = None) -> list[str]:
        """The partitions that still have unparked entries with a seq up to `up_to_seq`."""
        ...

    def first_waiting(self, stream: str, partitions: Iterable[str]) -> dict[str, int]:
        """The smallest seq that waits in each of these partitions that has one; 0 where entries are
        parked."""
        ...

    def depth(self) -> BufferDepth:
        """How full the buffer is."""
        ...


class Coordination(Leases, Attempts, Parking, Backlog, Protocol):
    """All that a flush needs to take entries out of the buffer."""
