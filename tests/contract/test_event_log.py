"""What every event log promises (`events/protocol.py`), on each implementation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from support.buffers import FakeClock
from support.redis_server import url_for
from surgetank.events.protocol import EventLog
from surgetank.events.redis_log import RedisEventLog
from surgetank.events.sqlite import SQLiteEventLog
from surgetank.events.types import Gap, Incident, NewEvent, Original, Severity
from surgetank.notify.alerts.book import Alert, Message
from surgetank.notify.alerts.sqlite_book import SQLiteAlertBook
from surgetank.redis.address import parse

MAX_EVENTS, MAX_AGE_S = 100, 3600.0
Open = Callable[[], EventLog]
# A new kind of event log joins the suite by a function that opens one in a folder.
KINDS: dict[str, Callable[[Path, FakeClock], EventLog]] = {
    "sqlite": lambda folder, clock: SQLiteEventLog(
        folder / "events.db", max_events=MAX_EVENTS, max_age_s=MAX_AGE_S, originals_max_age_s=60.0, clock=clock
    ),
    "redis": lambda folder, clock: RedisEventLog(
        parse(url_for(folder)), max_events=MAX_EVENTS, max_age_s=MAX_AGE_S, originals_max_age_s=60.0, clock=clock
    ),
}  # fmt: skip


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=KINDS)
def open_log(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[Open]:
    """Opens the same log again, as another process would."""
    opened: list[EventLog] = []

    def open_() -> EventLog:
        opened.append(KINDS[request.param](tmp_path, clock))
        return opened[-1]

    yield open_
    for log in opened:
        log.close()


@pytest.fixture
def log(open_log: Open) -> EventLog:
    return open_log()


def event(thread: str | None = "t", **data: object) -> NewEvent:
    return NewEvent("step", thread, data)


def incident(
    key: str = "thread:t", severity: Severity = Severity.WARNING, since: float = 1.0
) -> Incident:
    return Incident(
        key=key, stream="checkpoints", thread_id="t", severity=severity, since=since, message="m", detail="d"
    )  # fmt: skip


def test_what_was_published_is_seen_by_every_reader_in_order(log: EventLog, open_log: Open) -> None:
    published = [
        *log.publish([event(n=1)]), *log.publish([event("other", n=2)]), *log.publish([event(None, n=3)]),
        *log.publish([event(n=4)]),
    ]  # fmt: skip
    for reader in (log, open_log()):
        assert reader.tail(0) == (None, published)
        assert reader.thread_events("t") == (None, [published[0], published[3]])
        assert reader.thread_events(None) == (None, [published[2]])
    assert all(a.id < b.id for a, b in pairwise(published))
    assert [e.seq for e in published] == [1, 1, 1, 2]
    assert (log.last_id(), log.last_seq("t")) == (published[-1].id, 2)
    assert (log.last_seq("never"), log.thread_events("never")) == (0, (None, []))


def test_events_of_several_threads_are_published_together(log: EventLog) -> None:
    published = log.publish([event(n=1), event("other", n=2), event(None, n=3), event(n=4)])
    assert [e.data["n"] for e in published] == [1, 2, 3, 4]
    assert [e.seq for e in published] == [1, 1, 1, 2]
    assert log.tail(0) == (None, sorted(published, key=lambda e: e.id))
    assert published[0].id < published[3].id, "one thread's are in their order"


def test_a_reader_goes_on_where_it_was(log: EventLog) -> None:
    published = log.publish([event(n=n) for n in range(10)])
    _, page = log.tail(published[3].id, limit=2)
    assert page == published[4:6]
    _, page = log.thread_events("t", published[7].seq)
    assert page == published[8:]
    assert log.tail(log.last_id()) == (None, [])


def test_the_newest_ones_are_found_whatever_their_numbers_are(
    log: EventLog, clock: FakeClock
) -> None:
    assert log.before_last(5) == 0
    published = [log.publish([event(f"t{n}", n=n)])[0] for n in range(10)]
    for count, wanted in ((3, published[-3:]), (10, published), (50, published), (0, [])):
        assert log.tail(log.before_last(count)) == (None, wanted)
    clock.advance(MAX_AGE_S + 1)
    new = log.publish([event(n=10)])
    log.maintain()
    assert log.tail(log.before_last(5)) == (None, new), "what is gone was not asked for"


def test_a_page_is_bounded_by_bytes_and_is_never_empty(log: EventLog) -> None:
    published = log.publish([event(text="x" * 1000) for _ in range(5)])
    _, page = log.tail(0, max_bytes=2500)
    assert page == published[:3]
    _, page = log.thread_events("t", max_bytes=1)
    assert page == published[:1]


def test_numbers_are_never_given_twice_whoever_publishes(open_log: Open) -> None:
    logs = [open_log() for _ in range(4)]

    def publish(log: EventLog) -> None:
        for n in range(20):
            log.publish([event(n=n)])

    threads = [threading.Thread(target=publish, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _, events = logs[0].thread_events("t")
    assert [e.seq for e in events] == list(range(1, 81))
    assert len({e.id for e in events}) == 80


def test_what_is_gone_is_a_gap_and_never_a_silent_hole(log: EventLog, clock: FakeClock) -> None:
    old = log.publish([event(n=n) for n in range(10)])
    clock.advance(MAX_AGE_S + 1)
    new = log.publish([event(n=10)])
    log.maintain()
    assert log.tail(old[2].id) == (Gap(None, old[2].id, old[-1].id), new)
    assert log.thread_events("t", 2) == (Gap("t", 2, 10), new)
    assert log.tail(old[-1].id) == (None, new), "who had all of it misses nothing"


def test_it_is_bounded_by_count(log: EventLog) -> None:
    for _ in range(5):
        log.publish([event(n=n) for n in range(100)])
    log.maintain()
    gap, events = log.tail(0, limit=1000)
    assert len(events) <= 2 * MAX_EVENTS
    assert gap is not None
    assert gap.missed_to < events[0].id
    assert events[-1].id == log.last_id()


def test_a_cursor_of_another_log_is_a_gap(log: EventLog) -> None:
    log.publish([event()])
    unknown = log.last_id() + 1_000_000
    gap, events = log.tail(unknown)
    assert (gap, events) == (Gap(None, unknown, log.last_id()), [])
    gap, events = log.thread_events("t", 1_000_000)
    assert (gap, events) == (Gap("t", 1_000_000, 1), [])


def test_an_incident_is_raised_once_over_all_processes_until_it_is_cleared(
    log: EventLog, open_log: Open
) -> None:
    other = open_log()
    assert log.raise_incident(incident())
    assert not other.raise_incident(incident())
    assert other.raise_incident(incident(severity=Severity.CRITICAL)), "graver"
    assert not log.raise_incident(incident(severity=Severity.WARNING)), "milder"
    assert log.raise_incident(incident("thread:u", since=0.5))
    assert [i.key for i in other.incidents()] == ["thread:u", "thread:t"], "oldest first"
    cleared = [log.clear_incident("thread:t"), other.clear_incident("thread:t")]
    assert [c is not None for c in cleared] == [True, False]
    assert log.raise_incident(incident()), "again"


def test_originals_expire(log: EventLog, clock: FakeClock) -> None:
    original = Original(
        stream="checkpoints", partition="t", job="j", path="$.a", reason="NaN", original="nan", at=clock()
    )  # fmt: skip
    log.keep_originals([original])
    assert log.originals(thread_id="t") == log.originals() == [original]
    assert log.originals(thread_id="other") == []
    clock.advance(61)
    assert log.originals() == []


def test_a_forgotten_thread_is_gone_and_its_numbers_are_not_given_again(log: EventLog) -> None:
    log.publish([event(n=n) for n in range(3)])
    (kept,) = log.publish([event("other")])
    log.raise_incident(incident())
    log.forget_thread("t")
    assert log.incidents() == []
    assert [e for e in log.tail(0)[1] if e.thread_id == "t"] == []
    assert log.thread_events("other") == (None, [kept])
    (again,) = log.publish([event(n=9)])
    assert again.seq == 4
    assert log.thread_events("t", 3) == (None, [again])


def test_threads_and_what_tells_of_them_elsewhere_are_erased(log: EventLog) -> None:
    log.publish(
        [event("t", text="of t"), event(None, text="about ANNA-7"), event(None, text="safe")]
    )
    log.publish([event("other", text="ANNA-7 said by another user")])
    log.erase(["t"], ["ANNA-7"])
    left = log.tail(0)[1]
    assert [e.data["text"] for e in left] == ["safe", "ANNA-7 said by another user"]
    assert log.last_seq("t") == 0


def test_what_was_accepted_survives_closing_and_close_may_be_repeated(
    log: EventLog, open_log: Open
) -> None:
    published = log.publish([event(n=1)])
    log.raise_incident(incident())
    log.close()
    log.close()
    again = open_log()
    assert again.tail(0) == (None, published)
    assert [i.key for i in again.incidents()] == ["thread:t"]
    assert again.size_bytes() > 0


def test_alerts_in_the_same_file_do_not_move_its_numbers(tmp_path: Path) -> None:
    """A follower begins after `last_id`: were that larger, it would miss what comes next."""
    log = SQLiteEventLog(tmp_path / "events.db")
    book = SQLiteAlertBook(tmp_path / "events.db")
    try:
        log.publish([event()])
        message = Message("rule", Severity.CRITICAL, "title", "body")

        def said(_: object) -> list[Message]:
            return [message]

        for n in range(5):
            alert = Alert("rule", str(n), Severity.CRITICAL, "title", "text")
            book.post([alert], ["channel"], said, throttle_s=0.0)
        assert log.last_id() == 1
        gap, events = log.tail(3)
        assert (gap, events) == (Gap(None, 3, 1), [])
    finally:
        log.close()
        book.close()
