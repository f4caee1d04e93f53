"""Who waits for what runs send is woken: for each news of a thread or only for ends, whoever wrote
it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from surgetank.events.sqlite_streams import SQLiteStreamLog
from surgetank.events.streams import END, StreamGroup
from surgetank.server.agent.follow import StreamHub

SOON_S = 5.0


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SQLiteStreamLog]:
    made = SQLiteStreamLog(tmp_path / "streams.db")
    yield made
    made.close()


@pytest.fixture
def elsewhere(tmp_path: Path, log: SQLiteStreamLog) -> Iterator[SQLiteStreamLog]:
    """The log as another process has it."""
    made = SQLiteStreamLog(log.path)
    yield made
    made.close()


def send(log: SQLiteStreamLog, thread: str, *names: str) -> None:
    log.append_all([StreamGroup(thread, f"run of {thread}", [(n, b"{}") for n in names], 1)])


async def joined(hub: StreamHub, thread: str, *, ends: bool = False) -> asyncio.Event:
    """Waits, and the hub has begun to listen."""
    news = hub.join(thread, ends=ends)
    await asyncio.wait_for(news.wait(), SOON_S)  # for what came before
    news.clear()
    return news


async def test_who_waits_for_ends_is_not_woken_by_what_comes_before(log: SQLiteStreamLog) -> None:
    hub = StreamHub(lambda: log)
    each = await joined(hub, "t")
    ends = hub.join("t", ends=True)
    other = hub.join("other", ends=True)
    await asyncio.to_thread(send, log, "t", "values")
    await asyncio.wait_for(each.wait(), SOON_S)
    assert not ends.is_set()
    await asyncio.to_thread(send, log, "t", "values", END)
    await asyncio.wait_for(ends.wait(), SOON_S)
    assert not other.is_set()
    for thread, news in (("t", each), ("t", ends), ("other", other)):
        hub.leave(thread, news)


async def test_what_another_process_wrote_is_heard_of_although_this_one_wrote_after_it(
    log: SQLiteStreamLog, elsewhere: SQLiteStreamLog
) -> None:
    hub = StreamHub(lambda: log)
    theirs = await joined(hub, "theirs")
    end_of_theirs = hub.join("theirs", ends=True)
    send(elsewhere, "theirs", "values", END)
    send(log, "ours", "values")  # before the hub looks again
    await asyncio.wait_for(theirs.wait(), SOON_S)
    await asyncio.wait_for(end_of_theirs.wait(), SOON_S)
    hub.leave("theirs", theirs)
    hub.leave("theirs", end_of_theirs)
