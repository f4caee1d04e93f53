"""Which database a buffer belongs to, and what it does when one of the two goes back in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from surgetank.buffer.identity import Identified
from surgetank.model import Lease, Mark


class Binding(NamedTuple):
    """The database that a buffer belongs to: its address and, once it was contacted, the id in its
    schema and the evidence by which a copy is told from the original.
    """

    address: str
    database_id: str | None = None
    system_id: str | None = None
    database_oid: int | None = None


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


class Bindable(Protocol):
    """A buffer knows its database: an entry can't reach another one by mistake."""

    def binding(self) -> Binding | None:
        """The database that the buffer belongs to, if that is known."""
        ...

    def bind(self, binding: Binding, *, forget_marks: bool = False) -> None:
        """Belong to this database from now on; with `forget_marks` nothing is expected to be there
        already."""
        ...


class Fence(Identified, Protocol):
    """What shows that the buffer or its sink went back in time, and what mends it.

    - Each partition has a mark: the last entry that was acknowledged. The sink has its own, and the
      two are compared.
    - Acknowledged entries are kept for a while. `rewind` makes those wait again that the sink lost.
    - An epoch is the name of what one handle accepted. Two that accept under the same numbers never
      share it.
    """

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

    def forget_kept(self, *, all_: bool = False) -> None:
        """Delete acknowledged entries that were kept long enough, or all of them."""
        ...
