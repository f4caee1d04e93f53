"""Reading a thread: hot and cold as one. The buffer is looked at first and the database second.

An entry is removed from the buffer only after the database has it, so whoever looks in this order
finds it in at least one of them. Where an answer depends on several looks, what moved in between is
looked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

from surgetank.buffer.copies import CopyStore, Glance
from surgetank.buffer.log import Log
from surgetank.exceptions import ColdStateUnavailable, DatabaseUnavailable, StateCorrupt
from surgetank.streams.checkpoints.cold.reader import Cold
from surgetank.streams.checkpoints.copies.check import is_stale
from surgetank.streams.checkpoints.copies.layout import Mark
from surgetank.streams.checkpoints.copies.reader import CopiedThread, Copies
from surgetank.streams.checkpoints.envelope import STREAM
from surgetank.streams.checkpoints.heads import KnownHeads
from surgetank.streams.checkpoints.hot import HotThread
from surgetank.streams.checkpoints.listing import Listing
from surgetank.streams.checkpoints.raw import RawCheckpoint, RawWrite, merge_writes
from surgetank.streams.checkpoints.refs import CheckpointRef
from surgetank.streams.checkpoints.steps import Steps

T = TypeVar("T")
_TRIES = 8


@dataclass(frozen=True, slots=True)
class _View:
    """What one snapshot said about a thread, apart from the checkpoint itself."""

    thread_id: str
    ns: str
    deleted: bool
    hidden: tuple[str, ...]
    head: str
    known_cold: bool
    partly_hot: bool
    writes: list[RawWrite]
    glance: Glance  # the thread's copy
    known: bool  # this buffer has seen the thread
    parked: bool = False  # what was found was refused by the sink

    @classmethod
    def at(
        cls,
        hot: HotThread,
        thread_id: str,
        ns: str,
        checkpoint_id: str | None,
        *,
        parked: bool = False,
    ) -> _View:
        partly_hot = hot.has_records()
        return cls(
            thread_id,
            ns,
            hot.cold_is_deleted,
            tuple(hot.hidden(ns)),
            hot.head(ns),
            hot.known_cold(ns),
            partly_hot,
            hot.writes(ns, checkpoint_id) if checkpoint_id is not None else [],
            hot.glance(),
            partly_hot or hot.known_cold(None),
            parked,
        )


class HotCheckpoints(Log, CopyStore, Protocol):
    """What waits of a thread, and the copy of what was flushed."""


class Reader:
    """Reads raw checkpoints from a buffer and a database."""

    def __init__(
        self,
        buffer: HotCheckpoints,
        cold: Cold,
        *,
        unknown_threads: Literal["accept", "refuse"] = "accept",
    ) -> None:
        self._buffer = buffer
        self._cold = cold
        self._refuse_unknown = unknown_threads == "refuse"
        self.heads = KnownHeads()
        self._copies = Copies(buffer)

    def read(
        self,
        thread_id: str,
        ns: str,
        checkpoint_id: str | None,
        channels: Sequence[str] | None = None,
    ) -> Steps[RawCheckpoint | None]:
        """A checkpoint, or the newest of the namespace; None when there is none.

        `channels` limits which values are loaded. Raises `ColdStateUnavailable` when the answer is
        in a database that can't be reached, `StateCorrupt` when one of the values is nowhere.
        """
        wanted = checkpoint_id
        incomplete = False
        for _ in range(_TRIES):
            view, raw = self._hot(thread_id, ns, wanted, channels)
            if raw is not None:
                newer = (yield from self._newer_cold(view, raw)) if wanted is None else None
                if newer is not None:
                    wanted = newer
                    continue
                again = (
                    (yield from self._find_cold(view, raw.checkpoint_id, ()))
                    if view.parked
                    else None
                )
                if again is None or view.deleted:
                    yield from self._complete_hot(view, raw, channels)
                    if not (missing := _missing(raw, channels)):
                        return raw
                    if incomplete:  # it is so at a second look, too
                        raise _damaged(raw, missing)
                    incomplete = True
                    continue
                # Put again after it was refused, and stored: that is what counts now.
                view = replace(view, writes=raw.writes)
                if (yield from self._complete_cold(view, again, channels)):
                    return again
                continue
            if view.deleted or wanted in view.hidden:
                return None
            raw = yield from self._find_cold(view, wanted, channels)
            if raw is None:
                return None
            if wanted is None and view.partly_hot:
                wanted = raw.checkpoint_id  # look again, now also for its hot writes
                continue
            if (yield from self._complete_cold(view, raw, channels)):
                yield from self._keep(view, raw, newest=checkpoint_id is None and channels is None)
                return raw
            wanted = checkpoint_id  # deleted while it was being read: look again
        raise StateCorrupt(
            f"The checkpoint {checkpoint_id or '(newest)'} of {thread_id!r} changed {_TRIES} times "
            f"while it was read.",
            remedy="read again; if it stays so, look for something that deletes the thread over "
            "and over.",
        )

    def _hot(
        self, thread_id: str, ns: str, wanted: str | None, channels: Sequence[str] | None
    ) -> tuple[_View, RawCheckpoint | None]:
        with self._buffer.snapshot() as snapshot:
            hot = HotThread(snapshot, thread_id)
            found = hot.find(ns, wanted)
            if found is None:
                return _View.at(hot, thread_id, ns, wanted), None
            view = _View.at(hot, thread_id, ns, None, parked=found.parked)
            return view, hot.load(ns, found, channels)

    def _newer_cold(self, view: _View, raw: RawCheckpoint) -> Steps[str | None]:
        """The id of a cold checkpoint that is newer than the newest hot one."""
        if view.deleted or raw.checkpoint_id >= view.head:
            return None
        cold = yield from self._find_cold(view, None, ())
        return (
            cold.checkpoint_id
            if cold is not None and cold.checkpoint_id > raw.checkpoint_id
            else None
        )

    def _find_cold(
        self, view: _View, checkpoint_id: str | None, channels: Sequence[str] | None
    ) -> Steps[RawCheckpoint | None]:
        copied, is_current = self._find_copied(view, checkpoint_id, channels)
        if copied is not None:
            try:
                mark: bytes | None = yield partial(self._cold.mark, view.thread_id)
            except DatabaseUnavailable as error:
                if not is_current:
                    raise _unavailable(view.thread_id) from error
                return copied
            if mark == copied.mark:
                return copied
        values = channels is None
        if checkpoint_id is None:
            find = partial(self._cold.latest, view.thread_id, view.ns, view.hidden, values=values)
        else:
            find = partial(
                self._cold.checkpoint, view.thread_id, view.ns, checkpoint_id, values=values
            )
        try:
            raw: RawCheckpoint | None = yield find
        except DatabaseUnavailable as error:
            # A thread that this buffer never flushed is taken for new, so that new runs start in an
            # outage.
            if view.known_cold:
                raise _unavailable(view.thread_id) from error
            if self._refuse_unknown and not view.known:
                raise _unknown(view.thread_id) from error
            return None
        if raw is None and copied is not None:
            gone: set[str] = yield partial(self._cold.deleted, [view.thread_id])
            if gone:  # elsewhere
                yield partial(self._buffer.drop_copies, STREAM, {view.thread_id: copied.mark})
        return raw

    def _find_copied(
        self, view: _View, checkpoint_id: str | None, channels: Sequence[str] | None
    ) -> tuple[RawCheckpoint | None, bool]:
        if view.glance.mark is None:
            return None, False
        with self._buffer.snapshot() as snapshot:
            thread = CopiedThread(snapshot, view.thread_id)
            raw = thread.find(view.ns, checkpoint_id, channels)
            is_current = raw is not None and thread.is_current(view.ns)
        return (
            (raw, is_current)
            if raw is not None and raw.checkpoint_id not in view.hidden
            else (None, False)
        )

    def _keep(self, view: _View, raw: RawCheckpoint, *, newest: bool) -> Steps[None]:
        """Keep what came from the database for when it is away; forget what it says is no longer
        so."""
        if raw.mark is not None:
            self.heads.learn(view.thread_id, Mark.unpack(raw.mark).head)
        if raw.copied:
            if view.glance.stale_use:
                yield partial(self._buffer.use_copy, STREAM, view.thread_id)
        elif view.partly_hot or raw.mark is None:
            return
        elif newest:
            yield partial(self._copies.keep, raw, view.glance)
        elif view.glance.mark is not None and is_stale(view.glance.mark, raw.mark, deleted=False):
            yield partial(self._buffer.drop_copies, STREAM, {view.thread_id: view.glance.mark})

    def _needed(self, view: _View, find: Callable[[], T]) -> Steps[T]:
        """Something that is only in the database and without which the answer would be wrong."""
        try:
            result: T = yield find
        except DatabaseUnavailable as error:
            raise _unavailable(view.thread_id) from error
        return result

    def _cold_blobs(
        self, view: _View, versions: dict[str, str]
    ) -> Steps[dict[str, tuple[str, bytes]]]:
        try:
            found: dict[str, tuple[str, bytes]] = yield partial(
                self._cold.blobs, view.thread_id, view.ns, versions
            )
        except DatabaseUnavailable as error:
            with self._buffer.snapshot() as snapshot:
                found = CopiedThread(snapshot, view.thread_id).blobs(view.ns, versions)
            if len(found) < len(versions):
                raise _unavailable(view.thread_id) from error
        return found

    def _cold_writes(self, view: _View, checkpoint_id: str) -> Steps[list[RawWrite]]:
        try:
            found: list[RawWrite] = yield partial(
                self._cold.writes, view.thread_id, view.ns, checkpoint_id
            )
        except DatabaseUnavailable as error:
            with self._buffer.snapshot() as snapshot:
                thread = CopiedThread(snapshot, view.thread_id)
                copied = (
                    thread.writes(view.ns, checkpoint_id) if thread.is_current(view.ns) else None
                )
            if copied is None:
                raise _unavailable(view.thread_id) from error
            return copied
        return found

    def _complete_hot(
        self, view: _View, raw: RawCheckpoint, channels: Sequence[str] | None
    ) -> Steps[None]:
        """Add what a hot checkpoint has in the database: values that did not change lately, early
        writes."""
        cold_writes: list[RawWrite] = []
        if not view.deleted:
            missing = _missing(raw, channels)
            if missing:
                raw.blobs |= yield from self._cold_blobs(view, missing)
            if raw.checkpoint_id <= view.head:
                cold_writes = yield from self._cold_writes(view, raw.checkpoint_id)
        raw.writes = merge_writes(cold_writes, raw.writes)

    def _complete_cold(
        self, view: _View, raw: RawCheckpoint, channels: Sequence[str] | None
    ) -> Steps[bool]:
        """Add values and hot writes to a cold checkpoint. False when it was deleted meanwhile."""
        if raw.parent_id in view.hidden:
            raw.parent_id = None
        if view.partly_hot:
            with self._buffer.snapshot() as snapshot:  # values of parked entries
                raw.blobs |= HotThread(snapshot, view.thread_id).blobs(
                    view.ns, _missing(raw, channels)
                )
        ref = (view.thread_id, view.ns, raw.checkpoint_id)
        missing = _missing(raw, channels)
        if missing:
            raw.blobs |= yield from self._cold_blobs(view, missing)
            if missing := _missing(raw, channels):
                if not (yield from self._needed(view, partial(self._cold.still_there, *ref))):
                    return False
                raise _damaged(raw, missing)
        raw.writes = merge_writes(raw.writes, view.writes)
        return True

    def keep_ancestors(self, ancestors: Sequence[RawCheckpoint], seen: Glance) -> Steps[None]:
        """Keep what DeltaChannels were rebuilt from, nearest first, for when the database is
        away."""
        if seen.mark is not None and any(not raw.copied for raw in ancestors):
            first = ancestors[0]
            yield partial(
                self._copies.keep_ancestors, first.thread_id, first.checkpoint_ns, ancestors, seen
            )

    def glance(self, thread_id: str) -> Glance:
        """What is known of a thread's copy."""
        with self._buffer.snapshot() as snapshot:
            return snapshot.copy(STREAM, thread_id)

    # -- listing

    def read_ahead(
        self, thread_id: str, ns: str, ids: Sequence[str]
    ) -> Steps[dict[str, RawCheckpoint]]:
        """Several checkpoints of a thread that is in the database only; empty when it isn't, or
        can't be reached.

        What is not in the answer has to be read singly.
        """
        with self._buffer.snapshot() as snapshot:
            if HotThread(snapshot, thread_id).has_records():
                return {}
        try:
            found: dict[str, RawCheckpoint] = yield partial(self._cold.many, thread_id, ns, ids)
        except (DatabaseUnavailable, StateCorrupt):  # told where the one is read that it is about
            return {}
        for raw in found.values():
            raw.writes = merge_writes(raw.writes, [])
        return {
            checkpoint_id: raw for checkpoint_id, raw in found.items() if not _missing(raw, None)
        }

    def start_listing(self, thread_id: str | None, ns: str | None, before: str | None) -> Listing:
        """The hot places of a listing; its cold pages are still to be added."""
        listing = Listing(thread_id, ns, before, known_cold=thread_id is None)
        with self._buffer.snapshot() as snapshot:
            for name in [thread_id] if thread_id is not None else snapshot.partitions(STREAM):
                thread = HotThread(snapshot, name)
                listing.hot += [
                    (cid, name, n) for n, cid in thread.ids(ns) if before is None or cid < before
                ]
                if thread.cold_is_deleted:
                    listing.deleted.add(name)
                listing.known_cold = listing.known_cold or thread.known_cold(ns)
        listing.hot.sort(reverse=True)
        return listing

    def add_page(self, listing: Listing, metadata: Mapping[str, Any] | None) -> Steps[None]:
        """Fetch the next cold page of a listing. `metadata` narrows it where SQL can tell."""
        if listing.thread_id in listing.deleted:
            listing.take([], last=True)
            return
        fetch = partial(
            self._cold.page,
            listing.thread_id,
            listing.ns,
            before=listing.before,
            metadata=metadata,
            last=listing.last_cold,
            limit=self._cold.page_size,
        )
        try:
            page: list[CheckpointRef] = yield fetch
        except DatabaseUnavailable as error:
            if listing.known_cold:
                raise _unavailable(listing.thread_id or "all threads") from error
            if self._refuse_unknown and not listing.hot:
                raise _unknown(listing.thread_id or "") from error
            page = []
        listing.take(page, last=len(page) < self._cold.page_size)


