"""Telling all channels: one after the other, and one that fails never stops the next. Its failure is
kept, and told by the others.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence

from surgetank.events.types import Severity
from surgetank.notify.news import Channel, News


class Telling:
    """The channels, in the order in which they are told. Safe to use from several threads."""

    def __init__(self, channels: Sequence[Channel], clock: Callable[[], float]) -> None:
        self._channels = tuple(channels)
        self._clock = clock
        self._lock = threading.Lock()
        self._deliveries: dict[tuple[str, bool], int] = {}
        self.failures: deque[tuple[float, str, str]] = deque(maxlen=100)

    @property
    def channels(self) -> list[str]:
        """Their names."""
        return [channel.name for channel in self._channels]

    @property
    def deliveries(self) -> dict[tuple[str, bool], int]:
        """How often each channel was told, by whether it took it."""
        with self._lock:
            return dict(self._deliveries)

    def tell(self, news: News) -> None:
        """Tell every channel. Never raises for a channel's failure: that is recorded, and told in
        its turn."""
        self._tell(news, self._channels)

    def _tell(self, news: News, channels: Sequence[Channel]) -> None:
        for channel in channels:
            try:
                channel.tell(news)
                self._count(channel.name, ok=True)
            except Exception as error:  # noqa: BLE001 - isolation is the promise; the failure is kept and told
                self._count(channel.name, ok=False)
                self._failed(channel, error, channels)

    def _failed(self, channel: Channel, error: Exception, delivered: Sequence[Channel]) -> None:
        self.failures.append((self._clock(), channel.name, f"{type(error).__name__}: {error}"))
        others = [other for other in delivered if other is not channel]
        # what fails while it tells of a failure is only recorded
        if len(delivered) == len(self._channels):
            news = News(
                f"The notification channel {channel.name!r} failed: {error}",
                Severity.ERROR,
                error_type="notification_failed",
                detail=str(error),
                stack_trace="".join(traceback.format_exception(error)),
                group=(channel.name, type(error).__name__),
            )
            self._tell(news, others)

    def _count(self, channel: str, *, ok: bool) -> None:
        with self._lock:
            self._deliveries[channel, ok] = self._deliveries.get((channel, ok), 0) + 1
