"""The nouns: entries, leases, failures, flush jobs. Frozen, typed, no I/O.

Times are seconds since the epoch (float, UTC) as an injected clock gives them; sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple, Protocol

from surgetank.job_result import JobResult


class Record(NamedTuple):
    """One keyed value inside an entry. Keys are bytes and sort bytewise inside their partition.

    `family` names records of a partition that tend to resemble the one before them (the versions of
    a channel); a buffer may keep such a record as its difference from that one. It is a hint, and
    not kept.
    """

    key: bytes
    value: bytes
    family: bytes = b""


@dataclass(frozen=True, slots=True)
class Entry:
    """One accepted write: the records that one `append` was given, in order.

    `seq` grows within its partition, is never reused, and no other entry of the buffer has it.
    `replayed` is true for an entry that may have been tried before (it was parked, or its buffer
    went back in time): it comes after entries that were accepted later than it.

    `epoch` names the handle that accepted it, by a random number drawn when the buffer was opened;
    0 in buffers of format 3. A file that went back in time gives a `seq` again, but never together
    with the same epoch.
    """

    stream: str
    partition: str
    seq: int
    records: tuple[Record, ...]
    accepted_at: float
    replayed: bool = False
    epoch: int = 0

    def __repr__(self) -> str:
        what = f"{self.stream}/{self.partition} #{self.seq}"
        return f"<Entry {what}: {len(self.records)} records, {self.size} bytes>"

    @property
    def size(self) -> int:
        """Bytes of all keys and values."""
        total = 0
        for record in self.records:
            total += len(record.key) + len(record.value)
        return total


class Mark(NamedTuple):
    """Which entry of a partition was the last one: its epoch, number and digest (`encode.digest`).

    A digest of 0 is unknown: what the released version wrote has none.
    """

    epoch: int
    seq: int
    digest: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to flush one partition until `expires_at`.

    `token` is the fencing token: it grows with each lease of the partition, so that a sink and the
    buffer can refuse a worker that lost its lease without noticing.
    """

    stream: str
    partition: str
    token: int
    owner: str
    expires_at: float


class OldCopy(Protocol):
    """A partition's copy, as a keeper sees it inside the acknowledging transaction."""

    @property
    def mark(self) -> bytes | None:
        """Its mark; None when there is no copy."""
        ...

    def get(self, key: bytes) -> bytes | None:
        """One part; None when it isn't there (or is damaged)."""
        ...

    def keys(self, prefix: bytes) -> list[bytes]:
        """The keys of the parts that begin so, in order."""
        ...


@dataclass(frozen=True, slots=True)
class CopyChange:
    """What a copy becomes: `clear` drops all that it had, then `drop` parts go and `put` ones are
    stored.

    `grown` is by how many bytes (of keys and values) it is larger than before; than nothing, with
    `clear`.
    """

    mark: bytes
    grown: int
    put: Mapping[bytes, bytes] = field(default_factory=dict)
    drop: Sequence[bytes] = ()
    clear: bool = False


Keeper = Callable[[OldCopy], CopyChange | None]  # None: there is to be no copy


class FailureKind(StrEnum):
    """Why a flush failed, which decides what happens next."""

    TRANSIENT = "transient"
    REJECTED = "rejected"
    FATAL = "fatal"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as it is told, stored and decided upon."""

    kind: FailureKind
    message: str
    error_type: str
    sqlstate: str | None = None
    remedy: str = ""
    stack_trace: str = ""


@dataclass(frozen=True, slots=True)
class PartitionState:
    """What the buffer knows of one partition that has entries waiting or a failure behind it."""

    stream: str
    partition: str
    entries: int
    bytes: int
    oldest_at: float
    attempts: int = 0
    next_attempt_at: float = 0.0
    failing_since: float | None = None
    failure: Failure | None = None
    leased_by: str | None = None
    lease_expires_at: float = 0.0
    mark: Mark | None = None  # the last entry that the sink is known to have


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Partitions of one stream that wait and whose last attempt failed alike, counted.

    `partition` is one of them, `attempts` the most of one, `next_attempt_at` the earliest.
    """

    stream: str
    failure: Failure
    partitions: int
    entries: int
    bytes: int
    since: float
    attempts: int
    next_attempt_at: float
    partition: str


