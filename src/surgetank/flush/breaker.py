"""A circuit breaker per sink: while the sink is dead it is probed once in a while, not once per
partition.

Closed: everything goes through. Open: nothing does until `retry_at`. Half open: one probe goes
through, whose outcome closes or reopens it. Whoever asks by hand (`force`) is always let through as
a probe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    """Where the breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerView:
    """The breaker as it is shown to people."""

    state: BreakerState
    failures: int
    opened_at: float | None
    retry_at: float | None
    last_error: str | None


class CircuitBreaker:
    """Opens after `threshold` failures in a row; waits `base_s`, doubled for each failed probe up
    to `max_s`."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        threshold: int = 2,
        base_s: float = 0.5,
        max_s: float = 15.0,
    ) -> None:
        self._clock = clock
        self._threshold = threshold
        self._base_s = base_s
        self._max_s = max_s
        self._lock = threading.Lock()
        self._failures = 0
        self._opened_at: float | None = None
        self._retry_at = 0.0
        self._failed_at = 0.0
        self._last_error: str | None = None

    def state(self) -> BreakerState:
        """Where the breaker stands now."""
        with self._lock:
            return self._state()

    def _state(self) -> BreakerState:
        if self._failures < self._threshold:
            return BreakerState.CLOSED
        now = self._clock()
        # A retry time out of reach was set by a clock that has been set back since.
        waiting = now < self._retry_at <= now + 2 * self._max_s
        return BreakerState.OPEN if waiting else BreakerState.HALF_OPEN

    def success(self) -> bool:
        """The sink took something: close. Whether it had failed before, and so has recovered."""
        with self._lock:
            had_failed = self._failures > 0
            self._failures, self._opened_at, self._last_error = 0, None, None
        return had_failed

    def is_suspect(self) -> bool:
        """Whether it is closed although the last write failed, long enough ago to try one again:
        what failed then may wait for minutes, and nothing else would find out.
        """
        with self._lock:
            return (
                0 < self._failures < self._threshold
                and not 0 <= self._clock() - self._failed_at < self._base_s
            )

    def probe_now(self) -> None:
        """Let the next probe through at once: somebody else found the sink to be back."""
        with self._lock:
            self._retry_at = self._clock()

    def failure(self, message: str, *, sure: bool = False) -> None:
        """The sink failed as a whole (not for one partition's data). `sure`: it was asked again,
        and opens at once."""
        with self._lock:
            self._failures = max(self._failures + 1, self._threshold if sure else 0)
            self._last_error = message
            self._failed_at = self._clock()
            over = self._failures - self._threshold
            if over >= 0:
                now = self._clock()
                self._opened_at = self._opened_at or now
                self._retry_at = now + min(self._max_s, self._base_s * 2.0 ** min(over, 60))

    def view(self) -> BreakerView:
        """For status and metrics."""
        with self._lock:
            is_open = self._failures >= self._threshold
            return BreakerView(
                self._state(),
                self._failures,
                self._opened_at,
                self._retry_at if is_open else None,
                self._last_error,
            )
