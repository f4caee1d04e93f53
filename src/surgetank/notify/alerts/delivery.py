"""Alerts on their way out: apprise does the sending, a courier retries, and every attempt stands in
the delivery log.

The URLs are secrets and what apprise logs may repeat them. So a channel is shown by
`channel_names`, what apprise and urllib3 log while we send goes nowhere but into the attempt's
error, and that is cleaned of every piece of the URL.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol
from urllib.parse import unquote, urlsplit

from surgetank.events.types import Severity
from surgetank.exceptions import BufferProblem, ConfigurationError, MissingExtra
from surgetank.flush.policy import RetryPolicy, next_attempt
from surgetank.model import Failure, FailureKind
from surgetank.notify.alerts.book import AlertBook, Delivery, Message

_HOSTED = {"http", "https", "json", "jsons", "xml", "xmls", "form", "forms", "mailto", "mailtos"}
_HOLD_S = 300.0  # longer than any send takes
_KINDS = {
    Severity.INFO: "info",
    Severity.WARNING: "warning",
}  # everything graver is apprise's "failure"


class AlertChannel(Protocol):
    """One place that alerts go to."""

    @property
    def name(self) -> str:
        """The channel as it may be shown to anybody."""
        ...

    def send(self, message: Message) -> str | None:
        """Send it now; returns why that failed, or None. May take seconds, never raises for a
        failed delivery."""
        ...


def channel_names(urls: Sequence[str]) -> list[str]:
    """How apprise URLs are shown: the service, and the host where it is no secret; the second alike
    gets `#2`."""
    seen: Counter[str] = Counter()
    names: list[str] = []
    for url in urls:
        scheme = url.partition("://")[0].lower()
        known = scheme if re.fullmatch(r"[a-z0-9_-]{1,30}", scheme) else "unknown"
        name = f"{known}://{_host(url) if known in _HOSTED else '***'}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "***"
    return f"{parts.hostname or '***'}{port}"


class AppriseChannel:
    """A channel behind an apprise URL. Whether apprise understands the URL shows at the first
    send."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._url = url

    def send(self, message: Message) -> str | None:
        import apprise  # noqa: PLC0415 - an extra, and slow to load

        with _Overheard() as overheard:
            try:
                asset = apprise.AppriseAsset(
                    app_id="Surgetank", app_desc="Surgetank alerts", async_mode=False
                )
                service = apprise.Apprise.instantiate(self._url, asset=asset)
                if service is None:
                    return "apprise can't use this URL: see its documentation for how this service's URLs are written"
                if service.notify(
                    body=message.body,
                    title=message.title,
                    notify_type=_KINDS.get(message.severity, "failure"),
                    body_format=apprise.NotifyFormat.TEXT,
                ):
                    return None
            except Exception as error:  # noqa: BLE001 - a plugin's bug is a failed delivery: recorded, retried, told
                return self._clean(f"{type(error).__name__}: {error}")
        return (
            self._clean("; ".join(overheard.lines))
            or "the service did not take it and gave no reason"
        )

    def _clean(self, text: str) -> str:
        """The text without any piece of the URL that isn't shown in the name."""
        pieces = {
            piece for raw in re.split(r"[/?&=:@#,+]", self._url) for piece in (raw, unquote(raw))
        }
        for piece in sorted(pieces, key=len, reverse=True):
            if len(piece) >= 3 and piece not in self.name:
                text = text.replace(piece, "***")
        return " ".join(text.split())[:500]


class _Hush(logging.Filter):
    """Keeps what a sending thread logs for itself, and from everybody else; other threads' records
    pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        lines = getattr(_sending, "lines", None)
        if lines is None:
            return True
        if record.levelno >= logging.WARNING:
            lines.append(record.getMessage())
        return False


_sending = threading.local()
_hush = _Hush()


class _Overheard:
    """While it is entered, what apprise and urllib3 log on this thread is collected in `lines`."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __enter__(self) -> _Overheard:
        for name in ("apprise", "urllib3.connectionpool", "urllib3.util.retry"):
            logging.getLogger(name).addFilter(_hush)  # added once, however often
        _sending.lines = self.lines
        return self

    def __exit__(self, *exc: object) -> None:
        _sending.lines = None


