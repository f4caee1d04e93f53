"""The watch: looks every few seconds whether operators should be alerted, and has alerts delivered.

It works on a thread of its own, because both the database that it asks and the network that it
sends through may take long or never answer: flushing doesn't wait for either. Which process alerts
is decided in the alert book.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from surgetank.events.types import Severity
from surgetank.exceptions import BufferUnavailable, ConfigurationError
from surgetank.flush.policy import RetryPolicy
from surgetank.notify.alerts import rules
from surgetank.notify.alerts.away import AwayAlerts
from surgetank.notify.alerts.book import Alert, AlertBook, Delivery, Message
from surgetank.notify.alerts.delivery import AlertChannel, Courier, channel_problems
from surgetank.notify.alerts.facts import FactFinder
from surgetank.notify.alerts.rules import Facts, Limits
from surgetank.notify.news import News
from surgetank.service import Background
from surgetank.settings import Settings
from surgetank.streams.errors.store import SystemErrors

_LONGEST_RETRY_S = 300.0
_FAILING = rules.failing_partitions.__name__
_RECOVERY_SENT_S = 7 * 86_400.0
_POLL_S = 1.0
_MAINTAIN_S = 600.0


@dataclass(frozen=True, slots=True)
class RuleState:
    """A rule at this moment: what it finds, and when it last alerted anything."""

    rule: str
    about: str
    alerts: tuple[Alert, ...]
    last_sent_at: float | None


class AlertWatch:
    """Rules, digest and deliveries over one buffer. `check` and `deliver` are what its thread does,
    again and again.

    `tell` takes news of failed deliveries; `problem` what should not happen.
    """

    def __init__(
        self,
        book: AlertBook,
        facts: FactFinder,
        errors: SystemErrors,
        channels: Sequence[AlertChannel],
        settings: Settings,
        *,
        clock: Callable[[], float],
        tell: Callable[[News], None],
        problem: Callable[[BaseException], None],
    ) -> None:
        self.book = book
        self.channels = [channel.name for channel in channels]
        self._sent: Counter[str] = Counter()
        self._facts = facts
        self._errors = errors
        self._settings = settings
        self._clock = clock
        self._tell = tell
        self._problem = problem
        self._limits = Limits(
            settings.alert_failing_after, settings.alert_buffer_share, settings.alert_thread_errors
        )

        def courier(book: AlertBook) -> Courier:
            return Courier(
                book,
                channels,
                clock=clock,
                random=random.random,
                give_up_s=settings.alert_give_up_after,
                retry=RetryPolicy(settings.alert_retry_base, _LONGEST_RETRY_S),
                on_failed=self._delivery_failed,
            )

        self.courier = courier(book)
        self._away: AwayAlerts | None = None
        if book.away is not None:
            self._away = AwayAlerts(
                book.away, courier(book.away), self.channels,
                partial(rules.compose, node=settings.node), throttle_s=settings.alert_throttle,
            )  # fmt: skip
        self._digested: str | None = None
        self._lock = threading.Lock()
        self._ended = False
        self._background = Background("surgetank-alerts", self._run)

    # -- its thread

    def keep_running(self) -> None:
        """Start the thread if there is somewhere to send alerts to and it doesn't run. Returns at
        once."""
        with self._lock:
            if self.channels and not self._ended:
                self._background.start()

    def sent(self) -> dict[str, int]:
        """How many alerts this process has claimed, by rule."""
        with self._lock:
            return dict(self._sent)

    def stop(self, timeout_s: float) -> None:
        """End the thread; what it is sending may be finished. What waits stays in the book for the
        next process."""
        with self._lock:
            self._ended = True
        self._background.stop(timeout_s)

    def _run(self, stop: threading.Event) -> None:
        looked_at = maintained_at = float("-inf")
        while not stop.is_set():
            try:
                now = self._clock()
                if not 0 <= now - looked_at < self._settings.alert_every:
                    looked_at = now
                    self._check()
                if self._away is not None:
                    self._away.deliver(stop)
                if not self._is_lost:
                    self.courier.deliver_due(stop)
                    if not 0 <= now - maintained_at < _MAINTAIN_S:
                        maintained_at = now
                        self.book.maintain()
            except Exception as error:  # noqa: BLE001 - told to the operator; the thread must outlive it
                # else only the file was closed under a send that took too long
                if not stop.is_set():
                    self._problem(error)
            stop.wait(min(_POLL_S, self._settings.alert_every))

    # -- what it does

    def _check(self) -> None:
        """`check`; what a server that does not answer is about goes through the book of this home."""
        if self._away is None:
            self.check()
            return
        try:
            self.check()
        except BufferUnavailable as error:
            claimed = self._away.lost(error)
        else:
            claimed = self._away.found(self._clock())
        with self._lock:
            self._sent.update(alert.rule for alert in claimed)

    @property
    def _is_lost(self) -> bool:
        return self._away is not None and self._away.is_lost

    def check(self) -> list[Alert]:
        """Ask the rules, and put what is new into the outbox; returns that. The digest too, when it
        is due."""
        facts = self._facts.gather()
        found = rules.find(facts, self._limits)
        found += rules.recovered(self._well_again(found, facts.now), facts)
        day = rules.digest_day(facts.now, self._settings.alert_digest_hour)
        # the book knows whether another process has sent it
        if day is not None and day != self._digested:
            found.append(self.digest(day, facts))
        compose = partial(rules.compose, node=self._settings.node, problem=facts.problem)
        claimed = self.book.post(
            found, self.channels, compose, throttle_s=self._settings.alert_throttle
        )
        self._digested = day
        with self._lock:
            self._sent.update(alert.rule for alert in claimed)
        return claimed

    def _well_again(self, found: Sequence[Alert], now: float) -> set[str]:
        """Subjects that were alerted as failing, and of whose end nobody was told. Out of the book:
        it knows what other processes told, and what was told before a restart.
        """
        failing = {alert.subject for alert in found if alert.rule == _FAILING}
        open_, ended = dict[str, float](), dict[str, float]()
        for sent in self.book.sent():
            if sent.rule in (_FAILING, rules.RECOVERED):
                of = open_ if sent.rule == _FAILING else ended
                of[sent.subject] = max(sent.at, of.get(sent.subject, 0.0))
        lately = {
            name
            for name, at in open_.items()
            if at > ended.get(name, 0.0) and now - at < _RECOVERY_SENT_S
        }
        return lately - failing

    def digest(self, day: str, facts: Facts) -> Alert:
        """The digest as it would be sent now."""
        if self._facts.hanging:  # the message says that it is incomplete
            return rules.digest(day, [], [], facts)
        counts, _ = self._errors.counts()
        trends, _ = self._errors.trends(since=facts.now - 86_400.0)
        return rules.digest(day, counts, trends, facts)

    def deliver(self) -> int:
        """Send what is due; returns how many messages arrived."""
        return self.courier.deliver_due()

    def test(self) -> list[tuple[str, str | None]]:
        """Send a test to every channel: its name, and why it failed. Raises `ConfigurationError`
        without channels."""
        if not self.channels:
            raise ConfigurationError(
                "There is no alert channel.",
                remedy="set SURGETANK_ALERT_URLS to apprise URLs, separated by spaces.",
            )
        text = f"This is a test. If you read it, alerts of {self._settings.node} reach you here."
        return self.courier.test(
            Message("test", Severity.INFO, "Surgetank: test of the alerts", text)
        )

    # -- what people see

    def states(self) -> tuple[list[RuleState], str | None]:
        """Every rule with what it finds now, and why the picture may be incomplete."""
        facts = self._facts.gather()
        last: dict[str, float] = {}
        for sent in self.book.sent():
            last.setdefault(sent.rule, sent.at)
        states = [
            RuleState(
                rule.name, rule.about, tuple(rule.find(facts, self._limits)), last.get(rule.name)
            )
            for rule in rules.RULES
        ]
        hour = self._settings.alert_digest_hour
        about = (
            f"digest, every day at {hour}:00"
            if hour is not None
            else "daily digest (no hour is set)"
        )
        return [*states, RuleState(rules.DIGEST, about, (), last.get(rules.DIGEST))], facts.problem

    def problems(self) -> list[str]:
        """Channels that fail: shown in the status."""
        return channel_problems(self.book, now=self._clock())

    def _delivery_failed(self, delivery: Delivery, error: str, last: bool) -> None:
        end = "It was given up." if last else "It is tried again."
        self._tell(
            News(
                f"The alert {delivery.message.title!r} did not reach {delivery.channel}. {end}",
                Severity.ERROR if last else Severity.WARNING,
                error_type="alert_delivery_failed",
                detail=error,
                context={
                    "channel": delivery.channel,
                    "attempts": delivery.attempt,
                    "rule": delivery.message.rule,
                },
                group=("alert_delivery", delivery.channel),
            )
        )

    def close(self, within_s: float) -> None:
        """Stop, then close the book."""
        self.stop(within_s)
        self.book.close()
