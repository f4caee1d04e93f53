"""Alike news of many threads become one line with a count: an outage of 300 threads is a handful of
lines.

The first one of a kind is passed on at once. Those that follow are counted, and told together by
`due` when some seconds have gone by. Pure but for its state; the clock is passed in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from surgetank.events.types import EventType
from surgetank.notify.news import News

EVERY_S = 10.0  # so often at most is told how many more there were
FORGOTTEN_S = 60.0  # after so long without any, the next one is a first one again
_KINDS = (EventType.FLUSH_ERROR, EventType.FLUSH_CRITICAL, EventType.FLUSH_RECOVERED)


@dataclass(slots=True)
class _Kind:
    newest: News
    more: int
    reported_at: float
    seen_at: float


class Folding:
    """What was told lately, by kind. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[tuple[object, ...], _Kind] = {}

    def first(self, news: News) -> bool:
        """Whether this one is to be told now; otherwise it is counted."""
        if news.thread_id is None or news.event not in _KINDS or "parked_id" in news.context:
            return True  # news of its own
        key, now = (news.event, news.severity, news.group), self._clock()
        with self._lock:
            kind = self._kinds.get(key)
            if kind is None:
                self._kinds[key] = _Kind(news, 0, now, now)
                return True
            kind.newest, kind.more, kind.seen_at = news, kind.more + 1, now
            return False

    def due(self, *, all_: bool = False) -> list[News]:
        """Lines about those that were counted."""
        now, folded = self._clock(), []
        with self._lock:
            for key, kind in list(self._kinds.items()):
                if kind.more and (all_ or not 0 <= now - kind.reported_at < EVERY_S):
                    message = f"{kind.more} more threads alike, {kind.newest.thread_id!r} the last of them: "
                    folded.append(
                        replace(kind.newest, message=message + kind.newest.message, thread_id=None)
                    )
                    kind.more, kind.reported_at = 0, now
                elif not kind.more and not 0 <= now - kind.seen_at < FORGOTTEN_S:
                    del self._kinds[key]
        return folded
