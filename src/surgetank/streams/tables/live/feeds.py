"""The newest changes of tables that somebody follows: read once per process, shared by all who follow.

One thread reads while there are followers. A feed keeps changes for a while, bounded by their number, bytes and age,
also those that were flushed since. What it could not see, or has forgotten, its followers are told of: `since` says
from which version on a feed has everything.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute

from surgetank.streams.tables.definition import USER, Table
from surgetank.streams.tables.hot.protocol import (
    ORIGIN_SHIFT,
    VERSION,
    HotSnapshot,
    HotTables,
)
from surgetank.telemetry import log

pc: Any = pyarrow.compute  # its functions are made when it is imported
_POLL_S = 0.005
_AFTER_FAILURE_S = 0.25
_AT_ONCE = 20_000  # versions of one step
_MOST_CHANGES = 50_000  # that a feed keeps
_MOST_BYTES = 128 * 1024**2  # of all feeds
_MOST_AGE_S = 60.0
_ALL_AT_ONCE = 16  # users of one table, above which all of its changes are read together

Key = tuple[int, str | None]


@dataclass(slots=True)
class _Batch:
    rows: pa.Table  # in order of version
    last: int
    at: float


@dataclass(slots=True)
class Feed:
    """The changes of one table, of one user or of all. All after `since` up to `through` are in
    it."""

    table: Table
    user: str | None
    since: int
    through: int
    followers: int = 0
    left_at: float = 0.0
    batches: deque[_Batch] = field(default_factory=deque)
    changes: int = 0
    bytes: int = 0

    @property
    def key(self) -> Key:
        """What it is found by."""
        return self.table.id, self.user

    def after(self, version: int) -> list[pa.Table]:
        """Changes after a version, in parts."""
        newer: list[pa.Table] = []
        for batch in reversed(self.batches):
            if batch.last <= version:
                break
            newer.append(batch.rows)
        return newer[::-1]

    def add(self, rows: pa.Table, through: int, now: float) -> None:
        """Changes that come next, and up to where they are all."""
        if rows.num_rows:
            self.batches.append(_Batch(rows, through, now))
            self.changes += rows.num_rows
            self.bytes += rows.nbytes
        self.through = through

    def shrink(self, most_bytes: int, oldest: float) -> None:
        """Forget what is too much or too old."""
        while self.batches and (
            self.changes > _MOST_CHANGES or self.bytes > most_bytes or self.batches[0].at < oldest
        ):
            gone = self.batches.popleft()
            self.since = gone.last
            self.changes -= gone.rows.num_rows
            self.bytes -= gone.rows.nbytes

    def forget(self, through: int) -> None:
        """Begin anew after a version."""
        self.batches.clear()
        self.changes = self.bytes = 0
        self.since = self.through = through


class Tail:
    """Reads the changes of feeds that somebody follows. For any number of threads."""

    def __init__(
        self,
        hot: HotTables,
        *,
        poll_s: float = _POLL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hot = hot
        self._poll_s = poll_s
        self._clock = clock
        self._feeds: dict[Key, Feed] = {}
        self._listeners: set[Callable[[], None]] = set()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self.lock = threading.RLock()

    def join(self, table: Table, user: str | None, listener: Callable[[], None]) -> Feed:
        """Follow a table. `listener` is called, from a thread of the tail's, when there is news."""
        with self.lock:
            feed = self._feeds.get((table.id, user))
            if feed is None:
                with self._hot.snapshot() as snapshot:
                    through = snapshot.through(table)
                feed = self._feeds[table.id, user] = Feed(table, user, through, through)
            feed.followers += 1
            self._listeners.add(listener)
            if self._thread is None:
                self._stopping.clear()
                self._thread = threading.Thread(
                    target=self._run, name="surgetank-live-tables", daemon=True
                )
                self._thread.start()
        return feed

    def leave(self, feed: Feed, listener: Callable[[], None]) -> None:
        """One follower less. Its feed goes on for a while: who comes back finds what was missed."""
        with self.lock:
            feed.followers -= 1
            feed.left_at = self._clock()
            self._listeners.discard(listener)

    def forget_user(self, user: str) -> None:
        """Keep no change of a user who is erased."""
        with self.lock:
            for feed in self._feeds.values():
                if feed.user in (user, None):
                    feed.forget(feed.through)

    def close(self) -> None:
        """Stop reading. Idempotent."""
        self._stopping.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(5.0)

    def _run(self) -> None:
        is_failing = False
        while True:
            wait_s = self._poll_s
            try:
                news = self.poll()
                is_failing = False
            except Exception as error:  # noqa: BLE001 - a thread that ends would be silent for ever
                if not is_failing:
                    log.warning("live_tables_unreadable", error=str(error))
                is_failing, news, wait_s = True, False, _AFTER_FAILURE_S
            if news:
                self._wake()
            with self.lock:
                if self._stopping.is_set() or not self._feeds:
                    self._thread = None
                    break
            self._stopping.wait(wait_s)
        self._wake()

    def _wake(self) -> None:
        with self.lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def poll(self) -> bool:
        """Read what is new; whether there was anything. Raises what the store raises."""
        with self.lock:
            now = self._clock()
            for key, feed in list(self._feeds.items()):
                if not feed.followers and now - feed.left_at > _MOST_AGE_S:
                    del self._feeds[key]
                feed.shrink(_MOST_BYTES, now - _MOST_AGE_S)
            feeds = list(self._feeds.values())
        if not feeds:
            return False
        with self._hot.snapshot() as snapshot:
            tables = {feed.table.id: feed.table for feed in feeds}
            newest = {id_: snapshot.through(table) for id_, table in tables.items()}
            behind = [feed for feed in feeds if feed.through != newest[feed.table.id]]
            found = [
                (feed, feed.through, *_read(snapshot, feed, newest[feed.table.id]))
                for feed in self._alone(behind)
            ]
            found += self._together(snapshot, behind, newest)
        if not behind:
            return False
        # Progress is asked for after the rows: changes that were acknowledged before they were seen
        # are behind it.
        missed = {feed.key: _has_passed(self._hot, feed, before) for feed, before, _, _ in found}
        with self.lock:
            most = max(1024**2, _MOST_BYTES // len(feeds))
            for feed, before, rows, up_to in found:
                if feed.through != before:
                    continue  # it was made to begin anew meanwhile
                if missed[feed.key]:
                    feed.forget(up_to)
                else:
                    feed.add(rows, up_to, now)
                    feed.shrink(most, now - _MOST_AGE_S)
        return True

    @staticmethod
    def _alone(feeds: list[Feed]) -> list[Feed]:
        crowded = _crowded(feeds)
        return [feed for feed in feeds if feed.table.id not in crowded]

    @staticmethod
    def _together(
        snapshot: HotSnapshot, feeds: list[Feed], newest: Mapping[int, int]
    ) -> list[tuple[Feed, int, pa.Table, int]]:
        """Changes for many users of a table, which are read once."""
        found: list[tuple[Feed, int, pa.Table, int]] = []
        for table_id in _crowded(feeds):
            mine = [feed for feed in feeds if feed.table.id == table_id]
            lowest = min(mine, key=lambda feed: feed.through)
            everyone = Feed(lowest.table, None, lowest.through, lowest.through)
            rows, up_to = _read(snapshot, everyone, newest[table_id])
            by_user = rows.column(USER).to_pylist()
            at: dict[str, list[int]] = {}
            for index, user in enumerate(by_user):
                at.setdefault(user, []).append(index)
            for feed in mine:
                if feed.through >= up_to:
                    continue
                own = (
                    rows
                    if feed.user is None
                    else rows.take(pa.array(at.get(feed.user, []), pa.int64()))
                )
                newer = pc.greater(own.column(VERSION), feed.through)
                found.append((feed, feed.through, own.filter(newer), up_to))
        return found


def _crowded(feeds: list[Feed]) -> set[int]:
    counts: dict[int, int] = {}
    for feed in feeds:
        if feed.table.by_user:
            counts[feed.table.id] = counts.get(feed.table.id, 0) + 1
    return {table_id for table_id, count in counts.items() if count > _ALL_AT_ONCE}


def _read(snapshot: HotSnapshot, feed: Feed, through: int) -> tuple[pa.Table, int]:
    return changes_between(snapshot, feed.table, feed.user, feed.through, through)


def changes_between(
    snapshot: HotSnapshot, table: Table, user: str | None, after: int, through: int
) -> tuple[pa.Table, int]:
    """The next changes after a version, some thousand, in order of version; and up to which they
    are all."""
    begin = max(after, (through >> ORIGIN_SHIFT) << ORIGIN_SHIFT)
    up_to = min(through, begin + _AT_ONCE) if through > after else through
    rows = snapshot.rows(table, user=user, after=after, up_to=up_to)
    if table.by_user and user is None and rows.num_rows > 1:
        rows = rows.sort_by(VERSION)
    return rows, up_to


def _has_passed(hot: HotTables, feed: Feed, version: int) -> bool:
    return has_passed(hot, feed.table, feed.user, version)


def has_passed(hot: HotTables, table: Table, user: str | None, version: int) -> bool:
    """Whether changes after a version may have been acknowledged."""
    return any(
        (progress.through if user is None else progress.held.get(user, progress.through)) > version
        for progress in hot.progress(table).values()
    )
