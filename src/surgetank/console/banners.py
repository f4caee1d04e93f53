"""The banners of a page: what of saving fails, for who looks at it. They are made here from what the
server knows, at each load and whenever an event says that something has changed."""

from __future__ import annotations

from typing import Any

from surgetank.events.types import Incident
from surgetank.server.access.disclosure import incident_for, reads_technical
from surgetank.server.access.roles import Caller
from surgetank.server.services import Services

MOST = 3
_PARKED = "parked:"  # keys of incidents about an entry that was refused


def banners_of(services: Services, who: Caller, thread_id: str | None) -> dict[str, Any]:
    """The gravest ones, and how many more there are; of one thread, or of all that the caller may
    read. Raises `BufferUnavailable`."""
    found = services.tank.incidents(thread_id) if thread_id is not None else _of_all(services, who)
    found = sorted(found, key=lambda i: (-i.severity.rank, i.thread_id is not None, i.since))
    url = services.settings.support_url
    shown = [(i.key, incident_for(who, i, support_url=url)) for i in found[:MOST]]
    return {
        "banners": [
            {
                **body,
                "key": key,
                "critical": body["severity"] == "critical",
                "title": _title(key, body["severity"] == "critical"),
                # Of one conversation among many a line is enough.
                "open": body["thread_id"] is None or body["thread_id"] == thread_id,
                "affected": body.get("affected", 1),
                "error": body.get("error_details", {}).get("error", ""),
                "reference": body.get("error_details", {}).get("reference", ""),
            }
            for key, body in shown
        ],
        "more": max(0, len(found) - MOST),
        "support_url": url,
    }


def _title(key: str, critical: bool) -> str:
    if key.startswith(_PARKED):
        return "Something was set aside"
    return "Saving fails" if critical else "Saving is delayed"


def _of_all(services: Services, who: Caller) -> list[Incident]:
    found = services.tank.incidents()
    named = {i.thread_id for i in found if i.thread_id is not None}
    readable = services.visibility.readable(who, named)
    return [
        i
        for i in found
        if i.thread_id in readable
        or (i.thread_id is None and (reads_technical(who) or i.is_of_sink))
    ]
