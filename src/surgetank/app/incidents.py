"""`tank.incidents`: trouble that people were told of and that is not over."""

from __future__ import annotations

from collections.abc import Callable, Collection

from surgetank.events.protocol import EventLog
from surgetank.events.types import Incident
from surgetank.notify import wording
from surgetank.notify.banners import Banners


class Incidents:
    """What is going on, for operators and for the user of a thread.

    A sink that takes nothing is one incident, with the number of threads that wait for it in
    `affected`; asked for one of these threads, it is among that one's. Raises `BufferUnavailable`.
    """

    def __init__(self, events: EventLog, banners: Banners, *, clock: Callable[[], float]) -> None:
        self._events = events
        self._banners = banners
        self.now = clock

    def __call__(self, thread_id: str | None = None) -> list[Incident]:
        """All of them, the oldest first; of a thread, all that is a banner for its user."""
        if thread_id is None:
            return self._events.incidents()
        return self._banners.of_threads([thread_id])[thread_id]

    def of_threads(self, threads: Collection[str]) -> dict[str, list[Incident]]:
        """The banners of several threads at once."""
        return self._banners.of_threads(threads)

    def ended(self, incident: Incident) -> str:
        """What users read when a sink's incident is over now."""
        return wording.recovered(incident, "", max(0.0, self.now() - incident.since))
