"""What every sink promises. `tests/contract/` tests just these sentences on each implementation.

Promises
- **All or nothing**: when `write` returned, every entry of every slice is durable; when it raised, none is.
- **Idempotent**: writing the same entries again, after a crash at any point, leaves exactly the same rows. Entries that
  were written are known by the last of them; when that one is not among those given, `ProgressDoubtful` asks for it.
- **Fenced**: a slice whose lease token is smaller than one already seen for its partition is refused
  with `LeaseLost`, so that a worker that lost its lease can't overwrite what came later.
- **Errors**: what is wrong with the data raises so that `flush.classify` calls it rejected; an
  `EntryRejected` with `seq` names the entry itself and spares the search for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from surgetank.model import Entry, Fork, Keeper, Lease, Mark, Replacement

_NONE: Mapping[int, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Slice:
    """The next entries of one leased partition, in order.

    `known` is the last entry that the buffer got acknowledged. `written` has the entries that are
    known to be in the sink already: up to this number those of each epoch.
    """

    lease: Lease
    entries: Sequence[Entry]
    known: Mark | None = None
    written: Mapping[int, int] = field(default_factory=lambda: _NONE)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one slice, and what the buffer is to note with the partition (see
    `buffer.coordination.Ack`).

    `skipped` entries were in the sink already. `mark` is the slice's last entry, if the sink keeps
    progress.
    """

    rows: int = 0
    size: int = 0
    replaced: tuple[Replacement, ...] = ()
    values_replaced: int = 0
    forget: Sequence[bytes] = ()
    maxima: Mapping[bytes, bytes] = field(default_factory=dict)
    passing: Mapping[bytes, bytes] = field(default_factory=dict)
    keep: Keeper | None = None
    skipped: int = 0
    mark: Mark | None = None
    fork: Fork | None = None


class Sink(Protocol):
    """A durable store for one stream."""

    @property
    def name(self) -> str:
        """How the sink is called in status and errors, without secrets."""
        ...

    def write(self, slices: Sequence[Slice], *, buffer_id: str) -> list[Written]:
        """Make all entries of all slices durable in one transaction; one result per slice, in
        order."""
        ...

    def probe(self, *, buffer_id: str) -> None:
        """Write an entry of the sink's own the way `write` does, and take it back: nothing of it
        stays.

        Raises what `write` would if the sink takes nothing at all, whatever the data.
        """
        ...

    def ping(self) -> str:
        """Say who answers (product and version), or raise what is wrong."""
        ...

    def close(self) -> None:
        """Let go of connections. Idempotent."""
        ...


class HotRecords(Protocol):
    """What the sink asks of the buffer that it empties."""

    def latest(self, thread_id: str, key: bytes) -> tuple[bytes, bool] | None:
        """The newest hot record of a key, and whether it is parked."""
        ...

    def parked(self, partition: str, keys: Sequence[bytes]) -> Sequence[bytes]:
        """Those of the keys whose newest hot record is parked."""
        ...

    def heads(self, thread_id: str) -> dict[str, str]:
        """The largest checkpoint id of each namespace that is known to be in the sink."""
        ...
