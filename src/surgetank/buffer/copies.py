"""What a buffer promises about copies: what a partition held is kept for a while after the sink has
it.

A **copy** is a set of keyed parts and a mark. The mark says which state of the sink the copy shows;
the buffer compares it and understands nothing of it. A copy is a convenience: it is bounded by
bytes and age, the least recently used ones go first, and all of them go before an append is refused
for want of space. What it holds is never stale by this buffer's own doing:

- it is changed in the transaction that acknowledges entries, by the `Keeper` that came with them;
- acknowledged without a keeper, or with one that gives nothing, the copy is removed;
- it is removed in the transaction that accepts an entry which deletes what the partition held (`start_guarding`);
- what a reader brings from the sink is only kept if nothing was accepted or leased since it looked (`keep_copy`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from surgetank.model import CopyChange


@dataclass(frozen=True, slots=True)
class RecentLimits:
    """How many bytes copies may take together, and for how many seconds one that nobody uses
    stays."""

    max_bytes: int = 512 * 1024**2
    max_age_s: float = 7 * 86_400.0


class Glance(NamedTuple):
    """What a snapshot says about a partition's copy.

    `mark` is None when there is none. `version` changes with every lease of the partition.
    `stale_use`: it is worth saying that the copy was used (`use_copy`).
    """

    mark: bytes | None
    version: int
    stale_use: bool = False


class CopiesHeld(NamedTuple):
    """How many copies there are, and how many bytes they take."""

    copies: int
    bytes: int


class CopyStore(Protocol):
    """A buffer that keeps copies. Reading them is part of `Snapshot`: `copy` and `copied`."""

    @property
    def recent(self) -> RecentLimits:
        """How much copies may take."""
        ...

    def keep_copy(
        self,
        stream: str,
        partition: str,
        seen: Glance,
        change: CopyChange,
        *,
        notes: Mapping[bytes, bytes],
    ) -> bool:
        """Keep what a reader brought from the sink, and these notes with the partition in the stead
        of older ones.

        False, and nothing is kept, when the partition has entries, or was leased, or its copy
        changed since `seen`. Raises `BufferUnavailable`.
        """
        ...

    def use_copy(self, stream: str, partition: str) -> None:
        """Remember that a copy was of use."""
        ...

    def drop_copies(self, stream: str, stale: Mapping[str, bytes | None]) -> int:
        """Remove the copies of these partitions, if they still have this mark (None: any); returns
        how many."""
        ...

    def copies(self, stream: str, *, after: str = "", limit: int = 1000) -> list[tuple[str, bytes]]:
        """Partitions that have a copy, with its mark, by name."""
        ...

    def copies_held(self) -> CopiesHeld:
        """How much is kept."""
        ...

    def trim_copies(self) -> None:
        """Remove copies over the limits: too old, too many bytes, or in the way of what waits."""
        ...

    def shed_copies(self) -> bool:
        """Remove all copies because space is needed; False when there were none."""
        ...