@dataclass(frozen=True, slots=True)
class ParkedEntry:
    """An entry that the sink refused. It stays readable, is never dropped, and can be retried."""

    id: int
    stream: str
    partition: str
    seq: int
    bytes: int
    accepted_at: float
    parked_at: float
    failure: Failure
    retries: int = 0

    def __repr__(self) -> str:
        what = f"{self.stream}/{self.partition} entry {self.seq}"
        return f"<ParkedEntry {self.id}: {what}, {self.bytes} bytes, {self.failure.error_type}>"


@dataclass(frozen=True, slots=True)
class Replacement:
    """A value that a JSON projection could not carry, and what stands there instead."""

    path: str
    reason: str
    original: str


@dataclass(frozen=True, slots=True)
class Damage:
    """Something accepted that the buffer can't give back, because its file was damaged. `partition`
    is empty for what concerns the file as a whole.
    """

    id: int
    found_at: float
    stream: str
    partition: str
    what: str


class Fork(NamedTuple):
    """Two buffers wrote to one thread, the second one (`buffer`) without knowing of the newest
    checkpoint (`head`) of the other. `checkpoint_id` is what it put instead.
    """

    thread_id: str
    buffer: str
    other_buffer: str
    head: str
    checkpoint_id: str


class JobStatus(StrEnum):
    """States of a flush job."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PartitionOutcome:
    """What one flush did with one partition."""

    stream: str
    partition: str
    entries: int = 0
    rows: int = 0
    bytes: int = 0
    parked: int = 0
    replaced: tuple[Replacement, ...] = ()
    values_replaced: int = 0
    failure: Failure | None = None
    attempts: int = 0
    next_attempt_at: float | None = None
    failing_since: float | None = None
    recovered: bool = False
    parked_entries: tuple[ParkedEntry, ...] = ()
    skipped: int = 0  # of the entries, those that an interrupted flush had written
    fork: Fork | None = None


@dataclass(frozen=True, slots=True)
class FlushJob:
    """The record of one flush. `result` is what a person or a script reads afterwards."""

    id: str
    stream: str
    trigger: str
    status: JobStatus
    created_at: float
    node: str
    started_at: float | None = None
    finished_at: float | None = None
    attempts: int = 1
    partition: str | None = None
    retry_of: str | None = None
    result: JobResult = field(default_factory=JobResult)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One message per partition that failed or had entries parked. Empty for a clean job."""
        return self.result.warnings or ()

    @property
    def ok(self) -> bool:
        """True when everything that the job was about is in the sink."""
        return self.status is JobStatus.COMPLETED and not self.warnings

    def __repr__(self) -> str:
        what = f"{self.stream}/{self.partition}" if self.partition is not None else self.stream
        counts = f"{self.result.entries_flushed or 0} entries, {len(self.warnings)} warnings"
        return f"<FlushJob {self.id} of {what}: {self.status.value}, {counts}>"

    def finished(self, status: JobStatus, at: float, result: JobResult) -> FlushJob:
        """This job with its outcome."""
        return replace(self, status=status, finished_at=at, result=result)


# What is damaged when a server lost its newest entries; the range of their numbers follows.
LOST_TAIL = "the Redis server came back without what it had accepted last"


class Advice(NamedTuple):
    """What something that we rely on is set to that breaks our promises, and what to do."""

    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class StreamDepth:
    """How much of one stream waits in the buffer."""

    stream: str
    entries: int
    bytes: int
    partitions: int
    oldest_at: float | None
    failing: int
    parked: int


@dataclass(frozen=True, slots=True)
class BufferDepth:
    """How full the buffer is, against its limits: `max_bytes` is what is set, or what the disk
    still takes if less."""

    entries: int
    bytes: int
    max_entries: int
    max_bytes: int
    streams: tuple[StreamDepth, ...]
    file_bytes: int = 0
    # of the server that it is in, by all who use that; 0: it is in a file, or the server doesn't say
    memory_bytes: int = field(default=0, compare=False)
    memory_max: int = 0  # 0: no limit
    # bytes, without what is kept for flushing; None: the disk isn't watched
    disk_free: int | None = None
    disk_full: bool = False  # nothing new is accepted until there is space

    @property
    def fullness(self) -> float:
        """How full it is, 1.0 being its limit: of entries or of bytes, whichever is nearer."""
        return max(self.bytes / self.max_bytes, self.entries / self.max_entries)
