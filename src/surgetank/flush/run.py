"""One leased partition in a flush job, and what a delivery has learned of the sink."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from surgetank.flush.sqlstates import Scope
from surgetank.model import (
    Failure,
    Fork,
    Lease,
    Mark,
    ParkedEntry,
    PartitionOutcome,
    PartitionState,
    Replacement,
)


@dataclass(slots=True)
class Run:
    """One leased partition on its way through a job; gathers what becomes of it."""

    lease: Lease
    state: PartitionState
    after_seq: int = 0
    entries: int = 0
    rows: int = 0
    bytes: int = 0
    values_replaced: int = 0
    replaced: list[Replacement] = field(default_factory=list)
    parked: list[ParkedEntry] = field(default_factory=list)
    fork: Fork | None = None
    failure: Failure | None = None
    attempts: int = 0
    next_attempt_at: float | None = None
    closed: bool = False
    served: bool = False
    skipped: int = 0
    doubts: int = 0
    raised: bool = False  # the lease has another token than it was taken with
    mark: Mark | None = None  # the last entry that the sink is known to have

    def __post_init__(self) -> None:
        self.mark = self.mark or self.state.mark

    def read_again(self, more: int = 0) -> None:
        """What waits has changed under the lease: it is read from its beginning; `more` entries
        have joined."""
        self.after_seq = 0
        self.state = replace(self.state, entries=self.state.entries + more)

    @property
    def left(self) -> int:
        """How many of the entries that waited when the partition was leased have not been dealt
        with."""
        return max(0, self.state.entries - self.entries - len(self.parked))

    @property
    def exhausted(self) -> bool:
        """True when all that waited when the partition was leased has been dealt with."""
        return self.left == 0

    @property
    def touched(self) -> bool:
        """True when something became of the partition."""
        return bool(self.entries or self.parked or self.failure is not None)

    def outcome(self) -> PartitionOutcome:
        """What became of the partition, for the job's record."""
        return PartitionOutcome(
            stream=self.state.stream,
            partition=self.state.partition,
            entries=self.entries,
            rows=self.rows,
            bytes=self.bytes,
            parked=len(self.parked),
            replaced=tuple(self.replaced),
            values_replaced=self.values_replaced,
            failure=self.failure,
            attempts=self.attempts,
            next_attempt_at=self.next_attempt_at,
            failing_since=self.state.failing_since,
            recovered=self.failure is None
            and self.state.failing_since is not None
            and self.entries > 0,
            parked_entries=tuple(self.parked),
            skipped=self.skipped,
            fork=self.fork,
        )


@dataclass(slots=True)
class Trial:
    """What one delivery has learned about the sink: whether it takes anything, and how often it
    refused since."""

    took: bool = False
    probed: bool = False
    refusals: int = 0
    ask_at: int = 2
    # since it last took something
    parked: list[tuple[Run, ParkedEntry]] = field(default_factory=list)
    broken: Failure | None = None

    def accepted(self) -> None:
        """The sink took something."""
        self.took, self.refusals = True, 0
        self.parked.clear()

    def proves(self, scope: Scope) -> bool:
        """Whether it is known that the sink takes something, so that what it refuses is the data's
        fault."""
        return self.probed or (self.took and scope is Scope.ENTRY)
