"""The alert book in Redis, for all hosts on one buffer. All of it is in one slot: it is small.

What a rule composes is written only if no claim has changed since it was read: else it is composed
again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from surgetank.events.types import Severity
from surgetank.notify.alerts.book import (
    HORIZON_S,
    LONGEST_THROTTLE_S,
    MAX_CLAIMS,
    MAX_LOG,
    MAX_WAITING,
    ORPHANED_S,
    Alert,
    AlertBook,
    Attempt,
    ChannelHealth,
    Claim,
    Delivery,
    Message,
    Outcome,
    Sent,
)
from surgetank.redis.address import RedisAddress
from surgetank.redis.connecting import server_at
from surgetank.redis.scripts import Scripts
from surgetank.redis.server import Arg

_BOOK = Scripts("surgetank.notify.alerts", "redis_book.lua")


class RedisAlertBook:
    """An `AlertBook` on the server at `address`. Raises `BufferUnavailable`, `BufferFull`."""

    def __init__(
        self,
        address: RedisAddress,
        *,
        clock: Callable[[], float] = time.time,
        away: AlertBook | None = None,
    ) -> None:
        self.away = away
        self._server = server_at(address, name="alert book")
        self._tag = address.tag("alerts")
        self._clock = clock

    def post(
        self,
        alerts: Sequence[Alert],
        channels: Sequence[str],
        compose: Callable[[Sequence[Alert]], Sequence[Message]],
        *,
        throttle_s: float,
    ) -> list[Alert]:
        fields = [f"{alert.rule}\0{alert.subject}" for alert in alerts]
        while True:
            now = self._clock()
            known = self._read("claims", *fields)
            claimed = [
                (alert, field, before)
                for alert, field, before in zip(alerts, fields, known, strict=True)
                if not before or _claim(before).allows(alert, now=now, throttle_s=throttle_s)
            ]
            found = [alert for alert, _, _ in claimed]
            if not found:
                return []
            arguments: list[Arg] = [now, MAX_WAITING, len(claimed)]
            for alert, field, before in claimed:
                arguments += (field, before, _stored(Claim(now, alert.news_at)))
            arguments += (len(channels), *channels)
            for message in compose(found):
                arguments += (message.rule, message.severity.value, message.title, message.body)
            if self._write("post", *arguments):
                return found

    def take(self, channel: str, *, hold_s: float) -> Delivery | None:
        now = self._clock()
        found = self._write("take", channel, now, HORIZON_S, now + hold_s)
        if not found:
            return None
        id_, attempt, rule, severity, title, body, posted_at = (part.decode() for part in found)
        message = Message(rule, Severity.of(severity), title, body)
        return Delivery(int(id_), channel, message, float(posted_at), int(attempt))

    def record(
        self, delivery: Delivery, error: str | None, *, retry_at: float | None = None
    ) -> None:
        again = error is not None and retry_at is not None
        outcome = (
            Outcome.DELIVERED if error is None else Outcome.FAILED if again else Outcome.GAVE_UP
        )
        message, attempt = delivery.message, delivery.attempt
        self._record(delivery.channel, message, attempt, outcome, error, delivery.id, retry_at)

    def note(self, channel: str, message: Message, error: str | None) -> None:
        outcome = Outcome.DELIVERED if error is None else Outcome.GAVE_UP
        self._record(channel, message, 1, outcome, error, None, None)

    def _record(
        self,
        channel: str,
        message: Message,
        attempt: int,
        outcome: Outcome,
        error: str | None,
        id_: int | None,
        retry_at: float | None,
    ) -> None:
        again = retry_at if outcome is Outcome.FAILED and retry_at is not None else ""
        self._write(
            "record", self._clock(), channel, message.rule, message.title, attempt, outcome.value,
            int(error is not None), error or "", "" if id_ is None else id_, again,
        )  # fmt: skip

    # -- reading

    def sent(self) -> list[Sent]:
        found = self._read("sent")
        names = [field.decode().partition("\0") for field in found[::2]]
        return [
            Sent(rule, subject, float(at))
            for (rule, _, subject), at in zip(names, found[1::2], strict=True)
        ]

    def attempts(self, *, limit: int = 100) -> list[Attempt]:
        return [
            _attempt(*(part.decode() for part in line)) for line in self._read("attempts", limit)
        ]

    def health(self) -> list[ChannelHealth]:
        found = self._read("health")
        return sorted(
            (
                _health(name.decode(), *(part.decode() for part in line))
                for name, line in zip(found[::2], found[1::2], strict=True)
            ),
            key=lambda health: health.channel,
        )

    def waiting(self) -> dict[str, int]:
        return dict(sorted((name.decode(), count) for name, count in self._read("waiting")))

    # -- life

    def maintain(self) -> None:
        now = self._clock()
        forgotten = now - LONGEST_THROTTLE_S - 86_400
        self._write("maintain", now, now - ORPHANED_S, forgotten, MAX_CLAIMS, MAX_LOG)

    def close(self) -> None:
        self._server.close()
        if self.away is not None:
            self.away.close()

    def _read(self, script: str, *arguments: Arg) -> Any:
        return self._server.call(_BOOK[script], self._tag, arguments)

    def _write(self, script: str, *arguments: Arg) -> Any:
        return self._server.call(_BOOK[script], self._tag, arguments, once=True)


def _stored(claim: Claim) -> str:
    return f"{claim.at!r}|{'' if claim.news_at is None else repr(claim.news_at)}"


def _claim(stored: bytes) -> Claim:
    at, _, news_at = stored.decode().partition("|")
    return Claim(float(at), float(news_at) if news_at else None)


def _attempt(
    id_: str,
    at: str,
    channel: str,
    rule: str,
    title: str,
    attempt: str,
    outcome: str,
    failed: str,
    why: str,
) -> Attempt:
    return Attempt(
        id=int(id_),
        at=float(at),
        channel=channel,
        rule=rule,
        title=title,
        attempt=int(attempt),
        outcome=Outcome(outcome),
        error=why if failed == "1" else None,
    )


def _health(
    channel: str, delivered: str, failed: str, since: str, last_ok_at: str, last_at: str, error: str
) -> ChannelHealth:
    return ChannelHealth(
        channel=channel,
        delivered=int(delivered),
        failed=int(failed),
        failing_since=float(since) if since else None,
        last_ok_at=float(last_ok_at) if last_ok_at else None,
        last_at=float(last_at),
        last_error=error or None,
    )
