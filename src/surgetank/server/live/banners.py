"""Banners of followed threads that come from a sink's trouble: asked of the buffer about once a
second, together for all followers, and only while there is such trouble.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from surgetank.app.incidents import Incidents
from surgetank.events.types import Incident
from surgetank.server.access.disclosure import incident_for
from surgetank.server.access.roles import Caller

if TYPE_CHECKING:
    from surgetank.server.services import Services

REFRESH_S = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found of a thread: the gravest banner that a sink gives it, and whether it has no
    banner at all. `version` grows with each time that was asked."""

    version: int
    derived: Incident | None
    is_clear: bool


class LiveBanners:
    """For one event loop. Raises what the buffer raises."""

    def __init__(self, incidents: Incidents) -> None:
        self._incidents = incidents
        self._followed: Counter[str | None] = Counter()
        self._seen: dict[str | None, Seen] = {}
        self._trouble = False
        self.version = 0

    def follow(self, thread_id: str | None) -> None:
        """Ask about this thread too; None asks about the sinks themselves."""
        self._followed[thread_id] += 1

    def leave(self, thread_id: str | None) -> None:
        """A follower of the thread has gone."""
        self._followed[thread_id] -= 1
        if not self._followed[thread_id]:
            del self._followed[thread_id]
            self._seen.pop(thread_id, None)

    def of(self, thread_id: str | None) -> Seen | None:
        """What was found last, if anything was."""
        return self._seen.get(thread_id)

    async def refresh(self) -> bool:
        """Ask again; whether something has changed for a follower."""
        sinks = [i for i in await run_in_threadpool(self._incidents) if i.is_of_sink]
        if not sinks and not self._trouble:
            return False
        self._trouble = bool(sinks)
        threads = [thread for thread in self._followed if thread is not None]
        found = await run_in_threadpool(self._incidents.of_threads, threads)
        self.version += 1
        seen: dict[str | None, Seen] = {
            thread: Seen(self.version, _gravest(incidents), not incidents)
            for thread, incidents in found.items()
        }
        seen[None] = Seen(self.version, _gravest(sinks), not sinks)
        changed = any(
            old is None or old.derived != new.derived or old.is_clear != new.is_clear
            for thread, new in seen.items()
            for old in [self._seen.get(thread)]
        )
        self._seen = {
            thread: new
            for thread, new in seen.items()
            if thread is None or thread in self._followed
        }
        return changed


def _gravest(incidents: list[Incident]) -> Incident | None:
    derived = [incident for incident in incidents if incident.is_of_sink]
    return max(derived, key=lambda incident: incident.severity.rank, default=None)


def incidents_of(services: Services, who: Caller, thread_id: str) -> list[dict[str, Any]]:
    """The banners of a thread as events, as far as the caller may read them."""
    url = services.settings.support_url
    return [
        incident_for(who, incident, support_url=url)
        for incident in services.tank.incidents(thread_id)
    ]
