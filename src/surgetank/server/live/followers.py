"""Live events for many followers: one reader of the event log, whose last batches all followers
share.

A follower has a place in the log and no queue: it takes what came after its place out of the shared
batches, or, when it has fallen behind them, out of the log itself. So a slow one costs nothing,
holds nobody up, and is told of a gap when the log has forgotten what it missed.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool

from surgetank.app.incidents import Incidents
from surgetank.bounded import BoundedMap
from surgetank.encode.jsontext import dumps_clean
from surgetank.events.protocol import EventLog
from surgetank.events.types import BUFFER_AWAY, EventType, Incident, RunEvent, Severity, timestamp
from surgetank.exceptions import SurgetankError
from surgetank.server.access.disclosure import incident_for, reads_technical
from surgetank.server.access.roles import Caller, Role
from surgetank.server.access.visibility import Visibility
from surgetank.server.http.problems import Problem
from surgetank.server.live.banners import REFRESH_S, LiveBanners
from surgetank.server.live.lines import Line, line_of, line_of_gap
from surgetank.server.live.reading import LogReads
from surgetank.telemetry import log

_POLL_S = 0.025
_BATCHES = 200
_BATCHES_BYTES = 16 * 1024 * 1024  # of all batches
_REMEMBERED = 10_000
_PAGE = 500
PAGE_BYTES = 256 * 1024  # what a follower holds at most, and one event
_RECHECK_S = 60.0
_BELIEVED_S = 5.0
_OF_SINKS = (EventType.FLUSH_ERROR, EventType.FLUSH_CRITICAL, EventType.FLUSH_RECOVERED)
_READERS = 8  # followers that read in the log at once, where that is over a network
_IN_THE_LOG = -1  # a place in a thread that is not yet one in the shared batches


@dataclass(frozen=True, slots=True)
class _Batch:
    """Events that were read together, in order."""

    events: Sequence[Line]
    bytes: int = 0
    by_thread: dict[str | None, list[Line]] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Sequence[RunEvent]) -> _Batch:
        encoded = [line_of(event) for event in events]
        batch = cls(encoded, sum(len(event.data) for event in encoded))
        for event in batch.events:
            batch.by_thread.setdefault(event.thread_id, []).append(event)
        return batch


class Hub:
    """Reads the event log while anybody follows, and wakes the followers. For one event loop."""

    def __init__(self, events: EventLog, incidents: Incidents, *, per_caller: int = 200) -> None:
        self.events = events
        self.incidents = incidents
        self.banners = LiveBanners(incidents)
        self.subscribers = 0
        self.closing = False
        self._per_caller = per_caller
        self._following: Counter[str] = Counter()
        self._batches: deque[_Batch] = deque()
        self._bytes = 0
        self._read_to = 0
        self._first = 0  # what came after this number is in the batches
        self._news = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._joining = asyncio.Lock()
        self._reads = LogReads(1)  # of the shared batches: followers don't hold it up
        self.reads = LogReads(_READERS)
        self.problem: str | None = None
        self._is_changed = False  # the trouble of a sink, by what was read last
        self._refreshing: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Let every follower end. May be called from a signal handler of the loop's thread."""
        self.closing = True
        self._wake()

    @contextmanager
    def slot_for(self, caller: Caller) -> Iterator[None]:
        """One of the connections that a caller may have. Raises `Problem` (429) when they are all
        taken."""
        if self._following[caller.user] >= self._per_caller:
            raise Problem(
                429,
                "too-many-followers",
                f"You have {self._per_caller} WebSockets and event streams open already.",
                remedy="close some of them; /ws/events tells of all threads over one.",
                headers={"Retry-After": "5"},
            )
        self._following[caller.user] += 1
        try:
            yield
        finally:
            self._following[caller.user] -= 1
            if not self._following[caller.user]:
                del self._following[caller.user]

    async def join(self, thread_id: str | None) -> None:
        """One more follower, of this thread or of all. Raises `BufferUnavailable`."""
        self.subscribers += 1
        self.banners.follow(thread_id)
        try:
            async with self._joining:
                if self._reader is None or self._reader.done():
                    newest = await self._reads(self.events, self.events.last_id)
                    self._read_to = self._first = newest
                    self._forget()
                    self._reader = asyncio.create_task(self._read())
        except BaseException:
            self.leave(thread_id)
            raise

    def leave(self, thread_id: str | None) -> None:
        """One follower less."""
        self.subscribers -= 1
        self.banners.leave(thread_id)

    def position(self) -> int:
        """The number up to which the shared batches reach."""
        return self._read_to

    def since(self, after_id: int) -> list[_Batch] | None:
        """The batches with events after a number; None if they don't reach back so far."""
        if after_id < self._first:
            return None
        newer: list[_Batch] = []
        for batch in reversed(self._batches):
            if batch.events[-1].id <= after_id:
                break
            newer.append(batch)
        return newer[::-1]

    async def news(self, after_id: int, timeout_s: float) -> None:
        """Wait until there is something after a number, or the time is over."""
        if self._read_to > after_id or self.closing:
            return
        try:
            await asyncio.wait_for(self._news.wait(), timeout_s)
        except TimeoutError:
            return

    async def _read(self) -> None:
        refreshed_at = float("-inf")
        while self.subscribers and not self.closing:
            try:
                read = await self._read_batch()
                self.problem = None
            except SurgetankError as error:
                if self.problem is None:
                    log.error("event_log_unreadable", error=error.what)
                self.problem, read = error.what, False
            now = asyncio.get_running_loop().time()
            due = self._is_changed or now - refreshed_at >= REFRESH_S
            if due and (self._refreshing is None or self._refreshing.done()):
                refreshed_at, self._is_changed = now, False
                self._refreshing = asyncio.create_task(self._refresh())
            await asyncio.sleep(0 if read else _POLL_S)

    async def _refresh(self) -> None:
        """Ask for banners, beside the reading of events: with many followed threads it takes a
        while."""
        try:
            if await self.banners.refresh():
                self._wake()
        except SurgetankError as error:  # the next round asks again
            log.warning("banners_unreadable", error=error.what)

    async def _read_batch(self) -> bool:
        gap, events = await self._reads(
            self.events, self.events.tail, self._read_to, limit=_PAGE, max_bytes=PAGE_BYTES
        )
        if gap is not None:  # followers find it out themselves, from the log
            self._forget()
            self._first = gap.missed_to
            self._read_to = gap.missed_to
        full = len(events) == _PAGE
        if events:
            batch = _Batch.of(events)
            full = full or batch.bytes >= PAGE_BYTES
            self._keep(batch)
            self._is_changed = any(e.type in _OF_SINKS for e in batch.by_thread.get(None, ()))
            self._read_to = events[-1].id
        if events or gap is not None:
            self._wake()
        return full

    def _keep(self, batch: _Batch) -> None:
        self._batches.append(batch)
        self._bytes += batch.bytes
        while len(self._batches) > _BATCHES or (
            self._bytes > _BATCHES_BYTES and len(self._batches) > 1
        ):
            oldest = self._batches.popleft()
            self._bytes -= oldest.bytes
            self._first = oldest.events[-1].id

    def _forget(self) -> None:
        self._batches.clear()
        self._bytes = 0

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class Follower:
    """One subscription: a thread's events, or (thread None, `everything`) all that its caller may
    read."""

    def __init__(
        self,
        hub: Hub,
        visibility: Visibility,
        caller: Caller,
        *,
        thread_id: str | None,
        still_good: Callable[[Caller], bool],
        has_ended: Callable[[Caller], bool] = lambda _: False,
        counted: Callable[[int], None],
        support_url: str | None = None,
    ) -> None:
        self._hub = hub
        self._visibility = visibility
        self._caller = caller
        self._thread_id = thread_id
        self._still_good = still_good
        self._has_ended = has_ended
        self._counted = counted
        self._support_url = support_url
        self._id = 0
        self._seq = 0
        self._banner: Incident | None = None  # of a sink, as the follower knows it
        self._banner_version = 0
        # readable, and when that was found out
        self._believed = BoundedMap[str, tuple[bool, float]](_REMEMBERED)

    async def follow(self, after: int | None, *, idle_s: float = 15.0) -> AsyncIterator[list[Line]]:
        """Lists of events, in order. The first tells where it begins; an empty one says that
        nothing happened.

        Ends when the hub closes, or when the caller may no longer read.
        """
        await self._hub.join(self._thread_id)
        self._counted(1)
        try:
            checked = asyncio.get_running_loop().time()
            yield [await self._begin(after)]
            while not self._hub.closing:
                found = [*await self._next(), *self._banner_lines()]
                if self._has_ended(self._caller):
                    return
                if found:
                    yield found
                else:
                    await self._hub.news(self._id, idle_s)
                    if self._hub.position() <= self._id:
                        yield []
                now = asyncio.get_running_loop().time()
                if now - checked > _RECHECK_S:
                    checked = now
                    if not await run_in_threadpool(self._may_go_on):
                        return
        finally:
            self._hub.leave(self._thread_id)
            self._counted(-1)

    def _may_go_on(self) -> bool:
        return self._still_good(self._caller) and (
            self._thread_id is None or self._visibility.reads(self._caller, self._thread_id)
        )

    async def _begin(self, after: int | None) -> Line:
        events = self._hub.events
        if self._thread_id is None:
            newest = events.last_id
            self._id = await self._hub.reads(events, newest) if after is None else after
            start = self._id
        else:
            self._id = self._hub.position() if after is None else _IN_THE_LOG
            last = events.last_seq
            self._seq = (
                await self._hub.reads(events, last, self._thread_id) if after is None else after
            )
            start = self._seq
        self._banner_version = self._hub.banners.version
        incidents = await run_in_threadpool(self._incidents)
        derived = [incident for incident in incidents if incident.is_of_sink]
        self._banner = max(derived, key=lambda incident: incident.severity.rank, default=None)
        body = {
            "type": "subscribed",
            "thread_id": self._thread_id,
            "after": start,
            "incidents": [
                incident_for(self._caller, incident, support_url=self._support_url)
                for incident in incidents
            ],
        }
        return Line(start, start, "subscribed", self._thread_id, dumps_clean(body))

    def _incidents(self) -> list[Incident]:
        if self._thread_id is not None:
            return self._hub.incidents(self._thread_id)
        found = self._hub.incidents()
        threads = self._visibility.readable(
            self._caller, {i.thread_id for i in found if i.thread_id is not None}
        )
        return [
            i
            for i in found
            if i.thread_id in threads or (i.thread_id is None and (self._operates or i.is_of_sink))
        ]

    def _banner_lines(self) -> list[Line]:
        """The banner that a sink's trouble gives this follower, or its end, when that has changed.

        Operators who follow everything read the sink's own events.
        """
        seen = self._hub.banners.of(self._thread_id)
        if seen is None or seen.version <= self._banner_version:
            return []
        before, now = self._banner, seen.derived
        if self._thread_id is None and self._operates:  # of the buffer no event can tell
            of_buffer = [i for i in (before, now) if i is not None and i.key == BUFFER_AWAY]
            if not of_buffer:
                return []
        self._banner_version = seen.version
        if now is not None and (before is None or before.severity.rank < now.severity.rank):
            self._banner = now
            body = incident_for(self._caller, now, support_url=self._support_url)
            return [self._derived(body)]
        if now is None and before is not None:
            self._banner = None
            if seen.is_clear:
                return [self._derived(self._end_of(before))]
        return []

    def _end_of(self, incident: Incident) -> dict[str, Any]:
        return {
            "type": EventType.FLUSH_RECOVERED.value,
            "severity": Severity.INFO.value,
            "thread_id": self._thread_id,
            "message": self._hub.incidents.ended(incident),
            "timestamp": timestamp(self._hub.incidents.now()),
        }

    def _derived(self, body: dict[str, Any]) -> Line:
        """A line that the event log doesn't have: who goes on after it does so where they were."""
        id_, seq = max(0, self._id), self._seq
        data = dumps_clean({**body, "id": id_, "seq": seq, "derived": True})
        at = id_ if self._thread_id is None else seq
        return Line(at, at, str(body["type"]), self._thread_id, data)

    @property
    def _operates(self) -> bool:
        return reads_technical(self._caller)

    async def _next(self) -> list[Line]:
        batches = self._hub.since(self._id) if self._id != _IN_THE_LOG else None
        if batches is None:
            return await self._from_log()
        position, found, size = self._id, list[Line](), 0
        for batch in batches:
            if size >= PAGE_BYTES:
                break
            events = (
                batch.events
                if self._thread_id is None
                else batch.by_thread.get(self._thread_id, ())
            )
            # By seq as well: what was replayed out of the log comes by once more in the batches.
            new = [
                e
                for e in events
                if e.id > position and (self._thread_id is None or e.seq > self._seq)
            ]
            found += new
            size += sum(len(e.data) for e in new)
            self._id = batch.events[-1].id
        if found and self._thread_id is not None:
            self._seq = found[-1].seq
        return await self._readable(found)

    async def _from_log(self) -> list[Line]:
        """A page of what the shared batches no longer reach."""
        events, before = self._hub.events, self._hub.position()
        if self._thread_id is None:
            begin = partial(events.tail, self._id)
        else:
            begin = partial(events.thread_events, self._thread_id, self._seq)
        gap, page = await self._hub.reads(events, begin, limit=_PAGE, max_bytes=PAGE_BYTES)
        found = [line_of(event) for event in page]
        last = page[-1].id if page else 0
        if self._thread_id is None:
            self._id = last or (gap.missed_to if gap is not None else self._id)
        else:
            self._seq = page[-1].seq if page else gap.missed_to if gap is not None else self._seq
            # Encoded they are larger than stored: a page that was cut is never taken for the last
            # one.
            full = len(page) == _PAGE or sum(len(event.data) for event in found) >= PAGE_BYTES
            self._id = _IN_THE_LOG if full else max(last, before)
        return [*([line_of_gap(gap)] if gap is not None else []), *await self._readable(found)]

    async def _readable(self, events: list[Line]) -> list[Line]:
        """Without what the caller may not read."""
        if self._thread_id is not None or self._caller.role is Role.ADMIN or not events:
            return events
        now = asyncio.get_running_loop().time()
        names = {e.thread_id for e in events if e.thread_id is not None}
        unsure = {
            n for n in names if now - self._believed.get(n, (False, -_BELIEVED_S))[1] >= _BELIEVED_S
        }
        # before others are remembered, for which some of these may have to go
        allowed = {n for n in names - unsure if self._believed.get(n, (False, 0.0))[0]}
        if unsure:
            readable = await run_in_threadpool(self._visibility.readable, self._caller, unsure)
            self._believed.update({n: (n in readable, now) for n in unsure})
            allowed |= unsure & set(readable)
        return [
            e for e in events if e.thread_id in allowed or (e.thread_id is None and self._operates)
        ]
