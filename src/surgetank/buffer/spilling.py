"""What a buffer promises to whoever spills: values move into files, their entries stay, and readers
notice nothing.

A spilled entry keeps its number, keys, order and lease; each of its larger values is replaced by
its place in a file. Whoever reads the value gets it from there, or an error that names the
location: never an older value, never none. A file is deleted only after nothing refers to it any
more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from surgetank.buffer.coordination import Leased
from surgetank.buffer.identity import Identified
from surgetank.fallback.codec import FileHeader, SpilledEntry
from surgetank.fallback.files import SpillFiles
from surgetank.model import Lease


@dataclass(frozen=True, slots=True)
class SpillDue:
    """Which partitions of a stream are to be spilled: those that failed (or, with `down`, wait)
    since before `before` and whose oldest entry that is not spilled is that old; with `before` None
    every one, the largest first.
    """

    before: float | None = None
    down: bool = False
    limit: int = 1000


class ToSpill(NamedTuple):
    """A leased partition, and the last entry of it that needs no spilling."""

    leased: Leased
    after_seq: int


@dataclass(frozen=True, slots=True)
class SpillFile:
    """A file that the buffer knows. `records` of its values are still needed.

    `state`: `writing`, `recovering` (its entries are being taken over) or `kept`.
    """

    number: int
    file_id: str
    stream: str
    address: str
    name: str
    state: str
    records: int
    bytes: int
    created_at: float


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What is known of a stream's partitions outside the buffer: up to which entry of the file's
    buffer they were `written`, by partition and epoch, and when they were deleted (`tombstones`).
    `keyed`: entries may reach the sink twice, if marked as replayed.
    """

    written: Mapping[tuple[str, int], int]
    tombstones: Mapping[str, float]
    keyed: bool


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of a file's entries: taken over, known already, or left out because their thread
    was deleted."""

    entries: int = 0
    known: int = 0
    deleted: int = 0

    def __add__(self, other: Recovered) -> Recovered:
        return Recovered(
            self.entries + other.entries, self.known + other.known, self.deleted + other.deleted
        )


class Spilling(Identified, Protocol):
    """A buffer whose values can be spilled. A capability: not every buffer has it."""

    @property
    def files(self) -> SpillFiles:
        """Where values may be spilled to."""
        ...

    def fill(self) -> float:
        """How full the buffer is by its bytes, 1.0 being its limit. Cheap."""
        ...

    def lease_to_spill(
        self, stream: str, due: SpillDue, *, owner: str, ttl_s: float
    ) -> list[ToSpill]:
        """Lease partitions that have something to be spilled."""
        ...

    def begin_spill(self, stream: str, *, node: str) -> FileHeader:
        """Announce a file, before anything of it is written."""
        ...

    def stub(self, header: FileHeader, lease: Lease, entries: Sequence[SpilledEntry]) -> bool:
        """Put places in the stead of values that lie in the file by now. False when the lease was
        lost.

        `entries` are the partition's oldest ones that were not spilled, without gaps. Raises
        `LeaseLost` when the file was given up meanwhile, because it took too long.
        """
        ...

    def keep_spill(self, header: FileHeader, size: int) -> None:
        """The file is written and all that can refer to it does."""
        ...

    def spill_files(self) -> list[SpillFile]:
        """The files that the buffer knows, oldest first."""
        ...

    def spilled_entries(self) -> int:
        """How many entries have values in files."""
        ...

    def drained_spills(self, *, silent_s: float) -> list[SpillFile]:
        """Files that nothing refers to any more, also those that were being written and were left
        for `silent_s`."""
        ...

    def forget_spill(self, number: int) -> None:
        """The file is deleted."""
        ...

    def begin_recovery(self, header: FileHeader, address: str, name: str, size: int) -> int | None:
        """Announce that a file's entries will be taken over; its number, or None if the buffer
        refers to it already."""
        ...

    def take_over(
        self, number: int, header: FileHeader, entries: Sequence[SpilledEntry], elsewhere: Elsewhere
    ) -> Recovered:
        """Append entries whose values stay in their file: each once, however often this is
        repeated.

        What was accepted before its partition was deleted is left out. What the sink may have
        already is left out too, or, in a keyed stream, marked as replayed: it may have been parked
        and not written. Of entries without `refs` the values come along (`number` is 0): they are of a
        buffer, not of a file, and count in bytes. Raises `BufferFull`.
        """
        ...

    def pending(self, stream: str, partition: str, key: bytes) -> list[tuple[float, bytes]]:
        """The waiting records with this key: when they were accepted, and their values (which are
        never spilled)."""
        ...

    def relocate_spill(self, file_id: str, address: str, name: str) -> None:
        """From now on the file is read from another place, where a copy of it lies."""
        ...

    def end_recovery(self, number: int) -> None:
        """All entries of the file were taken over."""
        ...
