"""Alerts while the server that the alert book is on can't be asked: that it is away, and that it is back.

They go through a book in the home of this process. It knows what other processes of the home told, and
what was told before a restart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from surgetank.exceptions import BufferUnavailable
from surgetank.notify.alerts import rules
from surgetank.notify.alerts.book import Alert, AlertBook, Message
from surgetank.notify.alerts.delivery import Courier


class AwayAlerts:
    """What is told through the book of the home. Used by one thread."""

    def __init__(
        self,
        book: AlertBook,
        courier: Courier,
        channels: Sequence[str],
        compose: Callable[[Sequence[Alert]], Sequence[Message]],
        *,
        throttle_s: float,
    ) -> None:
        self._book = book
        self._courier = courier
        self._channels = channels
        self._compose = compose
        self._throttle_s = throttle_s
        self.is_lost = False

    def lost(self, error: BufferUnavailable) -> list[Alert]:
        """The server does not answer: told once, and again when that lasts."""
        self.is_lost = True
        return self._post(rules.lost_server(error.what, error.remedy))

    def found(self, now: float) -> list[Alert]:
        """It answers: told once after it was lost."""
        if not self.is_lost:
            return []
        self.is_lost = False
        self._book.maintain()
        return self._post(rules.found_server(now))

    def _post(self, alert: Alert) -> list[Alert]:
        return self._book.post([alert], self._channels, self._compose, throttle_s=self._throttle_s)

    def deliver(self, stop: threading.Event | None = None) -> int:
        """Send what is due; how many messages arrived."""
        return self._courier.deliver_due(stop)
