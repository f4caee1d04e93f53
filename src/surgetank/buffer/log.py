"""The log: entries are accepted, and found by key until they are flushed. What writers and readers of
a stream need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from surgetank.buffer.copies import Glance
from surgetank.buffer.identity import Identified
from surgetank.buffer.tallies import Tally
from surgetank.model import Record


@dataclass(frozen=True, slots=True)
class Found:
    """One hot record found by key. `parked` tells that the sink refused it."""

    key: bytes
    seq: int
    value: bytes
    parked: bool
    epoch: int = 0


class Snapshot(Protocol):
    """A consistent view of each partition's hot records; short-lived. Of several partitions it may
    show different moments, each after the snapshot was begun."""

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
        """What is counted of a stream and was not sent yet (`Tallies.tally`)."""
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


# Is shown the partition just before an append: None accepts, passing notes refuse and are kept
# instead.
Guard = Callable[[Snapshot], Mapping[bytes, bytes] | None]


class Log(Identified, Protocol):
    """An ordered log of entries per partition, with a lookup by key over what was not flushed.

    - **Durability**: when `append` returned, the entry survives the kill of any process
      (`process`), or a power cut as well (`power`). When it raised, nothing of the entry was
      accepted.
    - **Order**: the `seq` of an entry is larger than those of all entries before it in its
      partition, and no other entry of the buffer has it. It is never given again; if the contents
      went back in time (a restored file, a copied machine), never together with the same epoch.
    - **Visibility**: an accepted entry is visible to every process on the buffer at once, and stays
      so until it is acknowledged. Parked entries stay visible.
    - **Limits**: at its limit of bytes or entries `append` waits and then raises, or raises at
      once.
    - **Fences**: an append may carry the fence of its writer, a number that grows whenever the
      partition gets another writer. The highest one is kept, as durable as entries are; an append
      with a lower one is refused with `LeaseLost`, whichever process it comes from and whatever
      became of the entries. Appends without a fence are never refused for it.
    - **Damage**: a record that the storage changed or lost is found when it is read, and raised as
      `BufferCorrupt` with what is affected. It is never given as if it were what was accepted. Once
      it is parked, `scan` and `last` leave it out; all else can be used.
    - **Storage**: a buffer whose storage was taken away (its file deleted) accepts nothing more.
      What it holds can be read and flushed by those that have it open.
    """

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
        fence: int | None = None,
        tenant: str = "",
    ) -> int:
        """Accept one entry, whole or not at all, and return its `seq`.

        `start_guarding` is for an entry that deletes what its partition held: parked entries of the
        partition are removed in the same step, and from then on `guard` is asked, in the same
        transaction, whether an append still belongs to something that lives. 0 is returned for what
        a guard refused, and what it raises is raised. `ask_guards` only asks guards from then on.
        With `wait` false a full buffer raises at once. `tenant` says whose partition it is from now on
        (empty: as it was): tenants take turns at being leased.

        Raises `BufferFull`, `BufferUnavailable`, `EntryRejected`, `LeaseLost` for a `fence` that is
        lower than one seen before.
        """
        ...

    def try_append(
        self,
        stream: str,
        partition: str,
        records: Sequence[Record],
        *,
        guard: Guard | None = None,
        fence: int | None = None,
        tenant: str = "",
    ) -> int | None:
        """`append` for an event loop: None, and nothing accepted, where it would have to wait
        longer than some milliseconds for another thread or process that holds the buffer, or at all
        for a network. Then `append` on a thread.

        Raises `BufferFull` at once, `BufferUnavailable`, `EntryRejected`, `LeaseLost`.
        """
        ...

    def raise_fence(self, stream: str, partition: str, fence: int) -> None:
        """Refuse older writers of a partition from now on. What they had written until then is
        visible to who calls this, and nothing that they write later ever is.

        Fences are kept for 30 days, those of the 200,000 partitions that changed their writer last.
        Raises `LeaseLost` when the partition has a newer writer, `BufferUnavailable`.
        """
        ...

    def try_raise_fence(self, stream: str, partition: str, fence: int) -> bool:
        """`raise_fence` for an event loop: False, and nothing done, where another thread or process
        holds the buffer, or a network is in between. Then `raise_fence` on a thread."""
        ...

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """A consistent view for lookups by key."""
        ...
