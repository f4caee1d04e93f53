"""What is particular to events in Redis: shards whose clocks differ, followers beside publishers, rows of
the audit that are sent again. What every event log promises is in tests/contract.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.redis_server import shared, url_for
from surgetank.events.redis_log import RedisEventLog
from surgetank.events.types import Forwarded, NewEvent, RunEvent, Severity
from surgetank.exceptions import BufferUnavailable
from surgetank.notify.alerts.book import Alert, Message
from surgetank.notify.alerts.redis_book import RedisAlertBook
from surgetank.redis.address import RedisAddress, parse
from surgetank.redis.server import RedisServer

AN_HOUR = 3600 * 62_500  # ticks
THREADS = [f"thread-{n}" for n in range(12)]


@pytest.fixture
def address(tmp_path: Path) -> RedisAddress:
    return parse(url_for(tmp_path))


@pytest.fixture
def log(address: RedisAddress) -> Iterator[RedisEventLog]:
    log = RedisEventLog(address)
    yield log
    log.close()


def told(log: RedisEventLog, *threads: str, n: int = 0) -> list[RunEvent]:
    return [log.publish([NewEvent("step", thread, {"n": n})])[0] for thread in threads]


@pytest.mark.parametrize("ahead", [AN_HOUR, -AN_HOUR])
@pytest.mark.parametrize("shard", range(4))
def test_a_shard_whose_clock_differs_hides_nothing_and_holds_nobody_up(
    address: RedisAddress, log: RedisEventLog, shard: int, ahead: int
) -> None:
    told(log, *THREADS)
    client = shared().client()
    for other in range(4):
        if (other == shard) is (ahead > 0):  # a clock behind is one that the others are ahead of
            client.hincrby(address.tag(other) + b":shard", "last", AN_HOUR)
    seen = log.tail(0)[1]
    for n in range(1, 4):
        news = told(log, *THREADS, n=n)
        at = log.last_id()
        assert at == max(event.id for event in news)
        later = told(log, *THREADS[::-1], n=-n)
        assert all(event.id > at for event in later)
        gap, found = log.tail(at)
        assert gap is None
        assert {event.id for event in found} == {event.id for event in later}
        seen = [*seen, *log.tail(seen[-1].id)[1]]
    assert [event.id for event in seen] == sorted({event.id for event in seen})
    assert len(seen) == 12 * 7


def test_who_follows_sees_all_that_others_publish_meanwhile_once_and_in_order(
    address: RedisAddress, log: RedisEventLog
) -> None:
    def publish(own: RedisEventLog, name: str) -> None:
        for n in range(60):
            own.publish([NewEvent("step", f"{name}-{n % 5}", {"n": n})])
        own.close()

    threads = [
        threading.Thread(target=publish, args=(RedisEventLog(address), f"p{n}")) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    seen, at = list[RunEvent](), 0
    while len(seen) < 240:
        busy = any(thread.is_alive() for thread in threads)
        _, page = log.tail(at, limit=7)
        assert page or busy or len(seen) == 240
        seen += page
        at = page[-1].id if page else at
    for thread in threads:
        thread.join()
    assert [event.id for event in seen] == sorted({event.id for event in seen})
    for name in {event.thread_id for event in seen}:
        assert [e.seq for e in seen if e.thread_id == name] == list(range(1, 13))


def test_rows_of_the_audit_that_are_sent_again_after_a_kill_are_told_once(
    log: RedisEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Forwarded(n % 3, n // 3 + 1, NewEvent("s", THREADS[n], {"n": n})) for n in range(12)]
    call = RedisServer.call

    def killed(*_: object, **__: object) -> object:
        raise BufferUnavailable("killed before the position was written", remedy="start again")

    monkeypatch.setattr(RedisServer, "call", killed)
    with pytest.raises(BufferUnavailable):
        log.forward(rows[:7], "7")
    monkeypatch.undo()
    assert RedisServer.call is call
    assert log.forward_position() is None
    assert log.forward(rows, "12") == 5
    assert (log.forward_position(), log.forwarded([0, 1, 2, 3])) == ("12", {0: 4, 1: 4, 2: 4})
    assert sorted(event.data["n"] for event in log.tail(0)[1]) == list(range(12))
    assert log.forward(rows, "12", anew=True) == 12, "the chains are others"


def test_a_word_that_is_erased_is_in_no_alert_either(
    address: RedisAddress, log: RedisEventLog
) -> None:
    book = RedisAlertBook(address)
    for subject in ("thread ANNA-7", "thread of another"):
        alert = Alert("rule", subject, Severity.CRITICAL, "title", "text")

        def compose(alerts: object, said: str = subject) -> list[Message]:
            return [Message("rule", Severity.CRITICAL, "title", f"about {said}")]

        book.post([alert], ["mail"], compose, throttle_s=60.0)
    log.erase([], ["ANNA-7"])
    assert [sent.subject for sent in book.sent()] == ["thread of another"]
    delivery = book.take("mail", hold_s=30)
    assert delivery is not None
    assert delivery.message.body == "about thread of another"
    assert book.take("mail", hold_s=30) is None
    prefix = address.prefix.encode()
    client = shared().client()
    assert not [
        key
        for key in client.scan_iter(b"*" + prefix + b"*")
        if b"ANNA-7" in (client.dump(key) or b"")
    ]
    book.close()
