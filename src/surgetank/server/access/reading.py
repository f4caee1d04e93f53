"""What viewers may ask for: whatever changes nothing. Pure.

A route that is not named here and no GET is for those who may write, so that a new one is closed until somebody
thinks of it.
"""

from __future__ import annotations

_THREAD = "/threads/{thread_id:name}"
_READING = frozenset(
    {
        "/ws/ticket",
        "/threads/search",
        "/threads/count",
        f"{_THREAD}/history",
        f"{_THREAD}/state/checkpoint",
        f"{_THREAD}/stream/events",
        f"{_THREAD}/commands",  # what it starts is looked at there
        "/assistants/search",
        "/assistants/count",
        "/assistants/{assistant}/versions",
        "/runs/crons/search",
        "/runs/crons/count",
        "/store/items/search",
        "/store/namespaces",
        "/sql",  # each statement is looked at
    }
)


def only_reads(method: str, path: str) -> bool:
    """Whether a request to this route changes nothing, whatever is in it."""
    return method in ("GET", "HEAD") or (method == "POST" and path in _READING)
