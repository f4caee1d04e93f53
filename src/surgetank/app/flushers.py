"""The flushers of the streams that wait in a buffer, this engine's and those of homes beside it; and the
spiller."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from surgetank.app.backends import open_buffer
from surgetank.exceptions import SurgetankError
from surgetank.flush.breaker import CircuitBreaker
from surgetank.flush.job import Clockwork, FlushedBuffer, StreamFlusher
from surgetank.flush.policy import RetryPolicy, SpillPolicy, StreamPolicy
from surgetank.notify.spills import SpillWatch
from surgetank.sinks.protocol import Sink
from surgetank.spilling.spiller import Spiller

if TYPE_CHECKING:
    from surgetank.app.assembly import Parts


def make_flusher(parts: Parts, stream: str, sink: Sink, buffer: FlushedBuffer) -> StreamFlusher:
    """One from this buffer into this sink, by the settings of the engine."""
    settings = parts.settings
    return StreamFlusher(
        stream,
        buffer,
        sink,
        policy=parts.streams[stream].policy
        or StreamPolicy(
            entries=settings.flush_entries,
            bytes=settings.flush_bytes,
            age_s=settings.flush_age,
            batch_entries=settings.flush_batch_entries,
            batch_bytes=settings.flush_batch_bytes,
        ),
        retry=RetryPolicy(base_s=settings.retry_base, max_s=settings.retry_max),
        breaker=CircuitBreaker(parts.clock, max_s=settings.breaker_max),
        listener=parts.listeners,
        clockwork=Clockwork(parts.clock),
        node=settings.node,
        lease_ttl_s=settings.lease_ttl,
        on_findings=parts.guards.tell,
        on_recovered=parts.sink_recovered,
    )


def spill_watch(parts: Parts, *, on_problem: Callable[[SurgetankError], None]) -> SpillWatch:
    """What spills what waits too long, and tells of it."""
    settings, buffer, reporting = parts.settings, parts.buffer, parts.reporting
    spiller = Spiller(
        buffer,
        tuple(name for name, stream in parts.streams.items() if not stream.urgent),
        SpillPolicy(after_s=settings.fallback_after, fill=settings.fallback_fill),
        clock=parts.clock,
        node=settings.node,
        ttl_s=settings.lease_ttl,
        on_problem=on_problem,
    )
    return SpillWatch(spiller, buffer, reporting.notifier, reporting.events, clock=parts.clock)


def flush_beside(parts: Parts, stop: threading.Event) -> None:
    """Flush what waits for this database in default homes beside ours, under their own leases, for
    a while."""
    for found in parts.guards.due_beside():
        path = found.path / parts.settings.buffer_path.name
        with closing(open_buffer(parts.settings, parts.clock, parts.streams, path)) as other:
            for stream, flusher in parts.flushers.items():
                if parts.streams[stream].make_sink is not None:
                    make_flusher(parts, stream, flusher.sink, other).run_if_due(stop)
            other.maintain()
