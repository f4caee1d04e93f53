"""`tank.moving`: what waits in another buffer comes into this one, entry by entry, each once.

An entry is taken over first and removed from the other buffer then, so that it is always in one of the two. It
is known by the buffer that it was accepted in, its epoch and its number: what is repeated after a kill is
found to be here already. From the first step on the other buffer belongs to no database, so that nobody
flushes it meanwhile; what is accepted there by mistake waits there, and comes with the next move.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from surgetank.app.backends import AnyBuffer, open_buffer
from surgetank.app.workers import Workers
from surgetank.buffer.binding import Binding
from surgetank.buffer.coordination import Due, Leased, ReadFrom
from surgetank.exceptions import Conflict, EntryUnreadable, NotFound
from surgetank.fallback.codec import FileHeader, SpilledEntry
from surgetank.model import Entry, Failure, FailureKind, Lease
from surgetank.settings import Settings
from surgetank.spilling.recovery import DeletedAt, elsewhere_of
from surgetank.streams.checkpoints.cold.deleted import deleted_at
from surgetank.streams.checkpoints.envelope import STREAM as CHECKPOINTS
from surgetank.streams.errors.groups import STREAM as ERRORS
from surgetank.streams.errors.store import counted_record

if TYPE_CHECKING:
    from surgetank.app.assembly import Parts

_PARTITIONS = 100  # that are leased at once
_ENTRIES, _BYTES = 500, 8 * 1024**2
_PAUSE_S, _PATIENCE_S = 0.2, 5.0
_MOVED = "moved"  # in the stead of the id of a database
_GONE = Failure(FailureKind.REJECTED, "It was taken over by another buffer.", "Moved")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of the entries of the other buffer: taken over, known already, or left out because their
    thread was deleted.

    `parked`: entries that had been refused, which are tried again. `jobs`: records of flushes that were copied.
    `left`: partitions of which something can't be read, as `stream/partition: why`; they stay where they are.
    """

    entries: int = 0
    known: int = 0
    deleted: int = 0
    parked: int = 0
    jobs: int = 0
    left: tuple[str, ...] = ()


