"""Following what runs send: one hub for a server wakes those who wait, each of them reads the
stream log itself."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from starlette.concurrency import run_in_threadpool

from surgetank.bounded import BoundedMap
from surgetank.encode.jsontext import dumps
from surgetank.events.streams import END, StreamEvent, StreamLog, StreamPage, Written
from surgetank.exceptions import BufferUnavailable, DatabaseUnavailable, RunNotFound
from surgetank.server.live.reading import LogReads
from surgetank.workflows.runs import Run
from surgetank.workflows.status import Status, wire_status

_POLL_S = 0.02  # for what other processes write
_ASK_S = 5.0  # how often the database is asked whether a silent run has ended elsewhere
_IDLE_S = 15.0
_AWAY_S = 0.5  # until a log that can't be read is asked again
_UNNUMBERED = 0
_READERS = 8  # who reads the log at once, where that is over a network
_OVER = frozenset(Status) - {Status.PENDING, Status.RUNNING}

T = TypeVar("T")


class StreamHub:
    """Wakes who waits for events of a thread. For one event loop."""

    def __init__(self, log: Callable[[], StreamLog]) -> None:
        self._log = log
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._awaiting_end: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._poller: asyncio.Task[None] | None = None
        self._polls = LogReads(1)  # readers don't hold it up
        self._reads = LogReads(_READERS)
        self._known = 0  # what was written until then was told
        self.closing = False
        # By caller and thread: the run whose end was sent last to who follows only how runs go.
        self.ends_shown = BoundedMap[str, str](most=10_000)

    @property
    def log(self) -> StreamLog:
        """The stream log."""
        return self._log()

    async def read(self, thread_id: str, **named: Any) -> StreamPage:
        """`StreamLog.read`, for an event loop."""
        return await self._reads(self.log, self.log.read, thread_id, **named)

    async def last(self, run_id: str) -> Sequence[StreamEvent]:
        """`StreamLog.last`, for an event loop."""
        return await self._reads(self.log, self.log.last, run_id)

    async def unless_away(self, asked: Awaitable[T]) -> T | None:
        """What is asked of the log; None while that can't be read. Who follows has not gone away then, and what
        follows goes on: so the caller waits with his client."""
        try:
            return await asked
        except BufferUnavailable:
            await asyncio.sleep(_AWAY_S)
            return None

    def close(self) -> None:
        """Let everybody end."""
        self.closing = True
        self._wake_all()

    def join(self, thread_id: str, *, ends: bool = False) -> asyncio.Event:
        """An event that is set at each news of a thread, or only at the `ends` of its runs. Give it
        back to `leave`."""
        news = asyncio.Event()
        (self._awaiting_end if ends else self._waiting)[thread_id].add(news)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        return news

    def leave(self, thread_id: str, news: asyncio.Event) -> None:
        """Wait no longer."""
        for waiting in (self._waiting, self._awaiting_end):
            if thread_id in waiting:
                waiting[thread_id].discard(news)
                if not waiting[thread_id]:
                    del waiting[thread_id]

    def _wake(self, thread_id: str, *, ended: bool) -> None:
        for news in self._waiting.get(thread_id, ()):
            news.set()
        if ended:
            for news in self._awaiting_end.get(thread_id, ()):
                news.set()

    def _wake_all(self) -> None:
        for thread_id in {*self._waiting, *self._awaiting_end}:
            self._wake(thread_id, ended=True)

    async def _poll(self) -> None:
        loop, log = asyncio.get_running_loop(), self._log()

        def heard(written: Written) -> None:
            # On the writer's thread: who joins after this look reads what was written before it.
            thread_id, ended = written.thread_id, written.ended
            others_wrote = written.before > self._known
            self._known = max(self._known, written.newest)
            wake: Callable[[], None] | None = None
            if others_wrote:
                wake = self._wake_all
            elif thread_id in self._waiting or (ended and thread_id in self._awaiting_end):
                wake = partial(self._wake, thread_id, ended=ended)
            if wake is not None:
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(wake)

        end, begins = log.listen(heard), True
        try:
            while (self._waiting or self._awaiting_end) and not self.closing:
                newest = await self.unless_away(self._polls(log, log.newest))
                # Nobody listened before; or it was written by another process.
                if newest is not None and (begins or newest > self._known):
                    self._known, begins = newest, False
                    self._wake_all()
                await asyncio.sleep(_POLL_S)
        finally:
            end()


async def follow_run(
    hub: StreamHub, run: Run, get: Callable[[UUID], Run], after: int
) -> AsyncIterator[list[StreamEvent]]:
    """The events of a run after a number, until its `end`. An empty list says that it is still
    there.

    A gap is an event of its own. `get` asks the database: a run can end where it can't say so.
    """
    run_id = str(run.run_id)
    news = hub.join(run.thread_id)
    loop = asyncio.get_running_loop()
    asked_at = heard_at = loop.time() - (_ASK_S if run.status in _OVER else 0.0)
    try:
        while not hub.closing:
            news.clear()
            page = await hub.unless_away(hub.read(run.thread_id, run_id=run_id, after=after))
            if page is None:
                yield []
                continue
            if page.gap is not None:
                yield [gap_event(run_id, after, page.gap)]
                after = page.gap
                continue
            if page.events:
                after, heard_at = page.events[-1].seq, loop.time()
                yield list(page.events)
                if any(event.event == END for event in page.events):
                    return
                continue
            now = loop.time()
            if now - asked_at >= _ASK_S and now - heard_at >= _ASK_S:
                asked_at = now
                end = await _ended(run, get)
                if end:
                    yield end
                    return
            if now - heard_at >= _IDLE_S:
                heard_at = now
                yield []
            with suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), _ASK_S)
    finally:
        hub.leave(run.thread_id, news)


async def end_of_run(hub: StreamHub, run: Run, get: Callable[[UUID], Run]) -> list[StreamEvent]:
    """The last events of a run, its `end` among them, once it has come to it; none when the server
    closes before."""
    run_id = str(run.run_id)
    news = hub.join(run.thread_id, ends=True)
    loop = asyncio.get_running_loop()
    asked_at = loop.time() - (_ASK_S if run.status in _OVER else 0.0)
    try:
        while not hub.closing:
            news.clear()
            last = await hub.unless_away(hub.last(run_id))
            if last is None:
                continue
            if any(event.event == END for event in last):
                return list(last)
            if loop.time() - asked_at >= _ASK_S:
                asked_at = loop.time()
                if end := await _ended(run, get):
                    return end
            with suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), _ASK_S)
        return []
    finally:
        hub.leave(run.thread_id, news)


async def _ended(run: Run, get: Callable[[UUID], Run]) -> list[StreamEvent]:
    """The end of a run that did not say so, without numbers: no other reader has them as well."""
    try:
        now = await run_in_threadpool(get, run.run_id)
    except DatabaseUnavailable:
        return []
    except RunNotFound:
        return [_end_event(run, "interrupted")]
    if now.status not in _OVER:
        return []
    end = _end_event(run, wire_status(now.status, timed_out=now.timed_out))
    if now.status is not Status.FAILED:
        return [end]
    error = {"error": "RunFailed", "message": now.error or "It failed."}
    return [StreamEvent(_UNNUMBERED, str(run.run_id), "error", dumps(error), 0.0), end]


def _end_event(run: Run, status: str) -> StreamEvent:
    return StreamEvent(_UNNUMBERED, str(run.run_id), END, dumps({"status": status}), 0.0)


def gap_event(run_id: str, after: int, missed_to: int) -> StreamEvent:
    """Says what is missing."""
    body = {
        "type": "gap", "after": after, "missed_to": missed_to,
        "message": "Events are missing here: they are no longer kept. Load the state of the thread "
        "and go on from it.",
    }  # fmt: skip
    return StreamEvent(missed_to, run_id, "gap", dumps(body), 0.0)
