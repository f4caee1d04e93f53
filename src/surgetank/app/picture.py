"""The status of an open engine: what its parts say, put together once for all who show it."""

from __future__ import annotations

from surgetank.app.assembly import Parts
from surgetank.exceptions import BufferUnavailable
from surgetank.flush.breaker import BreakerState
from surgetank.model import BufferDepth
from surgetank.notify import wording
from surgetank.notify.health import judge, without_buffer
from surgetank.notify.incidents import Facts
from surgetank.notify.report import Notice, Status, notices


def picture_of(parts: Parts, *, ping: bool, jobs: int) -> Status:
    """See `Surgetank.status`."""
    try:
        return _picture(parts, ping=ping, jobs=jobs)
    except BufferUnavailable as error:
        if not parts.buffer_watch.is_cause_of(error):
            raise
        return _without_buffer(parts, error, ping=ping)


def _without_buffer(parts: Parts, error: BufferUnavailable, *, ping: bool) -> Status:
    """What is known while the server of the buffer does not answer."""
    settings = parts.settings
    sinks = tuple(parts.sink_statuses(ping=ping, failing=()))
    since = parts.buffer_watch.since
    return Status(
        at=parts.clock(),
        node=settings.node,
        home=str(settings.home),
        buffer_path=parts.buffer.name,
        durability=parts.buffer.durability,
        buffer=BufferDepth(0, 0, settings.buffer_max_entries, settings.buffer_max_bytes, ()),
        lag_s=0.0,
        sinks=sinks,
        failing=(),
        parked=0,
        jobs=(),
        notices=(Notice("critical", None, wording.BUFFER_AWAY, since, error.what),),
        health=without_buffer([sink.facts for sink in sinks]),
        flushing=parts.scheduler.running,
        support_url=settings.support_url,
        problems=tuple(parts.problems),
    )


def _picture(parts: Parts, *, ping: bool, jobs: int) -> Status:
    settings, now = parts.settings, parts.clock()
    depth = parts.backlog.depth()
    failing = tuple(parts.backlog.states(failing=True, limit=100))
    sinks = tuple(parts.sink_statuses(ping=ping, failing=failing))
    parked = parts.backlog.parked()
    oldest = [s.oldest_at for s in depth.streams if s.oldest_at is not None and s.entries]
    fallback = parts.spills.status(ping=ping)
    facts = Facts(
        now=now,
        critical_after_s=settings.critical_after,
        groups=parts.backlog.failures() if any(s.failing for s in depth.streams) else (),
        waiting=depth.streams,
        down={s.stream: s.last_error or "" for s in sinks if s.breaker != BreakerState.CLOSED},
        states=failing,
        parked=parked,
    )
    found = notices(
        facts, depth, streams=parts.streams, fallback=fallback,
        forks=parts.reporting.notifier.forks(),
    )  # fmt: skip
    found = (*found, *parts.guards.notices())
    problems = (
        *parts.problems,
        *(f"{f.listener}: {f.event}: {f.error}" for f in parts.listeners.failures[-5:]),
        *parts.reporting.problems(),
    )
    lag_s = max(0.0, now - min(oldest)) if oldest else 0.0
    health = judge(
        depth,
        [sink.facts for sink in sinks],
        [notice.severity for notice in found],
        lag_s=lag_s,
        flushes=parts.scheduler.running if settings.flush_in_process else None,
        problems=len(problems),
        patience_s=settings.critical_after,
        fallback_usable=fallback.reachable if fallback is not None else None,
    )
    return Status(
        at=now,
        node=settings.node,
        home=str(settings.home),
        buffer_path=parts.buffer.name,
        durability=parts.buffer.durability,
        buffer=depth,
        lag_s=lag_s,
        sinks=sinks,
        failing=failing,
        parked=len(parked),
        jobs=tuple(parts.buffer.jobs(limit=jobs)),
        notices=found,
        health=health,
        flushing=parts.scheduler.running,
        fallback=fallback,
        support_url=settings.support_url,
        problems=problems,
    )
