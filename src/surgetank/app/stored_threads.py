"""Threads as they are stored, without deserializing what they hold: hot and cold as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from surgetank.exceptions import ColdStateUnavailable
from surgetank.streams.checkpoints.listing import Listing
from surgetank.streams.checkpoints.raw import RawCheckpoint
from surgetank.streams.checkpoints.reader import Reader
from surgetank.streams.checkpoints.refs import CheckpointRef
from surgetank.streams.checkpoints.steps import run


class StoredThreads:
    """Reads checkpoints on the caller's thread. Methods raise `ColdStateUnavailable` when the
    answer is in a database that can't be reached, `StateCorrupt` when a value is nowhere."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def read(
        self,
        thread_id: str,
        ns: str = "",
        checkpoint_id: str | None = None,
        *,
        channels: Sequence[str] | None = None,
    ) -> RawCheckpoint | None:
        """A checkpoint, or the newest of the namespace; None when there is none. `channels` limits
        which values are loaded."""
        return run(self._reader.read(thread_id, ns, checkpoint_id, channels))

    def history(
        self,
        thread_id: str,
        ns: str | None = "",
        *,
        before: str | None = None,
        limit: int = 20,
        channels: Sequence[str] | None = None,
    ) -> History:
        """The newest checkpoints of a namespace, or of all (None), those before an id, at most
        `limit`."""
        listing = self._reader.start_listing(thread_id, ns, before)
        return History(self._reader, listing, limit, channels)

    def hot_history(
        self,
        thread_id: str,
        ns: str | None = "",
        *,
        limit: int = 20,
        channels: Sequence[str] | None = None,
    ) -> list[RawCheckpoint]:
        """The same of what waits in the buffer, without what needs a database that can't be
        reached."""
        listing = self._reader.start_listing(thread_id, ns, None)
        listing.take([], last=True)
        found = list[RawCheckpoint]()
        while len(found) < limit and (ref := listing.pop()) is not None:
            with suppress(ColdStateUnavailable):
                raw = run(self._reader.read(*ref, channels))
                if raw is not None:
                    found.append(raw)
        return found


class History:
    """Checkpoints, newest first, each read when it is its turn. After the last one `more` says
    whether the thread has older ones."""

    def __init__(
        self, reader: Reader, listing: Listing, limit: int, channels: Sequence[str] | None
    ) -> None:
        self._reader = reader
        self._listing = listing
        self._limit = limit
        self._channels = channels
        self.more = False

    def __iter__(self) -> Iterator[RawCheckpoint]:
        given = 0
        while (ref := self._next()) is not None:
            if given == self._limit:
                self.more = True
                return
            raw = run(self._reader.read(*ref, self._channels))
            if raw is not None:  # not deleted meanwhile
                given += 1
                yield raw

    def _next(self) -> CheckpointRef | None:
        while self._listing.needs_page:
            run(self._reader.add_page(self._listing, None))
        return self._listing.pop()
