"""That the server of the alert book is away is alerted through a book of the home."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from support.buffers import FakeClock
from surgetank.exceptions import BufferUnavailable
from surgetank.flush.policy import RetryPolicy
from surgetank.notify.alerts import rules
from surgetank.notify.alerts.away import AwayAlerts
from surgetank.notify.alerts.book import Message
from surgetank.notify.alerts.delivery import Courier
from surgetank.notify.alerts.sqlite_book import SQLiteAlertBook

LOST = BufferUnavailable("The buffer redis://host:1/0 does not answer.", remedy="start it.")
THROTTLE_S = 3600.0


class Channel:
    name = "channel"

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.error: str | None = None

    def send(self, message: Message) -> str | None:
        if self.error is None:
            self.sent.append(message)
        return self.error


@pytest.fixture
def channel() -> Channel:
    return Channel()


def process(home: Path, channel: Channel, clock: FakeClock) -> AwayAlerts:
    """What one process of the home has, also after a restart."""
    book = SQLiteAlertBook(home / "alerts.db", clock=clock)
    courier = Courier(
        book, [channel], clock=clock, random=lambda: 0.0, retry=RetryPolicy(),
        give_up_s=THROTTLE_S, on_failed=lambda *_: None,
    )  # fmt: skip
    compose = partial(rules.compose, node="here")
    return AwayAlerts(book, courier, ["channel"], compose, throttle_s=THROTTLE_S)


def test_it_is_alerted_once_by_all_processes_of_a_home_and_over_a_restart(
    tmp_path: Path, channel: Channel
) -> None:
    clock = FakeClock()
    one, other = process(tmp_path, channel, clock), process(tmp_path, channel, clock)
    assert len(one.lost(LOST)) == 1
    assert one.lost(LOST) == other.lost(LOST) == process(tmp_path, channel, clock).lost(LOST) == []
    assert (other.deliver(), one.deliver()) == (1, 0)
    (message,) = channel.sent
    assert message.title == "Surgetank: Critical error: redis_connection_error"
    assert "redis://host:1/0 does not answer. start it." in message.body


def test_its_end_is_told_once_and_one_that_lasts_again(tmp_path: Path, channel: Channel) -> None:
    clock = FakeClock()
    one, other = process(tmp_path, channel, clock), process(tmp_path, channel, clock)
    assert one.found(clock.now) == []
    one.lost(LOST)
    other.lost(LOST)
    clock.advance(THROTTLE_S)
    assert len(one.lost(LOST)) == 1
    assert len(one.found(clock.now)) == 1
    assert one.found(clock.now) == other.found(clock.now) == []
    one.deliver()
    assert [message.rule for message in channel.sent] == [
        "critical_errors", "critical_errors", "recovered",
    ]  # fmt: skip


def test_a_channel_that_fails_is_tried_again(tmp_path: Path, channel: Channel) -> None:
    clock = FakeClock()
    one = process(tmp_path, channel, clock)
    one.lost(LOST)
    channel.error = "no network"
    assert one.deliver() == 0
    channel.error = None
    clock.advance(60)
    assert one.deliver() == 1
