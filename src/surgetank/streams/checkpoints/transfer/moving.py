"""What imports and exports share: wishes, Surgetank's own side, and when two checkpoints
are the same."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import ormsgpack

from surgetank.buffer.coordination import Backlog, Parking
from surgetank.buffer.copies import CopyStore
from surgetank.buffer.log import Log
from surgetank.database.pool import Database
from surgetank.encode.equality import difference
from surgetank.exceptions import BrokenRow, InvalidRequest, TransferStopped
from surgetank.model import FlushJob
from surgetank.streams.checkpoints.cold.reader import ColdReader
from surgetank.streams.checkpoints.envelope import STREAM
from surgetank.streams.checkpoints.maintenance import Maintenance
from surgetank.streams.checkpoints.raw import RawCheckpoint
from surgetank.streams.checkpoints.reader import Reader
from surgetank.streams.checkpoints.refs import LocalRef, ParentedRef
from surgetank.streams.checkpoints.serde.serializer import FaithfulSerializer
from surgetank.streams.checkpoints.steps import run
from surgetank.streams.checkpoints.transfer.journal import Journal
from surgetank.streams.checkpoints.transfer.official_rows import each_write
from surgetank.streams.checkpoints.transfer.report import Report

_serde = FaithfulSerializer()
OnError = Literal["stop", "skip"]


class MovedThrough(Log, CopyStore, Backlog, Parking, Protocol):
    """What threads are moved through, and watched while they are flushed."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a move is to be done."""

    threads: Sequence[str] = ()
    on_error: OnError = "stop"
    dry_run: bool = False
    replace: bool = False  # threads that are in both are deleted in the target first
    progress: Callable[[Report, int, int], None] = lambda *_: None


@dataclass(slots=True)
class OurStore:
    """Surgetank's own side."""

    buffer: MovedThrough
    database: Database
    flush: Callable[[], FlushJob]
    cold: ColdReader = field(init=False)
    reader: Reader = field(init=False)
    maintenance: Maintenance = field(init=False)

    def __post_init__(self) -> None:
        self.cold = ColdReader(self.database)
        self.reader = Reader(self.buffer, self.cold)
        self.maintenance = Maintenance(self.buffer, self.cold, self.reader)

    def threads(self) -> list[str]:
        """All threads, hot and cold."""
        with self.buffer.snapshot() as snapshot:
            hot = snapshot.partitions(STREAM)
        return sorted({*hot, *self.cold.threads()})

    def refs(self, thread_id: str) -> list[LocalRef]:
        """Namespace and id of a thread's checkpoints."""
        return [(ns, cid) for _, ns, cid in run(self.maintenance.refs(thread_id))]

    def read(self, thread_id: str, ns: str, checkpoint_id: str) -> RawCheckpoint | None:
        """One checkpoint with values and writes."""
        return run(self.reader.read(thread_id, ns, checkpoint_id))

    def must_flush(self, threads: Collection[str]) -> None:
        """Flush what waits. Raises `TransferStopped` when something of these threads is refused or
        fails."""
        last = self.buffer.last_seq(STREAM)
        job = self.flush()
        if job.ok:
            return
        left = set(self.buffer.waiting(STREAM, up_to_seq=last)) | {
            p.partition for p in self.buffer.parked()
        }
        if left.isdisjoint(threads):
            return  # it is about somebody else's threads
        deviation = "; ".join(job.warnings) or job.result.message or job.status.value
        raise TransferStopped(
            f"The flush failed: {deviation[:600]}",
            remedy="what was imported is safe in the buffer; mend the cause (`surgetank doctor`) "
            "and start again.",
        )


