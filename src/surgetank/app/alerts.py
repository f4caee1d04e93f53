"""`tank.alerts`: what operators are alerted of, whether it reaches them, and a test of the way
there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from surgetank.notify.alerts.book import Attempt
from surgetank.notify.alerts.rules import DIGEST, RULES
from surgetank.notify.alerts.watch import AlertWatch, RuleState


@dataclass(frozen=True, slots=True)
class ChannelState:
    """How a channel is doing, over all processes; its name is redacted. `configured`: it is in the
    settings of this one. `waiting` messages are still to be sent.
    """

    channel: str
    configured: bool
    waiting: int
    failing_since: float | None
    last_ok_at: float | None
    last_error: str | None


class Alerts:
    """The alerts of a buffer. Methods raise `BufferUnavailable`."""

    def __init__(self, watch: AlertWatch) -> None:
        self._watch = watch

    @property
    def rules(self) -> tuple[str, ...]:
        """The names of all rules, the daily digest included."""
        return (*(rule.name for rule in RULES), DIGEST)

    @property
    def channels(self) -> Sequence[str]:
        """The redacted names of the channels that are set."""
        return tuple(self._watch.channels)

    def test(self) -> list[tuple[str, str | None]]:
        """Send a test to every channel: its name, and why it failed. Raises `ConfigurationError`
        without channels."""
        return self._watch.test()

    def states(self) -> tuple[list[RuleState], str | None]:
        """Every rule with what it finds now, and why that may be incomplete. Asks the database."""
        return self._watch.states()

    def channel_states(self) -> list[ChannelState]:
        """The channels that are set, then those for which something waits."""
        health = {channel.channel: channel for channel in self._watch.book.health()}
        waiting = self._watch.book.waiting()
        states = []
        for name in dict.fromkeys([*self.channels, *waiting]):
            known = health.get(name)
            states.append(
                ChannelState(
                    channel=name,
                    configured=name in self._watch.channels,
                    waiting=waiting.get(name, 0),
                    failing_since=known.failing_since if known is not None else None,
                    last_ok_at=known.last_ok_at if known is not None else None,
                    last_error=known.last_error if known is not None else None,
                )
            )
        return states

    def attempts(self, *, limit: int = 100) -> list[Attempt]:
        """Every attempt to deliver an alert, newest first."""
        return self._watch.book.attempts(limit=limit)

    def sent(self) -> dict[str, int]:
        """How many alerts this process has raised, by rule."""
        return self._watch.sent()

    def deliveries(self) -> dict[tuple[str, bool], int]:
        """How often this process tried to deliver, by channel and whether it arrived."""
        return self._watch.courier.counts()
