"""The notifier's own channels, in the order in which they are told: console, thread log, run event,
system errors."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from surgetank.encode.sanitize import sanitize_for_json
from surgetank.events.protocol import EventLog
from surgetank.events.types import EventType, NewEvent, Severity
from surgetank.notify.news import Channel, News
from surgetank.notify.runs import RunReporter
from surgetank.streams.errors.groups import ErrorReport, fingerprint
from surgetank.streams.errors.store import SystemErrors
from surgetank.telemetry import log

_HARMLESS = ("stream", "job", "attempts", "parked_id")


class ConsoleChannel:
    """The program's own log."""

    name = "console"

    def tell(self, news: News) -> None:
        write = {
            "info": log.info,
            "warning": log.warning,
            "error": log.error,
            "critical": log.error,
        }[news.severity]
        write(
            news.error_type or (news.event.value if news.event else "notice"), message=news.message,
            thread=news.thread_id, error=news.detail, severity=news.severity.value, **_flat(news),
        )  # fmt: skip


class ThreadLogChannel:
    """The log of the thread it concerns, which its user reads: nothing of what the database
    said."""

    name = "thread_log"

    def __init__(self, runs: RunReporter) -> None:
        self._runs = runs

    def tell(self, news: News) -> None:
        if news.thread_id is not None:
            self._runs.log(
                news.message,
                thread_id=news.thread_id,
                level=news.severity.value,
                logger="surgetank",
                fields={**news.for_everybody.to_dict(), **_flat(news, _HARMLESS)},
                wait=False,
            )


class EventChannel:
    """Run events: the banners of users, and for what concerns no single thread those of operators.

    Only operators follow what concerns no thread, so that only there the technical reason stands.
    """

    name = "run_event"

    def __init__(self, events: EventLog, *, support_url: str | None = None) -> None:
        self._events = events
        self._support = {"support_url": support_url} if support_url else {}

    def tell(self, news: News) -> None:
        if news.event is None:
            return
        data: dict[str, Any] = {"severity": news.severity.value, "message": news.message}
        if "affected" in news.context:
            data["affected"] = news.context["affected"]
        if news.event is EventType.FLUSH_CRITICAL:
            if news.thread_id is not None:
                details = {**news.for_everybody.to_dict(), **_flat(news, _HARMLESS)}
            else:
                details = {**news.for_everybody.to_dict(), "error": news.detail, **_flat(news)}
            data["error_details"] = sanitize_for_json({**details, **self._support})
        self._events.publish([NewEvent(news.event.value, news.thread_id, data)])


class ErrorChannel:
    """The table `system_errors`, through the buffer."""

    name = "system_errors"

    def __init__(self, errors: SystemErrors) -> None:
        self._errors = errors

    def tell(self, news: News) -> None:
        if news.error_type is None or news.severity is Severity.INFO:
            return
        message = f"{news.message} Reason: {news.detail}" if news.detail else news.message
        self._errors.report(
            ErrorReport(
                error_type=news.error_type,
                message=message,
                severity=news.severity,
                thread_id=news.thread_id,
                stack_trace=news.stack_trace,
                context=news.context,
                fingerprint=fingerprint("", message, key=news.group)
                if news.group is not None
                else "",
            )
        )


class Telling:
    """All channels, told one after the other: one that fails never stops the next, and its failure
    is kept and told by the others, unless it `is_reported` as another error. Safe to use from several
    threads."""

    def __init__(self, channels: Sequence[Channel], clock: Callable[[], float]) -> None:
        self.is_reported: Callable[[BaseException], bool] = lambda _: False
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
        if self.is_reported(error):
            return
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


def _flat(
    news: News, names: Sequence[str] = (*_HARMLESS, "exception", "sqlstate", "affected")
) -> dict[str, object]:
    return {key: news.context[key] for key in names if news.context.get(key) not in (None, "")}