def _missing(raw: RawCheckpoint, channels: Sequence[str] | None) -> dict[str, str]:
    """Versions of values that belong to the checkpoint and are not loaded yet."""
    return {
        channel: version
        for channel, version in raw.versions().items()
        if channel not in raw.blobs and (channels is None or channel in channels)
    }


def _unknown(thread_id: str) -> ColdStateUnavailable:
    return ColdStateUnavailable(
        f"This buffer has never seen the thread {thread_id!r}, and the database, which may have "
        f"it, can't be reached.",
        remedy="try again when the database is back; with SURGETANK_UNKNOWN_THREADS=accept such a "
        "thread is taken for "
        "new.",
    )


def _damaged(raw: RawCheckpoint, missing: Mapping[str, str]) -> StateCorrupt:
    channel, version = next(iter(missing.items()))
    return StateCorrupt(
        f"The checkpoint {raw.checkpoint_id} of {raw.thread_id!r} has no value for its channel "
        f"{channel!r}"
        f" (version {version}): it was pruned, or lost.",
        remedy="go on from another checkpoint of the thread, or delete the thread; nothing is "
        "filled in.",
        thread_id=raw.thread_id,
        channel=channel,
    )


def _unavailable(thread_id: str) -> ColdStateUnavailable:
    return ColdStateUnavailable(
        f"Part of {thread_id!r} is only in the database, which can't be reached; nothing is lost.",
        remedy="try again when the database is back (`surgetank doctor` says what is wrong with "
        "it); "
        "new threads and running graphs go on meanwhile.",
    )
