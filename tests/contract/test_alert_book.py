"""What every alert book promises (`notify/alerts/book.py`), on each implementation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from support.buffers import FakeClock
from support.redis_server import url_for
from surgetank.events.types import Severity
from surgetank.notify.alerts.book import Alert, AlertBook, Delivery, Message, Outcome
from surgetank.notify.alerts.redis_book import RedisAlertBook
from surgetank.notify.alerts.sqlite_book import SQLiteAlertBook
from surgetank.redis.address import parse

Open = Callable[[], AlertBook]
# A new kind of alert book joins the suite by a function that opens one in a folder.
KINDS: dict[str, Callable[[Path, FakeClock], AlertBook]] = {
    "sqlite": lambda folder, clock: SQLiteAlertBook(folder / "events.db", clock=clock),
    "redis": lambda folder, clock: RedisAlertBook(parse(url_for(folder)), clock=clock),
}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=KINDS)
def open_book(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[Open]:
    """Opens the same book again, as another process would."""
    opened: list[AlertBook] = []

    def open_() -> AlertBook:
        opened.append(KINDS[request.param](tmp_path, clock))
        return opened[-1]

    yield open_
    for book in opened:
        book.close()


@pytest.fixture
def book(open_book: Open) -> AlertBook:
    return open_book()


def alert(subject: str = "thread t", *, news_at: float | None = None, once: bool = False) -> Alert:
    return Alert("rule", subject, Severity.CRITICAL, "title", "text", news_at=news_at, once=once)


def one_message(alerts: Sequence[Alert]) -> list[Message]:
    subjects = ", ".join(a.subject for a in alerts)
    return [Message("rule", Severity.CRITICAL, "title", subjects)]


def post(book: AlertBook, *alerts: Alert, throttle_s: float = 60.0) -> list[str]:
    claimed = book.post(alerts, ["mail", "chat"], one_message, throttle_s=throttle_s)
    return [a.subject for a in claimed]


def take(book: AlertBook, channel: str = "mail", hold_s: float = 30.0) -> Delivery:
    delivery = book.take(channel, hold_s=hold_s)
    assert delivery is not None
    return delivery


def test_an_alert_is_claimed_by_exactly_one_and_is_in_the_outbox_by_the_same_step(
    open_book: Open,
) -> None:
    books = [open_book() for _ in range(4)]
    claimed: list[str] = []
    threads = [threading.Thread(target=lambda b=b: claimed.extend(post(b, alert()))) for b in books]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert claimed == ["thread t"]
    assert books[0].waiting() == {"mail": 1, "chat": 1}
    assert [(s.rule, s.subject) for s in books[1].sent()] == [("rule", "thread t")]


def test_what_was_alerted_is_not_repeated_before_its_time_or_without_news(
    book: AlertBook, clock: FakeClock
) -> None:
    assert post(book, alert("lasts"), alert("news", news_at=1.0), alert("once", once=True)) == [
        "lasts", "news", "once",
    ]  # fmt: skip
    assert post(book, alert("lasts"), alert("news", news_at=2.0)) == []
    clock.advance(61)
    assert post(book, alert("lasts"), alert("news", news_at=1.0), alert("once", once=True)) == [
        "lasts"
    ]
    assert post(book, alert("news", news_at=2.0)) == ["news"]


def test_a_message_is_held_by_one_and_taken_over_when_that_one_dies(
    book: AlertBook, open_book: Open, clock: FakeClock
) -> None:
    post(book, alert())
    held, other = take(book), open_book()
    assert other.take("mail", hold_s=30) is None
    assert take(other, "chat").message == held.message, "each channel has its own"
    clock.advance(31)
    again = take(other)
    assert (again.id, again.message) == (held.id, held.message)
    other.record(again, None)
    assert other.take("mail", hold_s=30) is None
    assert [a.outcome for a in other.attempts()] == [Outcome.DELIVERED]


def test_what_failed_is_tried_again_in_order_or_given_up(book: AlertBook, clock: FakeClock) -> None:
    post(book, alert())
    first = take(book)
    book.record(first, "no answer", retry_at=clock() + 10)
    assert book.take("mail", hold_s=30) is None, "not yet"
    clock.advance(10)
    second = take(book)
    assert (second.id, second.attempt) == (first.id, first.attempt + 1)
    book.record(second, "no answer", retry_at=None)
    clock.advance(1000)
    assert book.take("mail", hold_s=30) is None, "given up"
    assert "mail" not in {name for name, n in book.waiting().items() if n}
    (health,) = [h for h in book.health() if h.channel == "mail"]
    assert (health.delivered, health.failed, health.last_error) == (0, 2, "no answer")
    assert health.failing_since is not None


def test_a_success_ends_a_channel_s_trouble(book: AlertBook) -> None:
    post(book, alert())
    book.record(take(book), "no answer", retry_at=0.0)
    book.record(take(book), None)
    (health,) = [h for h in book.health() if h.channel == "mail"]
    assert (health.delivered, health.failed, health.failing_since) == (1, 1, None)


def test_a_test_message_is_recorded_too(book: AlertBook) -> None:
    book.note("mail", one_message([alert()])[0], None)
    (attempt,) = book.attempts()
    assert (attempt.channel, attempt.outcome) == ("mail", Outcome.DELIVERED)


def test_all_of_it_survives_closing_and_close_may_be_repeated(
    book: AlertBook, open_book: Open
) -> None:
    post(book, alert())
    book.close()
    book.close()
    again = open_book()
    assert again.waiting() == {"mail": 1, "chat": 1}
    assert post(again, alert()) == [], "claimed before"
    assert take(again).message.body == "thread t"


def test_outbox_and_log_are_bounded_and_what_is_dropped_is_in_the_log(book: AlertBook) -> None:
    for n in range(3000):
        book.post([alert(f"s{n}")], ["mail"], one_message, throttle_s=0.0)
    waiting = book.waiting()["mail"]
    assert waiting <= 2000
    dropped = [a for a in book.attempts(limit=10_000) if a.outcome is Outcome.DROPPED]
    assert len(dropped) == 3000 - waiting


def test_claims_are_forgotten_after_their_time(book: AlertBook, clock: FakeClock) -> None:
    post(book, alert())
    clock.advance(400 * 86400)
    book.maintain()
    assert book.sent() == []
    assert not any(book.waiting().values())
