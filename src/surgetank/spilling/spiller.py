"""Spilling: what fails for long or fills the buffer moves to the fallback location; what was
flushed is deleted there.

One step is: lease, read, announce a file, write it whole, then put places in the values' stead.
Killed in between, it leaves a file that nothing refers to, which is deleted after a while. All work
is done in steps on the flushing thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from surgetank.buffer.coordination import Leases, ReadFrom
from surgetank.buffer.spilling import SpillDue, Spilling, ToSpill
from surgetank.exceptions import (
    ConfigurationError,
    EntryUnreadable,
    FallbackUnavailable,
    LeaseLost,
    SurgetankError,
)
from surgetank.fallback.codec import FileHeader, FileWriter, SpilledEntry
from surgetank.flush.policy import SpillPolicy, is_relieving
from surgetank.model import Entry, Lease

_STUBBED_AT_ONCE = 500  # entries in one transaction, which holds up writers
_ENTRIES_PER_FILE = 100_000


@dataclass(frozen=True, slots=True)
class Spilled:
    """What a step moved out of the buffer."""

    files: int = 0
    entries: int = 0
    bytes: int = 0
    reasons: frozenset[str] = frozenset()

    def __add__(self, other: Spilled) -> Spilled:
        return Spilled(
            self.files + other.files, self.entries + other.entries, self.bytes + other.bytes,
            self.reasons | other.reasons,
        )  # fmt: skip


@dataclass(slots=True)
class _Batch:
    """What goes into one file."""

    parts: list[tuple[Lease, list[Entry]]] = field(default_factory=list)
    placed: list[tuple[Lease, list[SpilledEntry]]] = field(default_factory=list)
    size: int = 0

    @property
    def leases(self) -> list[Lease]:
        return [lease for lease, _ in self.parts]


class SpillingBuffer(Spilling, Leases, Protocol):
    """A buffer whose values can be spilled, under leases."""


class Spiller:
    """Spills a buffer's streams by a policy. `on_problem` is told what could not be done; it is
    tried again."""

    def __init__(
        self,
        buffer: SpillingBuffer,
        streams: Sequence[str],
        policy: SpillPolicy,
        *,
        clock: Callable[[], float],
        node: str,
        ttl_s: float,
        on_problem: Callable[[SurgetankError], None],
    ) -> None:
        self._buffer = buffer
        self._streams = tuple(streams)
        self._policy = policy
        self._clock = clock
        self._node = node
        self._ttl_s = ttl_s
        self._on_problem = on_problem
        self._relieving = self._prepared = False
        self._paused_at = self._checked_at = self._left_at = float("-inf")

    def step(self, down: Collection[str]) -> Spilled:
        """Spill what is due, for a while; delete files that were drained. `down`: streams whose
        sink is away.

        Raises only what the buffer itself raises.
        """
        done = Spilled()
        now = self._clock()
        if 0 <= now - self._paused_at < self._policy.pause_s:
            return done
        try:
            if not self._prepared and self._buffer.files.address is not None:
                self._buffer.files.store().prepare()  # a wrong location is told now, not in the outage
                self._prepared = True
            self._clean(now)
            for stream, due, reason in self._due(down, now):
                while self._wanted(reason) and 0 <= self._clock() - now < self._policy.step_s:
                    spilled = self.spill(stream, due)
                    if spilled is None:
                        break
                    done += replace(spilled, reasons=frozenset((reason,)))
        except SurgetankError as error:
            self._paused_at = self._clock()
            self._on_problem(error)
        return done

    def _due(self, down: Collection[str], now: float) -> Iterator[tuple[str, SpillDue, str]]:
        if self._buffer.files.address is None:
            return
        interval_s = min(5.0, self._policy.after_s / 4)
        if not 0 <= now - self._checked_at < interval_s:
            self._checked_at = now
            for stream in self._streams:
                yield stream, SpillDue(now - self._policy.after_s, stream in down), "failing"
        for stream in self._streams:
            yield stream, SpillDue(), "full"

    def _wanted(self, reason: str) -> bool:
        if reason == "full":
            self._relieving = is_relieving(
                self._policy, self._buffer.fill(), before=self._relieving
            )
            return self._relieving
        return True

    def spill(self, stream: str, due: SpillDue) -> Spilled | None:
        """Write one file; None when nothing is due. Raises `FallbackUnavailable`,
        `ConfigurationError`."""
        store = self._buffer.files.store()
        chosen = self._buffer.lease_to_spill(stream, due, owner=self._node, ttl_s=self._ttl_s)
        if not chosen:
            return None
        try:
            store.prepare()
            batch = self._read(chosen)
            return self._move(stream, batch) if batch.parts else None
        finally:
            self._buffer.release([x.leased.lease for x in chosen])

    def _read(self, chosen: Sequence[ToSpill]) -> _Batch:
        batch, count = _Batch(), 0
        for leased, after_seq in chosen:
            room = self._policy.file_bytes - batch.size
            if room <= 0 or count >= _ENTRIES_PER_FILE:
                break
            most = _ENTRIES_PER_FILE - count
            try:
                (entries,) = self._buffer.read_many(
                    [ReadFrom(leased.lease, after_seq)],
                    share_entries=most, share_bytes=room, max_entries=most, max_bytes=room,
                )  # fmt: skip
            except EntryUnreadable:
                # an entry that was spilled before and set aside meanwhile: its flush tells of it
                continue
            if entries:
                batch.parts.append((leased.lease, entries))
                batch.size += sum(entry.size for entry in entries)
                count += len(entries)
        return batch

    def _move(self, stream: str, batch: _Batch) -> Spilled:
        header = self._buffer.begin_spill(stream, node=self._node)
        writer = FileWriter(header)
        try:
            self._buffer.files.store().write(header.name, self._pieces(writer, batch))
        except BaseException:
            # nothing refers to it: what was written of it is deleted
            self._buffer.keep_spill(header, 0)
            raise
        try:
            entries = sum(self._put_refs(header, lease, placed) for lease, placed in batch.placed)
            self._buffer.keep_spill(header, writer.offset)
        except LeaseLost:  # given up meanwhile, and perhaps deleted before it was complete
            if header.number not in {file.number for file in self._buffer.spill_files()}:
                self._buffer.files.store().delete(header.name)
            raise
        return Spilled(1, entries, writer.offset)

    def _pieces(self, writer: FileWriter, batch: _Batch) -> Iterator[bytes]:
        """The file's bytes; the leases are renewed while it is written."""
        renewed_at = self._clock()
        yield from writer.start
        for lease, entries in batch.parts:
            placed: list[SpilledEntry] = []
            batch.placed.append((lease, placed))
            for entry in entries:
                pieces, refs = writer.entry(entry)
                yield from pieces
                placed.append(SpilledEntry(entry, refs))
                if self._clock() - renewed_at > self._ttl_s / 3:
                    self._buffer.renew(batch.leases, ttl_s=self._ttl_s)
                    renewed_at = self._clock()
        yield from writer.end()
        self._buffer.renew(batch.leases, ttl_s=self._ttl_s)

    def _put_refs(self, header: FileHeader, lease: Lease, placed: Sequence[SpilledEntry]) -> int:
        """How many entries were moved: all, or those up to where the lease was lost."""
        for start in range(0, len(placed), _STUBBED_AT_ONCE):
            if not self._buffer.stub(header, lease, placed[start : start + _STUBBED_AT_ONCE]):
                return start
        return len(placed)

    def _clean(self, now: float) -> None:
        """A former location that is away holds nothing back: its files wait until it is there."""
        if 0 <= now - self._left_at < self._policy.pause_s:
            return
        try:
            self.clean()
        except SurgetankError as error:
            self._left_at = self._clock()
            self._on_problem(error)

    def clean(self) -> int:
        """Delete the files that nothing refers to; returns how many. Raises
        `FallbackUnavailable`, after those that could be deleted."""
        drained = self._buffer.drained_spills(silent_s=self._policy.silent_s)
        away: dict[str, SurgetankError] = {}
        for file in drained:
            if file.address in away:
                continue
            try:
                self._buffer.files.store(file.address).delete(file.name)
            except (FallbackUnavailable, ConfigurationError) as error:
                away[file.address] = error
            else:
                self._buffer.forget_spill(file.number)
        if away:
            raise next(iter(away.values()))
        return len(drained)
