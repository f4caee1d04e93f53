"""All that reports to people, around one event log: thread logs, system errors, the notifier with
its channels, alerts."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from surgetank.bounded import BoundedMap
from surgetank.buffer.coordination import Backlog, Parking
from surgetank.buffer.log import Log
from surgetank.buffer.tallies import Tallies
from surgetank.buffer.upkeep import Damages
from surgetank.database.pool import Database
from surgetank.events.protocol import EventLog
from surgetank.exceptions import (
    BufferProblem,
    DatabaseUnavailable,
    ErrorNotFound,
    ErrorStateConflict,
    SurgetankError,
)
from surgetank.flush.breaker import BreakerState
from surgetank.flush.flusher import Flusher
from surgetank.notify.alerts.book import AlertBook
from surgetank.notify.alerts.delivery import open_channels
from surgetank.notify.alerts.facts import FactFinder
from surgetank.notify.alerts.watch import AlertWatch
from surgetank.notify.banners import Banners
from surgetank.notify.channels import ConsoleChannel, ErrorChannel, EventChannel, ThreadLogChannel
from surgetank.notify.news import Channel
from surgetank.notify.notifier import Notifier
from surgetank.notify.retention import Retention
from surgetank.notify.runs import RunReporter
from surgetank.settings import Settings
from surgetank.streams.errors.groups import HEALED_BY
from surgetank.streams.errors.store import SystemErrors
from surgetank.streams.logs.store import ThreadLogs
from surgetank.streams.stream import Streams
from surgetank.telemetry import log

_SAME_PROBLEM_S = 300.0
_MAINTAIN_S = 5.0
_HEALED = "healed by itself: what waited is saved"
_FORGET_S = 600.0


class ReportingBuffer(Log, Tallies, Backlog, Parking, Damages, Protocol):
    """What is reported from, and what reports go through."""


class Reporting:
    """Everything that reports to people, on one buffer and one database."""

    def __init__(
        self,
        buffer: ReportingBuffer,
        database: Database,
        events: EventLog,
        alert_book: AlertBook,
        settings: Settings,
        *,
        streams: Streams,
        addresses: Mapping[str, str],
        clock: Callable[[], float],
        channels: Sequence[Channel] = (),
    ) -> None:
        self._clock = clock
        self.also_forget: Callable[[str], None] = lambda _: None  # what rooms above us keep of it
        self._is_reported: Callable[[BaseException], bool] = lambda _: False
        alert_channels = open_channels([url.get_secret_value() for url in settings.alert_urls])
        self.events = events
        self.logs = ThreadLogs(buffer, database, self.events, clock=clock)
        self.errors = SystemErrors(buffer, database, clock=clock)
        self.runs = RunReporter(self.logs, self.events, clock=clock, owner_key=settings.owner_key)
        facts: dict[str, Any] = {
            "sink": "postgresql", "database": database.address, "node": settings.node,
            "database_configured": settings.database_url is not None,
        }  # fmt: skip
        self.notifier = Notifier(
            [
                ConsoleChannel(),
                ThreadLogChannel(self.runs),
                EventChannel(self.events, support_url=settings.support_url),
                ErrorChannel(self.errors),
                *channels,
            ],
            self.events,
            buffer,
            streams=streams,
            clock=clock,
            critical_after_s=settings.critical_after,
            keep_originals=settings.debug_originals,
            context=lambda: facts,
            quote_reference=settings.support_url is None,
            heal=self._heal,
        )
        self.banners = Banners(events, buffer, streams, clock=clock)
        self.retention = Retention(
            database, logs_keep_s=settings.logs_keep, errors_keep_s=settings.errors_keep
        )
        self._lock = threading.Lock()  # several threads meet problems
        self._reported_problems = BoundedMap[str, float](1000)
        self._maintained_at = self._forgot_at = float("-inf")
        self.alerts = AlertWatch(
            alert_book,
            FactFinder(
                buffer,
                database,
                self.errors,
                clock=clock,
                thread_errors=settings.alert_thread_errors,
                sinks=addresses,
                streams=streams,
                critical_after_s=settings.critical_after,
            ),
            self.errors,
            alert_channels,
            settings,
            clock=clock,
            tell=self.notifier.tell,
            problem=lambda error: self.problem(error, where="alerts"),
        )

    def tell_all(self, flushers: Mapping[str, Flusher]) -> None:
        """Tell what has happened since the last call, and what passes with time. About once a
        second."""
        self.notifier.tell_damage()
        self.sweep(flushers)
        self.errors.send_counts()
        now = self._clock()
        if not 0 <= now - self._maintained_at < _MAINTAIN_S:
            self._maintained_at = now
            self.events.maintain()

    def forget_old(self, flushers: Mapping[str, Flusher]) -> None:
        """Delete old lines and errors in the database, every ten minutes while it can be
        reached."""
        now = self._clock()
        healthy = all(
            flusher.breaker.state() is BreakerState.CLOSED for flusher in flushers.values()
        )
        if healthy and not 0 <= now - self._forgot_at < _FORGET_S:
            self._forgot_at = now
            try:
                self.retention.run(now)
            except DatabaseUnavailable as error:
                # an outage is told by what waits for the database; this can wait
                log.info("retention_postponed", error=error.what)

    def _heal(self, reference: str) -> None:
        """Resolve a system error whose cause is over, so that it no longer counts as open."""
        try:
            self.errors.act(reference, "resolve", HEALED_BY, notes=_HEALED)
        except (ErrorNotFound, ErrorStateConflict):
            log.debug("error_needs_no_healing", error_id=reference)
        except SurgetankError as error:  # it stays open, and somebody resolves it by hand
            log.info("error_not_healed", error_id=reference, error=error.what)

    def sweep(self, flushers: Mapping[str, Flusher]) -> None:
        """What passes with time: see `Notifier.sweep`."""
        down: dict[str, str] = {}
        for stream, flusher in flushers.items():
            if flusher.breaker.state() is not BreakerState.CLOSED:
                down[stream] = flusher.breaker.view().last_error or "the database can't be reached"
        self.notifier.sweep(down)

    def leave_out(self, is_reported: Callable[[BaseException], bool]) -> None:
        """Say nothing of errors that are told already, as another one."""
        self._is_reported = self.notifier.telling.is_reported = self.banners.is_away = is_reported

    def problem(self, error: BaseException, *, where: str, trace: str | None = None) -> None:
        """Tell of something unexpected; the same problem not more than once in five minutes."""
        if self._is_reported(error):
            return
        key, now = f"{where}:{type(error).__name__}:{error}", self._clock()
        with self._lock:
            if 0 <= now - self._reported_problems.get(key, float("-inf")) < _SAME_PROBLEM_S:
                return
            self._reported_problems[key] = now
        stack = trace if trace is not None else "".join(traceback.format_exception(error))
        self.notifier.problem(error, stack, where=where)

    def state_class(self, thread_id: str, level: str, what: str) -> None:
        """A line in a thread's log about a class of its state that is not what it was. Never
        raises, never waits."""
        try:
            self.runs.log(
                what, thread_id=thread_id, level=level, logger="surgetank.serializer", wait=False
            )
        except SurgetankError as error:
            log.warning("state_class_not_logged", thread_id=thread_id, about=what, error=error.what)

    def problems(self) -> list[str]:
        """What could not be told, newest last: shown in the status."""
        failed = [
            f"notification channel {name}: {message}"
            for _, name, message in self.notifier.telling.failures
        ]
        lines = [*failed[-5:], *self.alerts.problems()]
        return [*lines, *(message for _, message in [*self.runs.failures, *self.errors.lost][-5:])]

    def finish_writing(self, timeout_s: float) -> None:
        """Wait for what event loops handed over while another process held the buffer."""
        for waiting in (self.runs.hand_over, self.errors.hand_over):
            if not waiting.wait(timeout_s):
                log.warning("writes_still_wait", seconds=timeout_s)

    def forget_thread(self, thread_id: str) -> None:
        """A thread is about to be deleted: what was told of it live goes, and errors that were only
        counted become entries, so that the deletion finds them.
        """
        self.errors.send_counts(all_=True)
        self.events.forget_thread(thread_id)
        self.also_forget(thread_id)

    def close(self, within_s: float = 1.0) -> None:
        """Stop alerting, send what is counted, close the event log. An alert that is being sent has
        `within_s`."""
        self.alerts.close(within_s)
        try:
            self.errors.send_counts(all_=True)
        except (
            BufferProblem
        ) as error:  # they stay counted; whoever opens the buffer next sends them
            log.info("counts_not_sent", error=error.what)
        self.events.close()
