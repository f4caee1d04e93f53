"""The banners of threads: their own incidents, and those that are derived from a sink's.

A sink that takes nothing is one incident. Whether a thread's user sees a banner for it is asked of
the buffer, when somebody looks: an outage writes nothing for each thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from surgetank.buffer.coordination import Backlog
from surgetank.events.protocol import EventLog
from surgetank.events.types import Incident
from surgetank.notify.incidents import streams_of
from surgetank.streams.stream import Streams

_WAITED_S = 1.0


class Banners:
    """What users see now. Safe to use from several threads. Raises `BufferUnavailable`."""

    def __init__(
        self,
        events: EventLog,
        buffer: Backlog,
        streams: Streams,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._events = events
        self._buffer = buffer
        self._streams = streams
        self._clock = clock

    def of_threads(self, threads: Collection[str]) -> dict[str, list[Incident]]:
        """What the users of threads see, the oldest first."""
        found: dict[str, list[Incident]] = {thread: [] for thread in threads}
        for incident in self._events.incidents():
            if incident.is_of_sink:
                for thread in threads:
                    if self._waits(thread, incident):
                        found[thread].append(replace(incident, thread_id=thread, affected=1))
            elif incident.thread_id in found:
                found[incident.thread_id].append(incident)
        return found

    def _waits(self, thread: str, incident: Incident) -> bool:
        """Whether something of the thread waits for the sink, for longer than a flush takes."""
        now = self._clock()
        for stream in streams_of(incident, self._streams):
            if self._streams.thread_of(stream, thread) is None:
                continue
            state = self._buffer.state(stream, thread)
            if state is None or not state.entries:
                continue
            if state.failure is not None or now - state.oldest_at > _WAITED_S:
                return True
        return False