def open_channels(urls: Sequence[str]) -> list[AlertChannel]:
    """The channels of these URLs. Raises `MissingExtra` without apprise, `ConfigurationError` for
    what is no URL."""
    if urls and importlib.util.find_spec("apprise") is None:
        raise MissingExtra("apprise", "alerts", "Alerting (SURGETANK_ALERT_URLS is set)")
    for number, url in enumerate(urls, start=1):
        if not re.match(r"[A-Za-z0-9_-]+://.", url):
            raise ConfigurationError(
                f"Number {number} of the alert URLs is no URL (it is not shown, it may be secret).",
                remedy="write apprise URLs separated by spaces in SURGETANK_ALERT_URLS, such as "
                "mailto://... or json://...",
            )
    return [AppriseChannel(name, url) for name, url in zip(channel_names(urls), urls, strict=True)]


class Courier:
    """Delivers what is in the outbox, with retries. Called by one thread.

    `on_failed` is told of a message's first failed attempt and of its last.
    """

    def __init__(
        self,
        book: AlertBook,
        channels: Sequence[AlertChannel],
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        retry: RetryPolicy,
        give_up_s: float,
        on_failed: Callable[[Delivery, str, bool], None],
    ) -> None:
        self._book = book
        self._channels = tuple(channels)
        self._clock = clock
        self._random = random
        self._retry = retry
        self._give_up_s = give_up_s
        self._on_failed = on_failed
        self._counts: Counter[tuple[str, bool]] = Counter()
        self._counting = threading.Lock()

    def counts(self) -> dict[tuple[str, bool], int]:
        """Attempts of this process, by channel and whether they arrived."""
        with self._counting:
            return dict(self._counts)

    def deliver_due(self, stop: threading.Event | None = None) -> int:
        """Send what is due; returns how many messages arrived. A channel that fails is left for the
        next time."""
        arrived = 0
        for channel in self._channels:
            while not (stop is not None and stop.is_set()):
                delivery = self._book.take(channel.name, hold_s=_HOLD_S)
                if delivery is None:
                    break
                if not self._deliver(channel, delivery):
                    break
                arrived += 1
        return arrived

    def _deliver(self, channel: AlertChannel, delivery: Delivery) -> bool:
        error = channel.send(delivery.message)
        with self._counting:
            self._counts[channel.name, error is None] += 1
        now = self._clock()
        decision = next_attempt(
            Failure(FailureKind.TRANSIENT, error or "", "AlertDeliveryFailed"),
            delivery.attempt - 1,
            now,
            self._retry,
            self._random,
        )
        last = decision.next_at - delivery.posted_at > self._give_up_s
        self._book.record(delivery, error, retry_at=None if last else decision.next_at)
        if error is not None and (last or delivery.attempt == 1):
            self._on_failed(delivery, error, last)
        return error is None

    def test(self, message: Message) -> list[tuple[str, str | None]]:
        """Send a message to every channel at once, without retries: each channel's name and
        error."""
        outcome: list[tuple[str, str | None]] = []
        for channel in self._channels:
            error = channel.send(message)
            self._book.note(channel.name, message, error)
            outcome.append((channel.name, error))
        return outcome


def channel_problems(book: AlertBook, *, now: float, within_s: float = 86_400.0) -> list[str]:
    """What the status says of channels that failed at their last attempt."""
    try:
        health = book.health()
    except BufferProblem as error:
        return [f"alert book: {error.what}"]
    return [
        f"alert channel {channel.channel} fails: {channel.last_error} (see `surgetank alerts log`)"
        for channel in health
        if channel.failing_since is not None and now - channel.last_at < within_s
    ]
