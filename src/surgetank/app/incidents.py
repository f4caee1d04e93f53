"""`tank.incidents`: trouble that people were told of and that is not over."""

from __future__ import annotations

from collections.abc import Callable, Collection

from surgetank.events.types import BUFFER_AWAY, Incident
from surgetank.notify import wording
from surgetank.notify.banners import Banners


class Incidents:
    """What is going on, for operators and for the user of a thread.

    A sink that takes nothing is one incident, with the number of threads that wait for it in
    `affected`; asked for one of these threads, it is among that one's. While the server of the
    buffer does not answer, the one incident is that nobody can know more. Raises
    `BufferUnavailable`.
    """

    def __init__(self, banners: Banners, *, clock: Callable[[], float]) -> None:
        self._banners = banners
        self.now = clock

    def __call__(self, thread_id: str | None = None) -> list[Incident]:
        """All of them, the oldest first; of a thread, all that is a banner for its user."""
        if thread_id is None:
            return self._banners.of_all()
        return self._banners.of_threads([thread_id])[thread_id]

    def of_threads(self, threads: Collection[str]) -> dict[str, list[Incident]]:
        """The banners of several threads at once."""
        return self._banners.of_threads(threads)

    def ended(self, incident: Incident) -> str:
        """What users read when an incident of a sink, or of the buffer, is over now."""
        if incident.key == BUFFER_AWAY:
            return wording.buffer_back(max(0.0, self.now() - incident.since))
        return wording.recovered(incident, "", max(0.0, self.now() - incident.since))
