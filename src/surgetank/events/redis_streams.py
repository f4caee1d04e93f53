"""`RedisStreamLog`: a `StreamLog` in Redis, for servers and workers on any number of hosts.

A thread's events are in one shard, in a Redis stream. How much was written in all is counted in one
key, after it is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

from surgetank.events.streams import StreamEvent, StreamGroup, StreamPage, Written
from surgetank.redis.address import RedisAddress
from surgetank.redis.connecting import server_at
from surgetank.redis.scripts import Scripts
from surgetank.redis.server import Arg, Call

_SCRIPTS = Scripts("surgetank.events", "redis_streams.lua")
_ABANDONED_S = 7 * 24 * 3600.0  # nothing was heard of such a run: its end was recorded elsewhere
_THREADS_KEPT = 200_000


class RedisStreamLog:
    """A `StreamLog` on the server at `address`. Events of an ended run stay `keep_s`, unless all
    together are more than `max_bytes`: then those that ended first go.

    Raises `BufferUnavailable`, `BufferFull`.
    """

    over_network = True

    def __init__(
        self,
        address: RedisAddress,
        *,
        keep_s: float = 3600.0,
        max_bytes: int = 1024 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._server = server_at(address, name="stream log")
        self._tags = [address.tag(shard) for shard in range(address.shards)]
        self._count = address.tag("streams")
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Written], None]] = []

    def append_all(self, groups: Sequence[StreamGroup]) -> list[int | None]:
        now = self._clock()
        by_shard: dict[int, list[int]] = {}
        for number, group in enumerate(groups):
            by_shard.setdefault(self._shard(group.thread_id), []).append(number)
        calls = [
            Call(
                _SCRIPTS["append"],
                self._tags[shard],
                [now, *(arg for number in numbers for arg in _args(groups[number]))],
                once=True,
            )
            for shard, numbers in by_shard.items()
        ]
        written: list[int | None] = [None] * len(groups)
        for numbers, lasts in zip(by_shard.values(), self._server.call_all(calls), strict=True):
            for number, last in zip(numbers, lasts, strict=True):
                written[number] = last or None
        fresh = [group for group, last in zip(groups, written, strict=True) if last is not None]
        count = sum(len(group.events) for group in fresh)
        if count:
            newest = self._server.call(_SCRIPTS["count"], self._count, [count], once=True)
            self._tell(fresh, newest - count, newest)
        return written

    def try_append_all(self, groups: Sequence[StreamGroup]) -> list[int | None] | None:  # noqa: ARG002
        """Never at once: it waits for the network."""
        self._server.require_open()
        return None

    def _tell(self, fresh: Sequence[StreamGroup], before: int, newest: int) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for group in fresh:
            news = Written(group.thread_id, before, newest, group.ends)
            for heard in listeners:
                heard(news)

    def read(
        self,
        thread_id: str,
        *,
        run_id: str | None = None,
        after: int = 0,
        limit: int = 500,
        max_bytes: int = 2 * 1024 * 1024,
    ) -> StreamPage:
        rows, last, gone = self._server.call(
            _SCRIPTS["read"],
            self._tag(thread_id),
            [thread_id, run_id or "", after, limit, max_bytes],
        )
        if after > last:  # a number of a log that is gone
            return StreamPage((), last, gap=last)
        events = tuple(_event(*row) for row in rows)
        return StreamPage(events, last, gap=gone if after < gone else None)

    def has_ended(self, run_id: str) -> bool:
        return any(self._each("has_ended", run_id))

    def last(self, run_id: str, most: int = 2) -> Sequence[StreamEvent]:
        rows = [row for found in self._each("last", run_id, most) for row in found]
        return [_event(*row) for row in reversed(rows)]

    def newest(self) -> int:
        return int(self._server.call(_SCRIPTS["newest"], self._count))

    def listen(self, heard: Callable[[Written], None]) -> Callable[[], None]:
        with self._lock:
            self._listeners.append(heard)

        def end() -> None:
            with self._lock:
                if heard in self._listeners:
                    self._listeners.remove(heard)

        return end

    def forget_thread(self, thread_id: str) -> None:
        tag = self._tag(thread_id)
        self._server.call(_SCRIPTS["forget_thread"], tag, [thread_id], once=True)

    def forget_run(self, run_id: str) -> None:
        self._each("forget_runs", run_id, once=True)

    def size_bytes(self) -> int:
        return sum(self._each("size"))

    def maintain(self) -> None:
        now = self._clock()
        most = max(1, _THREADS_KEPT // len(self._tags))
        forgotten = now - _ABANDONED_S
        replies = self._each("ended", now, forgotten, forgotten, most, once=True)
        total = sum(bytes_ for _, bytes_ in replies)
        ended = sorted(
            (float(at), shard, run, size)
            for shard, (rows, _) in enumerate(replies)
            for run, at, size in rows
        )
        gone: dict[int, list[Arg]] = {}
        for at, shard, run, size in ended:
            if at >= now - self._keep_s and total <= self._max_bytes:
                break
            gone.setdefault(shard, []).append(run)
            total -= size
        self._server.call_all(
            [
                Call(_SCRIPTS["forget_runs"], self._tags[shard], runs, once=True)
                for shard, runs in gone.items()
            ]
        )

    def scrub(self) -> bool:
        """Memory is given back at once; what the server's files still have goes when it rewrites
        them."""
        self._server.require_open()
        return True

    def close(self) -> None:
        self._server.close()

    def _shard(self, thread_id: str) -> int:
        return crc32(thread_id.encode()) % len(self._tags)

    def _tag(self, thread_id: str) -> bytes:
        return self._tags[self._shard(thread_id)]

    def _each(self, script: str, *args: Arg, once: bool = False) -> list[Any]:
        return self._server.call_all(
            [Call(_SCRIPTS[script], tag, args, once) for tag in self._tags]
        )


def _args(group: StreamGroup) -> list[Arg]:
    head: list[Arg] = [
        group.thread_id, group.run_id, group.attempt, int(group.ends), group.size, len(group.events),
    ]  # fmt: skip
    return [*head, *(part for event in group.events for part in event)]


def _event(seq: int, run_id: bytes, event: bytes, data: bytes, at: bytes) -> StreamEvent:
    return StreamEvent(seq, run_id.decode(), event.decode(), data, float(at))
