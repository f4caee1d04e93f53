"""The alert book beside the buffer: what was alerted, what waits to be delivered, what became of
each attempt.

It is shared by all processes on the buffer and needs no database, because the database may be what
the alert is about. `sqlite_book.py` is one, `redis_book.py` another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from surgetank.events.types import Severity

MAX_LOG = 5000
MAX_CLAIMS = 20_000
MAX_WAITING = 200  # of one channel
LONGEST_THROTTLE_S = 7 * 86_400.0
HORIZON_S = 900.0  # a time further away than this was set by a clock that has been set back since
ORPHANED_S = 2 * 86_400.0


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that operators should know. A rule alerts a subject at most once in the throttle's
    time.

    `news_at` is the time of the newest fact behind it: without a newer one it isn't repeated. None:
    it is repeated for as long as it lasts. `once`: it is never repeated.
    """

    rule: str
    subject: str
    severity: Severity
    title: str
    text: str
    news_at: float | None = None
    once: bool = False


class Claim(NamedTuple):
    """When an alert was claimed, and the newest fact behind it then."""

    at: float
    news_at: float | None

    def allows(self, alert: Alert, *, now: float, throttle_s: float) -> bool:
        """Whether the alert may be claimed again."""
        if alert.once or 0 <= now - self.at < throttle_s:
            return False
        return alert.news_at is None or self.news_at is None or alert.news_at > self.news_at


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent: alerts of one rule that came up together."""

    rule: str
    severity: Severity
    title: str
    body: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message on its way to one channel; `attempt` counts from 1."""

    id: int
    channel: str
    message: Message
    posted_at: float
    attempt: int


class Outcome(StrEnum):
    """What became of an attempt."""

    DELIVERED = "delivered"
    FAILED = "failed"
    GAVE_UP = "gave_up"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A line of the delivery log. `channel` is redacted; `attempt` 0 is a message that was dropped
    untried."""

    id: int
    at: float
    channel: str
    rule: str
    title: str
    attempt: int
    outcome: Outcome
    error: str | None

    @property
    def ok(self) -> bool:
        """Whether it arrived."""
        return self.outcome is Outcome.DELIVERED


@dataclass(frozen=True, slots=True)
class ChannelHealth:
    """How a channel is doing, over all processes. `failing_since` is None when its last attempt
    arrived."""

    channel: str
    delivered: int
    failed: int
    failing_since: float | None
    last_ok_at: float | None
    last_at: float
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Sent:
    """When a rule last alerted a subject."""

    rule: str
    subject: str
    at: float


class AlertBook(Protocol):
    """Claims, outbox and delivery log of alerts, shared by threads and processes. All raise
    `BufferUnavailable`.

    - An alert is claimed by exactly one process; what is claimed is in the outbox by the same step.
    - A message in the outbox is held by one process at a time; when that one dies, another takes it over. So it
      arrives at least once, and more than once only when a process died in the middle of sending.
    - All of it is bounded.
    """

    away: AlertBook | None
    """One in the home of this process, for while this one, which is on a server, can't be asked."""

    def post(
        self,
        alerts: Sequence[Alert],
        channels: Sequence[str],
        compose: Callable[[Sequence[Alert]], Sequence[Message]],
        *,
        throttle_s: float,
    ) -> list[Alert]:
        """Claim what is not throttled and put its messages into the outbox, one for each channel;
        returns it."""
        ...

    def take(self, channel: str, *, hold_s: float) -> Delivery | None:
        """The channel's next message that is due, held for `hold_s`."""
        ...

    def record(
        self, delivery: Delivery, error: str | None, *, retry_at: float | None = None
    ) -> None:
        """Record an attempt. Without an error it arrived; with one it is tried again at `retry_at`,
        or given up."""
        ...

    def note(self, channel: str, message: Message, error: str | None) -> None:
        """Record an attempt that did not come from the outbox (a test)."""
        ...

    def sent(self) -> list[Sent]:
        """What was alerted, newest first."""
        ...

    def attempts(self, *, limit: int = 100) -> list[Attempt]:
        """The delivery log, newest first."""
        ...

    def health(self) -> list[ChannelHealth]:
        """Every channel that was ever tried, by name."""
        ...

    def waiting(self) -> dict[str, int]:
        """Messages in the outbox by channel."""
        ...

    def maintain(self) -> None:
        """Forget what is too old or too much."""
        ...

    def close(self) -> None:
        """Close files and connections. Idempotent."""
        ...
