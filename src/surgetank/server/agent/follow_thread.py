"""Following all runs of a thread, as they come, for as long as anybody wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import UUID

from starlette.concurrency import run_in_threadpool

from surgetank.encode.jsontext import dumps
from surgetank.events.streams import END, StreamEvent
from surgetank.exceptions import DatabaseUnavailable, RunNotFound
from surgetank.server.access.roles import Caller
from surgetank.server.agent.answers import frame
from surgetank.server.agent.follow import gap_event
from surgetank.server.agent.thread_events import STEP, ProtocolEvent, Subscription, ThreadEvents
from surgetank.server.services import Services
from surgetank.workflows.runs import Run
from surgetank.workflows.status import Status, wire_status

_ASK_S = 5.0  # how often the database is asked whether a silent run has ended elsewhere
_IDLE_S = 15.0
_RECHECK_S = 60.0
_JUST_NOW_S = 5.0
_CONTROL = frozenset({"lifecycle", "input"})
_HOW_RUNS_GO = frozenset({"metadata", "error", "gap", END})
_OVER = frozenset(Status) - {Status.PENDING, Status.RUNNING}


async def follow_thread(
    services: Services, who: Caller, thread_id: str, after: int
) -> AsyncIterator[list[StreamEvent]]:
    """The events of all runs of a thread after a number, until the server stops or the caller may
    no longer read it. An empty list says that it is still there."""
    hub, loop = services.streams, asyncio.get_running_loop()
    news = hub.join(thread_id)
    heard_at = asked_at = checked_at = loop.time()
    begun = await run_in_threadpool(_under_way, services, thread_id)
    try:
        while not hub.closing:
            if loop.time() - checked_at >= _RECHECK_S:
                checked_at = loop.time()
                if not await run_in_threadpool(_still_may, services, who, thread_id):
                    return
            news.clear()
            page = await hub.unless_away(hub.read(thread_id, after=after))
            if services.login.has_ended(who):
                return
            if page is None:
                yield []
                continue
            if page.gap is not None:
                yield [gap_event("", after, page.gap)]
                after = page.gap
                continue
            if page.events:
                after, heard_at = page.events[-1].seq, loop.time()
                yield list(page.events)
                continue
            now = loop.time()
            if now - asked_at >= _ASK_S and now - heard_at >= _ASK_S:
                asked_at = now
                ends = await run_in_threadpool(_silent_ends, services, thread_id, begun, after)
                if ends:
                    yield ends
                    continue
            if now - heard_at >= _IDLE_S:
                heard_at = now
                yield []
            with suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), _ASK_S)
    finally:
        hub.leave(thread_id, news)


def _still_may(services: Services, who: Caller, thread_id: str) -> bool:
    return services.login.still_good(who) and services.visibility.reads(who, thread_id)


def _newest(services: Services, thread_id: str) -> list[Run]:
    try:
        return services.tank.runs.of_thread(thread_id, limit=20)[::-1]
    except DatabaseUnavailable:
        return []


def _under_way(services: Services, thread_id: str) -> set[str]:
    """Runs that are under way, or were when who follows asked for them."""
    return {
        str(run.run_id)
        for run in _newest(services, thread_id)
        if run.status not in _OVER or _age(services, run) < _JUST_NOW_S
    }


def _age(services: Services, run: Run) -> float:
    return services.clock() - run.created_at.timestamp()


def _silent_ends(
    services: Services, thread_id: str, begun: set[str], after: int
) -> list[StreamEvent]:
    """The ends of runs that were under way and could not say that they ended. `begun` is brought
    up to date."""
    found = list[StreamEvent]()
    for run in _newest(services, thread_id):
        run_id = str(run.run_id)
        if run.status not in _OVER:
            begun.add(run_id)
        elif run_id in begun:
            begun.discard(run_id)
            if not services.streams.log.has_ended(run_id):
                found += _end_of(run, after)
    return found


def _end_of(run: Run, after: int) -> list[StreamEvent]:
    run_id, at = str(run.run_id), run.updated_at.timestamp()
    end: dict[str, object] = {"status": wire_status(run.status, timed_out=run.timed_out)}
    if run.status is Status.AWAITING_CHECKPOINT:
        end["waits"] = True
    found = [StreamEvent(after, run_id, END, dumps(end), at)]
    if run.status is Status.FAILED:
        error = {"error": "RunFailed", "message": run.error or "It failed."}
        found.insert(0, StreamEvent(after, run_id, "error", dumps(error), at))
    return found


async def protocol_events(
    services: Services, who: Caller, thread_id: str, subscription: Subscription, since: int | None
) -> AsyncIterator[list[ProtocolEvent]]:
    """What a client wants of a thread, as the event streaming protocol has it."""
    key = f"{who.user}:{thread_id}" if subscription.channels <= _CONTROL else None
    begin = await run_in_threadpool(_begin, services, thread_id, since, key)
    made, at = ThreadEvents(), begin
    async for events in follow_thread(services, who, thread_id, begin):
        if not events:
            yield []
            continue
        sent = list[ProtocolEvent]()
        for event in events:
            if event.event == "metadata":
                made.graph = await run_in_threadpool(_graph_of, services, event.run_id)
            if event.event == "gap":
                since = None  # its number may be of a log that is gone
            # The end of a run that could not say so has no number of its own.
            floor = -1 if since is None or event.seq <= at else since
            at = max(at, event.seq)
            sent += [
                shown for shown in made.of(event) if shown.seq > floor and subscription.wants(shown)
            ]
            if key is not None and event.event == END:
                services.streams.ends_shown[key] = event.run_id
        if sent:
            yield sent


def _graph_of(services: Services, run_id: str) -> str | None:
    try:
        return services.tank.runs.get(UUID(run_id)).graph
    except (DatabaseUnavailable, RunNotFound):
        return None


def _begin(services: Services, thread_id: str, since: int | None, key: str | None) -> int:
    """The number after which is read: a run is read from its beginning, whatever is sent of it."""
    log = services.streams.log
    if since is not None:
        at = since // STEP
        page = log.read(thread_id, after=max(0, at - 1), limit=1)
        if page.gap is not None or not page.events:
            return at
        first = log.read(thread_id, run_id=page.events[0].run_id, limit=1)
        return min(at, first.events[0].seq - 1) if first.events else at
    last = log.read(thread_id, limit=1).last
    shown = services.streams.ends_shown.get(key) if key is not None else None
    for run in _worth_replaying(services, thread_id, shown):
        first = log.read(thread_id, run_id=str(run.run_id), limit=1)
        if first.events:
            return first.events[0].seq - 1
    return last


def _worth_replaying(services: Services, thread_id: str, shown: str | None) -> list[Run]:
    """What is under way; else the last run, when it asks people, or when it is so new that who
    started it may be the one who asks."""
    runs = _newest(services, thread_id)
    under_way = [run for run in runs if run.status not in _OVER]
    if under_way or not runs:
        return under_way
    (last,) = runs[-1:]
    if last.status is Status.AWAITING_CHECKPOINT:
        return [last]
    is_new = _age(services, last) < _JUST_NOW_S
    return [last] if is_new and str(last.run_id) != shown else []


async def run_frames(
    services: Services, who: Caller, thread_id: str, after: int, wanted: frozenset[str]
) -> AsyncIterator[bytes]:
    """All runs of a thread as server-sent events in the form of runs, of the kinds that are
    wanted."""
    async for events in follow_thread(services, who, thread_id, after):
        shown = [frame(event) for event in events if _is_wanted(event, wanted)]
        if shown or not events:
            yield b"".join(shown) or b": still here\n\n"


def _is_wanted(event: StreamEvent, wanted: frozenset[str]) -> bool:
    if "run_modes" in wanted:
        return True
    if event.event in _HOW_RUNS_GO:
        return "lifecycle" in wanted or event.event == "gap"
    return "state_update" in wanted and event.event.partition("|")[0] in ("values", "updates")
