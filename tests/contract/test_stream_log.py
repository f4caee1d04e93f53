"""Every stream log: what runs send is kept in order, told to who comes back, and bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.holder import held
from support.redis_server import url_for
from surgetank.events.redis_streams import RedisStreamLog
from surgetank.events.sqlite_streams import SQLiteStreamLog
from surgetank.events.streams import END, StreamGroup, StreamLog, Written
from surgetank.exceptions import BufferUnavailable
from surgetank.redis.address import parse

KEEP_S = 3600.0


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


Open = Callable[[], StreamLog]


# A new kind of stream log joins the suite by a function that opens one in a folder.
KINDS: dict[str, Callable[[Path, Clock], StreamLog]] = {
    "sqlite": lambda folder, clock: SQLiteStreamLog(
        folder / "s.db", keep_s=KEEP_S, max_bytes=1000, clock=clock
    ),
    "redis": lambda folder, clock: RedisStreamLog(
        parse(url_for(folder)), keep_s=KEEP_S, max_bytes=1000, clock=clock
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_log(kind: str, tmp_path: Path, clock: Clock) -> Iterator[Open]:
    opened: list[StreamLog] = []

    def make() -> StreamLog:
        opened.append(KINDS[kind](tmp_path, clock))
        return opened[-1]

    yield make
    for log in opened:
        log.close()


@pytest.fixture
def log(open_log: Open) -> StreamLog:
    return open_log()


def send(
    log: StreamLog, run: str, *names: str, thread: str = "t", attempt: int = 1, data: bytes = b"{}"
) -> int | None:
    events = [(name, data) for name in names]
    return log.append_all([StreamGroup(thread, run, events, attempt)])[0]


def test_groups_of_several_runs_are_written_together_but_for_those_of_an_attempt_that_is_over(
    log: StreamLog,
) -> None:
    send(log, "taken over", "a", attempt=2)
    heard: list[str] = []
    end = log.listen(lambda written: heard.append(written.thread_id))
    groups = [
        StreamGroup("t", "taken over", [("late", b"1")], 1),
        StreamGroup("t", "r", [("b", b"2"), (END, b"{}")], 1),
        StreamGroup("other", "s", [("c", b"3")], 1),
    ]
    assert log.append_all(groups) == [None, 3, 1]
    end()
    assert names(log) == ["a", "b", END]
    assert [e.event for e in log.read("other").events] == ["c"]
    assert (log.has_ended("r"), log.has_ended("s")) == (True, False)
    assert heard == ["t", "other"]


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_what_must_not_wait_is_not_written_over_a_network(log: StreamLog) -> None:
    assert log.try_append_all([StreamGroup("t", "r", [("a", b"1")], 1)]) is None
    assert names(log) == []
    log.close()
    with pytest.raises(BufferUnavailable, match="closed"):
        log.try_append_all([])


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_what_must_not_wait_is_written_and_told_unless_another_process_holds_the_log(
    log: StreamLog, tmp_path: Path
) -> None:
    groups = [StreamGroup("t", "r", [("a", b"1"), (END, b"{}")], 1)]
    heard: list[Written] = []
    end = log.listen(heard.append)
    with held(tmp_path / "s.db"):
        assert log.try_append_all(groups) is None
    assert (names(log), heard) == ([], [])
    assert log.try_append_all(groups) == [2]
    end()
    assert names(log) == ["a", END]
    assert [(each.thread_id, each.ended) for each in heard] == [("t", True)]
    log.close()
    with pytest.raises(BufferUnavailable, match="closed"):
        log.try_append_all(groups)


def names(log: StreamLog, **more: object) -> list[str]:
    return [e.event for e in log.read("t", **more).events]  # type: ignore[arg-type]


def test_numbers_count_within_a_thread_over_its_runs(log: StreamLog) -> None:
    assert send(log, "a", "one", "two") == 2
    assert send(log, "b", "three") == 3
    assert send(log, "c", "other", thread="u") == 1
    page = log.read("t")
    assert [(e.seq, e.run_id, e.event) for e in page.events] == [
        (1, "a", "one"), (2, "a", "two"), (3, "b", "three"),
    ]  # fmt: skip
    assert (page.last, page.gap) == (3, None)
    assert names(log, run_id="b") == ["three"]
    assert names(log, after=1) == ["two", "three"]
    assert names(log, run_id="a", after=1) == ["two"]
    assert log.read("nobody").events == ()


def test_a_page_is_bounded_by_count_and_bytes(log: StreamLog) -> None:
    send(log, "a", *"abcdef", data=b"x" * 10)
    assert names(log, limit=2) == ["a", "b"]
    assert names(log, max_bytes=15) == ["a", "b"]
    assert names(log, after=2, max_bytes=1) == ["c"]


def test_what_another_object_wrote_is_seen_and_told_to_listeners_of_its_own_process(
    log: StreamLog, open_log: Open
) -> None:
    other, heard = open_log(), list[Written]()
    before = log.newest()
    end = log.listen(heard.append)
    send(other, "a", "one")
    assert names(log) == ["one"]
    assert log.newest() > before
    send(log, "a", "two", END)
    assert [(each.thread_id, each.ended) for each in heard] == [("t", True)]
    assert heard[0].before == before + 1, "others have written"
    assert heard[0].newest == log.newest() == before + 3
    end()
    send(log, "a", "three")
    assert len(heard) == 1
    assert names(other) == ["one", "two", END, "three"]


def test_an_attempt_that_was_taken_over_writes_no_more(log: StreamLog) -> None:
    send(log, "a", "one", attempt=1)
    send(log, "a", "again", attempt=2)
    assert send(log, "a", "late", attempt=1) is None
    assert names(log) == ["one", "again"]


def test_events_of_a_run_that_runs_stay_and_those_of_an_ended_one_for_a_while(
    log: StreamLog, clock: Clock
) -> None:
    send(log, "a", "one", END)
    send(log, "b", "two")
    assert (log.has_ended("a"), log.has_ended("b"), log.has_ended("c")) == (True, False, False)
    clock.now += KEEP_S - 1
    log.maintain()
    assert names(log) == ["one", END, "two"]
    clock.now += 2
    log.maintain()
    assert names(log) == ["two"]
    assert log.read("t").gap == 2, "what is gone is said"
    assert log.read("t", run_id="a").gap == 2
    assert log.read("t", after=2).gap is None
    assert send(log, "a", "three") == 4, "no number is given twice"


def test_too_many_bytes_end_what_ended_first_and_never_what_runs(log: StreamLog) -> None:
    for run in "abc":
        send(log, run, "x", END, data=b"x" * 300)
    send(log, "running", "y", data=b"y" * 900)
    log.maintain()
    assert {e.run_id for e in log.read("t").events} == {"running"}
    assert log.read("t").gap == 6


def test_a_number_from_another_log_is_a_gap(log: StreamLog) -> None:
    send(log, "a", "one")
    assert log.read("t", after=99).gap == 1


def test_what_is_forgotten_is_gone_and_its_numbers_with_it(log: StreamLog) -> None:
    send(log, "a", "one")
    log.forget_thread("t")
    assert names(log) == []
    assert send(log, "a", "two") == 2
    send(log, "b", "three")
    log.forget_run("a")
    assert names(log) == ["three"]
    assert log.scrub()
    assert log.size_bytes() > 0