class Moving:
    """Moves into the buffer of an engine."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __call__(self, url: str, *, progress: Progress = lambda *_: None) -> Moved:
        """Take over all that waits in the buffer at `url`. `progress` is called with how many entries are done,
        and how many there are. Can be interrupted and repeated.

        Raises `NotFound` where there is no buffer, `Conflict` while processes use one of the two or when they
        belong to different databases, `DatabaseUnavailable` (it knows what was written already), `BufferFull`.
        """
        settings = self._parts.settings.model_copy(update={"buffer_url": SecretStr(url)})
        if not settings.buffer_exists:
            raise NotFound(f"There is no buffer at {settings.buffer_name}.", remedy="check --from.")
        if not settings.buffer_is_shared and (holder := _holder(settings.buffer_path)):
            raise _in_use(settings, [f"process {holder}"])
        with closing(open_buffer(settings, self._parts.clock, self._parts.streams)) as source:
            return _Move(self._parts, source, settings, progress).run()


class _Move:
    def __init__(
        self, parts: Parts, source: AnyBuffer, settings: Settings, progress: Progress
    ) -> None:
        self._parts = parts
        self._source = source
        self._target = parts.buffer
        self._settings = settings  # those of the source
        self._progress = progress
        self._ttl_s = parts.settings.lease_ttl
        self._total = 0
        self._moved = Moved()

    def run(self) -> Moved:
        source, target = self._source, self._target
        if source.id == target.id:
            raise Conflict(
                f"Both addresses lead to the buffer {target.name}.", remedy="name another one."
            )
        self._check_alone()
        self._bind()
        parked = source.parked()
        # Taken over, and not removed any more before a kill.
        source.discard_parked([p.id for p in parked if p.failure.error_type == _GONE.error_type])
        left = [p.id for p in parked if p.failure.error_type != _GONE.error_type]
        source.unpark(left)
        source.send_tallies(ERRORS, counted_record, older_s=0.0)
        depth = source.depth()
        self._total = depth.entries
        self._moved = Moved(parked=len(left))
        for stream in depth.streams:
            self._move_stream(stream.stream)
        return replace(self._moved, jobs=self._copy_jobs())

    def _check_alone(self) -> None:
        workers = Workers(self._parts.database, self._parts.presence)()
        for buffer_id in (self._source.id, self._target.id):
            alive = [w for w in workers if w.buffer_id == buffer_id and w.state != "silent"]
            if alive:
                raise _in_use(self._settings, [f"{w.node} ({', '.join(w.roles)})" for w in alive])

    def _bind(self) -> None:
        """The target belongs to the source's database, and the source to none."""
        source, target = self._source.binding(), self._target.binding()
        if source is not None and source.database_id != _MOVED:
            known = target is not None and target.database_id not in (None, _MOVED)
            if known and source.database_id is not None:
                assert target is not None
                if source.database_id != target.database_id:
                    raise Conflict(
                        f"The two buffers belong to different databases ({source.address}, {target.address}).",
                        remedy="move into a buffer of the same database, or a new one.",
                    )
            elif not known:
                self._target.bind(source)
        self._source.bind(Binding(f"(moved to {self._target.name})", _MOVED))

    def _move_stream(self, stream: str) -> None:
        unreadable, until = set[str](), time.monotonic() + self._ttl_s + _PATIENCE_S
        while True:
            due = Due(force=True, limit=_PARTITIONS + len(unreadable))
            leased = self._source.lease(stream, due, owner=self._settings.node, ttl_s=self._ttl_s)
            fresh = [x for x in leased if x.lease.partition not in unreadable]
            try:
                for each in fresh:
                    if not self._move_partition(each):
                        unreadable.add(each.lease.partition)
            finally:
                self._source.release([x.lease for x in leased])
            if fresh:
                continue
            last = self._source.last_seq(stream)
            held = set(self._source.waiting(stream, up_to_seq=last)) - unreadable
            if not held:
                return
            if time.monotonic() > until:
                raise _in_use(self._settings, [f"whoever flushes {min(held)!r}"])
            time.sleep(_PAUSE_S)  # leases of somebody who was killed run out

    def _move_partition(self, leased: Leased) -> bool:
        """False when something of it can't be read."""
        lease = leased.lease
        while True:
            try:
                (entries,) = self._source.read_many(
                    [ReadFrom(lease)], share_entries=_ENTRIES, share_bytes=_BYTES,
                    max_entries=_ENTRIES, max_bytes=_BYTES,
                )  # fmt: skip
            except EntryUnreadable as error:
                unread = f"{lease.stream}/{lease.partition}: {error.what}"
                self._moved = replace(self._moved, left=(*self._moved.left, unread))
                return False
            if not entries:
                return True
            self._take_over(lease.stream, lease.partition, entries)
            if not self._source.renew([lease], ttl_s=self._ttl_s):
                return True  # it ran out: what is left has another turn
            self._remove(lease, entries)
            moved = self._moved
            self._progress(moved.entries + moved.known + moved.deleted, self._total)

    def _remove(self, lease: Lease, entries: Sequence[Entry]) -> None:
        """Not by an acknowledgement: that would say that a sink has them."""
        self._source.discard_parked([self._remove_one(lease, entry.seq) for entry in entries])

    def _remove_one(self, lease: Lease, seq: int) -> int:
        return self._source.park(lease, seq, _GONE).id

    def _take_over(self, stream: str, partition: str, entries: Sequence[Entry]) -> None:
        header = FileHeader(
            id=uuid.uuid4().hex, buffer_id=self._source.id, number=0, stream=stream,
            node=self._settings.node, created_at=self._parts.clock(),
        )  # fmt: skip
        elsewhere = elsewhere_of(
            self._parts.database, self._deleted_at(stream), self._source.id, stream, [partition]
        )
        moving = [SpilledEntry(entry, ()) for entry in entries]
        found = self._target.take_over(0, header, moving, elsewhere)
        moved = self._moved
        self._moved = replace(
            moved,
            entries=moved.entries + found.entries,
            known=moved.known + found.known,
            deleted=moved.deleted + found.deleted,
        )

    def _deleted_at(self, stream: str) -> DeletedAt | None:
        if stream != CHECKPOINTS:
            return None
        return partial(deleted_at, self._target, self._parts.database)

    def _copy_jobs(self) -> int:
        known = {job.id for job in self._target.jobs(limit=self._settings.jobs_kept)}
        jobs = [j for j in self._source.jobs(limit=self._settings.jobs_kept) if j.id not in known]
        for job in reversed(jobs):
            self._target.save_job(job)
        return len(jobs)


def _in_use(settings: Settings, by: Sequence[str]) -> Conflict:
    return Conflict(
        f"A buffer that is to be moved is in use, by {', '.join(by[:5])}.",
        remedy="stop all servers, workers and applications that use one of the two buffers, then move "
        f"{settings.buffer_name} again: what was moved stays moved. See `surgetank workers`.",
    )


# SQLite holds a lock of bytes of the file for as long as a connection to it is open. Asked in a process of its own:
# whoever closes a file loses all its locks of it (POSIX), also those of SQLite.
_ASK = """
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR)
asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0x40000002, 510, 0)
kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, asked))
print(pid if kind != fcntl.F_UNLCK else 0)
"""


def _holder(path: Path) -> int:
    """A process that has the file of a buffer open; 0: none, or that can't be told here."""
    if not sys.platform.startswith("linux"):
        return 0
    asked = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-c", _ASK, str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return int(asked.stdout) if asked.returncode == 0 and asked.stdout.strip().isdigit() else 0