class Move:
    """What both directions share: which threads, what to do about what can't be moved, and the
    journal."""

    def __init__(self, report: Report, wishes: Wishes, journal: Journal) -> None:
        self.report = report
        self.wishes = wishes
        self.journal = journal
        report.dry_run, report.resumed = wishes.dry_run, journal.resumed
        self._at = self._of = 0
        self._started = time.monotonic()

    def chosen(self, there: Sequence[str]) -> list[str]:
        """The wished threads, or all. Raises `InvalidRequest` for one that isn't there."""
        missing = set(self.wishes.threads) - set(there)
        if missing:
            raise InvalidRequest(
                f"There is no thread {min(missing)!r} in {self.report.source}.",
                remedy="check the thread's id.",
            )
        return sorted(self.wishes.threads) if self.wishes.threads else list(there)

    @contextmanager
    def tolerant(self) -> Iterator[None]:
        """Skip and list what can't be moved, or stop at it, as wished."""
        try:
            yield
        except BrokenRow as error:
            if self.wishes.on_error == "stop":
                raise TransferStopped(
                    error.what,
                    remedy=error.remedy
                    or "--on-error skip lists such checkpoints and goes on; what was moved stays "
                    "moved.",
                ) from error
            self.report.skip(error)

    def tell(self, at: int | None = None, of: int | None = None) -> None:
        """Say how far it is, in threads."""
        self._at, self._of = self._at if at is None else at, self._of if of is None else of
        self.report.seconds = round(time.monotonic() - self._started, 3)
        self.wishes.progress(self.report, self._at, self._of)


def digest(raw: RawCheckpoint) -> bytes:
    """Of all that a checkpoint holds, byte by byte: what gives the same is the same."""
    record = raw.record
    parts = (
        raw.parent_id,
        record.structure,
        sorted(record.present),
        record.metadata_type,
        record.metadata,
        sorted((c, t, d) for c, (t, d) in raw.blobs.items()),
        sorted(each_write(raw)),
    )
    return hashlib.blake2b(ormsgpack.packb(parts), digest_size=16).digest()


def compare(expected: RawCheckpoint, found: RawCheckpoint | None) -> str | None:
    """Where two checkpoints differ in value or type; None when they are the same."""
    if found is None:
        return "it is missing"
    if expected.parent_id != found.parent_id:
        return "$.parent: another one"
    deviation = difference(expected.structure, found.structure)
    deviation = deviation or difference(
        _metadata(expected), _metadata(found), "$.metadata", json_like=True
    )
    deviation = deviation or difference(
        sorted(expected.blobs), sorted(found.blobs), "$.channel_values"
    )
    deviation = deviation or difference(
        [w[:4] for w in each_write(expected)], [w[:4] for w in each_write(found)], "$.writes"
    )
    if deviation is not None:
        return deviation
    for channel, typed in expected.blobs.items():
        if (
            deviation := _differ(typed, found.blobs[channel], f"$.channel_values.{channel}")
        ) is not None:
            return deviation
    for a, b in zip(each_write(expected), each_write(found), strict=True):
        if (deviation := _differ((a[4], a[5]), (b[4], b[5]), f"$.writes.{a[3]}")) is not None:
            return deviation
    return None


def _metadata(raw: RawCheckpoint) -> object:
    return _serde.loads_typed((raw.record.metadata_type, raw.record.metadata))


def _differ(expected: tuple[str, bytes], found: tuple[str, bytes], path: str) -> str | None:
    """Equal in bytes is equal; else the values are compared."""
    if expected == found:
        return None
    if "+" in expected[0] + found[0]:
        return f"{path}: other encrypted bytes"
    return difference(_serde.loads_typed(expected), _serde.loads_typed(found), path)


def state_of(refs: Sequence[ParentedRef], writes: int) -> str:
    """What a thread looks like from outside: its places and the number of its writes, as a
    digest."""
    text = "\n".join(
        f"{ns}\0{cid}" for ns, cid, _ in sorted((ns, cid, None) for ns, cid, _ in refs)
    )
    return hashlib.blake2b(f"{writes}\n{text}".encode(), digest_size=16).hexdigest()
