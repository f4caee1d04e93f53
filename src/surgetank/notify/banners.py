"""The banners of threads: their own incidents, and those that are derived from a sink's.

A sink that takes nothing is one incident. Whether a thread's user sees a banner for it is asked of
the buffer, when somebody looks: an outage writes nothing for each thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from surgetank.buffer.coordination import Backlog
from surgetank.events.protocol import EventLog
from surgetank.events.types import BUFFER_AWAY, Incident, Severity
from surgetank.exceptions import BufferUnavailable
from surgetank.notify import wording
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
        # Whether an error means that the buffer is on a server that does not answer.
        self.is_away: Callable[[BaseException], bool] = lambda _: False
        self._away_since: float | None = None

    def of_threads(self, threads: Collection[str]) -> dict[str, list[Incident]]:
        """What the users of threads see, the oldest first."""
        found: dict[str, list[Incident]] = {thread: [] for thread in threads}
        try:
            self._find(found)
        except BufferUnavailable as error:
            away = self._without_buffer(error)
            return {thread: [replace(away, thread_id=thread)] for thread in threads}
        return found

    def of_all(self) -> list[Incident]:
        """All that is going on, the oldest first; without the buffer, that nobody can know it."""
        try:
            return self._incidents()
        except BufferUnavailable as error:
            return [self._without_buffer(error)]

    def _incidents(self) -> list[Incident]:
        found = self._events.incidents()
        self._away_since = None
        return found

    def _without_buffer(self, error: BufferUnavailable) -> Incident:
        """What is shown in the stead of what nobody can know. Raises the error if the buffer is not
        away."""
        if not self.is_away(error):
            raise error
        if self._away_since is None:
            self._away_since = self._clock()
        return Incident(
            key=BUFFER_AWAY,
            stream="",
            thread_id=None,
            severity=Severity.CRITICAL,
            since=self._away_since,
            message=wording.BUFFER_AWAY,
            detail=error.what,
        )

    def _find(self, found: dict[str, list[Incident]]) -> None:
        for incident in self._incidents():
            if incident.is_of_sink:
                for thread, mine in found.items():
                    if self._waits(thread, incident):
                        mine.append(replace(incident, thread_id=thread, affected=1))
            elif incident.thread_id in found:
                found[incident.thread_id].append(incident)

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
