"""What every buffer promises. `tests/contract/` tests just these sentences on each implementation.

A buffer is an ordered log of entries per partition, with a lookup by key over what has not been
flushed, and the coordination that flushing needs: leases, attempts, parked entries, job records.

Promises
- **Durability**: when `append` returned, the entry survives the kill of any process (`process`), or a
  power cut as well (`power`). When it raised, nothing of the entry was accepted.
- **Order**: entries of a partition are read back in the order of their `seq`; a `seq` is never reused, and if the
  contents went back in time (a restored file, a copied machine) never together with the same epoch.
- **Visibility**: an accepted entry is visible to every process on the buffer at once, and stays so until
  it is acknowledged. Parked entries stay visible.
- **Fencing**: each lease of a partition has a larger token than all leases before it. A lease that was
  lost can't acknowledge, postpone or park: `LeaseLost`.
- **Damage**: what its place of storage changed or lost is found when it is read, and raised as `BufferCorrupt` (in
  `read` as `EntryUnreadable`) with what is affected; never given as if it were what was accepted, and never
  acknowledged. All else can be used; once it is parked, `scan` and `last` leave it out.
- **Place**: a buffer whose place of storage was taken away (its file deleted) accepts nothing more; what it holds can
  be read and flushed by those that have it open.
- **Limits**: at its limit of bytes or entries `append` waits and then raises, or raises at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from surgetank.buffer.copies import Glance, RecentSide
from surgetank.model import (
    BufferDepth,
    Damage,
    Entry,
    Failure,
    FlushJob,
    Keeper,
    Lease,
    Mark,
    ParkedEntry,
    PartitionState,
    Record,
)


@dataclass(frozen=True, slots=True)
class Due:
    """Which partitions of a stream are to be leased: those that crossed any of the thresholds.

    `force` takes every partition that has entries, also one whose next attempt is not yet due.
    `max_horizon_s` bounds how far in the future a stored time can be believed, so that a clock that
    was set back doesn't freeze a partition.
    """

    entries: int = 1
    bytes: int = 0
    age_s: float = 0.0
    partition: str | None = None
    force: bool = False
    limit: int = 1000
    max_horizon_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Leased:
    """A lease together with the state of its partition when it was taken."""

    lease: Lease
    state: PartitionState


@dataclass(frozen=True, slots=True)
class Place:
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


@dataclass(frozen=True, slots=True)
class Marked:
    """A partition, the last entry of it that the sink acknowledged, and when."""

    stream: str
    partition: str
    mark: Mark
    at: float


@dataclass(frozen=True, slots=True)
class Rewound:
    """What became of a partition whose sink went back: so many kept entries wait again. `gone` are
    the first and the last number of those that the sink lost and the buffer does not keep any more.
    """

    entries: int
    gone: tuple[int, int] | None = None


class Binding(NamedTuple):
    """The database that a buffer belongs to: its address and, once it was contacted, the id in its
    schema and the evidence by which a copy is told from the original.
    """

    address: str
    database_id: str | None = None
    system_id: str | None = None
    database_oid: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """One hot record found by key. `parked` tells that the sink refused it."""

    key: bytes
    seq: int
    value: bytes
    parked: bool
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """Reports of one kind that were folded: the newest one and how many they were."""

    partition: str
    key: bytes
    value: bytes
    count: int


class Snapshot(Protocol):
    """A consistent view of the hot records; short-lived."""

    def latest(self, stream: str, partition: str, keys: Sequence[bytes]) -> dict[bytes, Found]:
        """The newest record of each key that is hot. Keys that are not hot are missing from the
        result."""
        ...

    def scan(
        self,
        stream: str,
        partition: str,
        prefix: bytes,
        *,
        keys_only: bool = False,
        after_seq: int = 0,
    ) -> list[Found]:
        """All hot records whose key starts with `prefix`, by key and then seq. `keys_only` leaves
        values empty."""
        ...

    def last(
        self, stream: str, partition: str, prefix: bytes, *, after_seq: int = 0
    ) -> Found | None:
        """The newest record of the greatest key that starts with `prefix`."""
        ...

    def notes(self, stream: str, partition: str, prefix: bytes = b"") -> dict[bytes, bytes]:
        """The notes of a partition whose key starts with `prefix`."""
        ...

    def tallies(self, stream: str) -> list[Tally]:
        """What is counted of a stream and was not sent yet (`Buffer.tally`)."""
        ...

    def partitions(self, stream: str) -> list[str]:
        """Names of the partitions that have hot records, parked ones included, in order."""
        ...

    def copy(self, stream: str, partition: str) -> Glance:
        """What is known of the partition's copy."""
        ...

    def copied(self, stream: str, partition: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Parts of the copy by key. Those that it doesn't have, or that are damaged, are missing
        from the result."""
        ...

    def copied_keys(self, stream: str, partition: str, prefix: bytes) -> list[bytes]:
        """The keys of the copy's parts that begin so, in order."""
        ...


# Looks at the partition just before an append: None accepts, passing notes refuse and are kept
# instead.
Guard = Callable[[Snapshot], Mapping[bytes, bytes] | None]
NOTE_TTL_S = 24 * 3600.0


class Buffer(RecentSide, Protocol):
    """The hot buffer. Safe to use from several threads; several processes may share one."""

    @property
    def id(self) -> str:
        """Identity of the buffer's contents: made once, kept with them."""
        ...

    def append(
        self,
        stream: str,
        partition: str,
        records: Sequence[Record],
        *,
        guard: Guard | None = None,
        start_guarding: bool = False,
        ask_guards: bool = False,
        wait: bool = True,
    ) -> int:
        """Accept one entry, whole or not at all, and return its `seq`.

        `start_guarding` is for an entry that deletes what its partition held: parked entries of the
        partition are removed in the same step, and from then on `guard` is asked, in the same
        transaction, whether an append still belongs to something that lives. 0 is returned for what
        a guard refused, and what it raises is raised. `ask_guards` only asks guards from then on.
        With `wait` false a full buffer raises at once.

        Raises `BufferFull`, `BufferUnavailable`, `EntryRejected`.
        """
        ...

    def try_append(
        self, stream: str, partition: str, records: Sequence[Record], *, guard: Guard | None = None
    ) -> int | None:
        """`append` for an event loop: None, and nothing accepted, where it would have to wait
        longer than some milliseconds for another thread or process that holds the buffer. Then
        `append` on a thread.

        Raises `BufferFull` at once, `BufferUnavailable`, `EntryRejected`.
        """
        ...

    def tally(
        self, stream: str, partition: str, key: bytes, value: bytes, *, count: int = 1
    ) -> None:
        """Count a report that is alike to one before: the newest value of a key is kept, and how
        many there were.

        As durable as an entry; a tally is small and takes no room of the limits. Raises
        `BufferUnavailable`.
        """
        ...

    def try_tally(self, stream: str, partition: str, key: bytes, value: bytes) -> bool:
        """`tally` unless another process holds the buffer just now; whether it was done."""
        ...

    def send_tallies(
        self, stream: str, entry_of: Callable[[Tally], Record], *, older_s: float
    ) -> int:
        """Make an entry of each tally that was begun so long ago, in the same step in which it
        goes; how many.

        Raises `BufferFull`, `BufferUnavailable`: what was not sent stays counted.
        """
        ...

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """A consistent view for lookups by key."""
        ...

    def lease(self, stream: str, due: Due, *, owner: str, ttl_s: float) -> list[Leased]:
        """Lease the due partitions of a stream that nobody else holds, oldest first."""
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
        places: Sequence[Place],
        *,
        share_entries: int,
        share_bytes: int,
        max_entries: int,
        max_bytes: int,
    ) -> list[list[Entry]]:
        """`read` for several partitions in one round trip, each up to its share.

        Places have their turn in order until the whole reaches `max_entries` or `max_bytes` (by one
        entry at most); the first always has. Returns one list for each place that had its turn.
        What is damaged, or was spilled and can't be read, ends the list before it; for the first
        entry of the first place `EntryUnreadable` is raised.
        """
        ...

    def ack(self, acks: Sequence[Ack]) -> list[Lease]:
        """Remove entries that are in the sink. Returns the leases that were lost; theirs are not
        removed.

        The last one becomes its partition's mark. Entries are kept for a while, hidden from readers
        and limits, for `rewind`.
        """
        ...

    def marks(self, *, limit: int, offset: int = 0) -> list[Marked]:
        """Partitions that nobody holds with their marks, those acknowledged last first."""
        ...

    def rewind(
        self,
        stream: str,
        partition: str,
        trusted: Mapping[int, Mark],
        *,
        lease: Lease | None = None,
    ) -> Rewound | None:
        """The sink lost what it had: kept entries that are not in `trusted` (its last entry by
        epoch) wait again.

        The partition has no mark then. None when somebody else holds it. Raises `LeaseLost` for a
        lost `lease`.
        """
        ...

    def renew_epoch(self, lease: Lease, *, beyond: int, replayed: bool) -> int:
        """Give all waiting entries of a partition numbers above `beyond` and an epoch that nothing
        else has.

        This handle accepts in another epoch from then on. `replayed`: the sink may have some of
        them. Returns how many there were. Raises `LeaseLost`.
        """
        ...

    def raise_token(self, lease: Lease, *, beyond: int) -> Lease | None:
        """A lease that is still held, with a token above `beyond`: the sink saw that one before the
        buffer went back. None when the lease was lost.
        """
        ...

    def binding(self) -> Binding | None:
        """The database that the buffer belongs to, if that is known."""
        ...

    def bind(self, binding: Binding, *, forget_marks: bool = False) -> None:
        """Belong to this database from now on; with `forget_marks` nothing is expected to be there
        already."""
        ...

    def postpone(
        self, lease: Lease, *, attempts: int, next_attempt_at: float, failure: Failure
    ) -> None:
        """Record a failed attempt, when the next one is due, and give the lease back. Raises
        `LeaseLost`."""
        ...

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

    def damage(self, *, new: bool = False) -> list[Damage]:
        """What was found damaged and can't be given back, oldest first; with `new` only what was
        not announced yet."""
        ...

    def damage_announced(self, ids: Sequence[int]) -> None:
        """The operators were told of these damages."""
        ...

    def states(
        self, stream: str | None = None, *, failing: bool = False, limit: int = 1000
    ) -> list[PartitionState]:
        """Partitions that have entries waiting (or, with `failing`, that failed last time), oldest
        first."""
        ...

    def state(self, stream: str, partition: str) -> PartitionState | None:
        """One partition's state, or None when nothing of it waits."""
        ...

    def last_seq(self, stream: str, partition: str | None = None) -> int:
        """The largest seq that waits in the stream or partition, 0 when none does."""
        ...

    def waiting(self, stream: str, *, up_to_seq: int, partition: str | None = None) -> list[str]:
        """The partitions that still have unparked entries with a seq up to `up_to_seq`."""
        ...

    def retry_now(
        self, stream: str | None = None, partition: str | None = None, *, spread_s: float = 0.0
    ) -> int:
        """Make postponed partitions due at once; returns how many. With `spread_s`, those beyond
        the first hundred are due at any time within it.
        """
        ...

    def depth(self) -> BufferDepth:
        """How full the buffer is."""
        ...

    def save_job(self, job: FlushJob) -> None:
        """Record a flush job, or its new state."""
        ...

    def job(self, job_id: str) -> FlushJob | None:
        """One job."""
        ...

    def jobs(
        self, *, limit: int = 50, stream: str | None = None, status: str | None = None
    ) -> list[FlushJob]:
        """Jobs, newest first."""
        ...

    def erase(self, partitions: Iterable[str], words: Sequence[str]) -> tuple[int, list[str]]:
        """Remove all that is kept of partitions of which nothing waits, in every stream, and what
        jobs say with one of the words in it. Returns how many went and the names of those that
        still wait, which stay.
        """
        ...

    def discard_parked(self, parked_ids: Iterable[int]) -> None:
        """Remove parked entries for good. Unknown ids are ignored."""
        ...

    def scrub(self) -> bool:
        """Leave no byte of what was removed in the files; false when others always were in the
        way."""
        ...

    def maintain(self, *, thorough: bool = True) -> None:
        """Housekeeping off the callers' path: give space back, forget kept entries that are old
        enough; if `thorough`, also forget old notes and jobs.
        """
        ...

    def close(self) -> None:
        """Close files and connections. Idempotent."""
        ...
