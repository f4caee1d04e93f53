"""A whole engine with its buffer, events and alerts in Redis: what it can do already. No user can reach it
yet (`surgetank/buffer_address.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import savers
from support.redis_server import running_redis, shared
from support.savers import config
from surgetank import Surgetank, buffer_address
from surgetank.exceptions import BufferUnavailable, ConfigurationError


@pytest.fixture(autouse=True)
def ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_address, "REDIS_IS_READY", True)


@pytest.fixture
def url() -> str:
    return shared().url(shards=4)


def put(tank: Surgetank, thread: str, n: int) -> None:
    saver = tank.checkpointer()
    before = saver.get_tuple(config(thread))
    values = {"messages": [f"message {i} " * 200 for i in range(n + 1)], "n": n}
    savers.put(saver, thread, values, parent=before.config if before is not None else None)


def newest(tank: Surgetank, thread: str) -> object:
    found = tank.checkpointer().get_tuple(config(thread))
    return found.checkpoint["channel_values"]["n"] if found is not None else None


def engine(home: Path, database_url: str, url: str, **more: Any) -> Surgetank:
    return Surgetank(
        home, database_url=database_url, buffer_url=url, flush_in_process=False, **more
    )


@pytest.fixture
def two_hosts(tmp_path: Path, database_url: str, url: str) -> Iterator[tuple[Surgetank, Surgetank]]:
    """Two homes, as on two hosts, with one buffer."""
    with (
        engine(tmp_path / "one", database_url, url) as one,
        engine(tmp_path / "two", database_url, url) as two,
    ):
        yield one, two


def test_any_host_reads_and_flushes_what_another_put(
    two_hosts: tuple[Surgetank, Surgetank],
) -> None:
    one, two = two_hosts
    for n in range(5):
        put(two_hosts[n % 2], "thread", n)
        assert newest(two_hosts[(n + 1) % 2], "thread") == n
    assert two.status().buffer.entries >= 5
    job = two.flush()
    assert job.ok, job.result
    assert one.status().buffer.entries == 0
    assert [newest(tank, "thread") for tank in two_hosts] == [4, 4]
    assert len(list(one.checkpointer().list(config("thread")))) == 5
    assert one.jobs.list()[0].id == two.jobs.list()[0].id


def test_logs_events_and_errors_are_seen_on_every_host(
    two_hosts: tuple[Surgetank, Surgetank],
) -> None:
    one, two = two_hosts
    put(one, "thread", 0)
    one.emit_log("said on one host", thread_id="thread")
    assert [line.message for line in two.logs("thread")] == ["said on one host"]
    assert two.flush().ok
    assert [line.message for line in one.logs("thread")] == ["said on one host"]
    _, events = two.events.thread_events("thread")
    assert "log" in {event.type for event in events}


def test_the_status_names_the_server_without_its_password(
    tmp_path: Path, database_url: str
) -> None:
    with running_redis(requirepass="geheim") as redis:
        url = f"redis+unix://:geheim@{redis.socket}"
        with engine(tmp_path, database_url, url) as tank:
            put(tank, "thread", 0)
            assert str(redis.socket) in tank.status().buffer_path
            assert "geheim" not in repr(tank.status())
            assert str(redis.socket) in tank.settings.buffer_name
            assert "geheim" not in tank.settings.buffer_name


def test_a_server_that_is_away_is_named_and_used_again_when_it_is_back(
    tmp_path: Path, database_url: str
) -> None:
    with (
        running_redis(appendonly="yes", appendfsync="always") as redis,
        engine(tmp_path, database_url, redis.url("x"), durability="power") as tank,
    ):
        put(tank, "thread", 0)
        redis.kill()
        _soon(tank)
        with pytest.raises(BufferUnavailable, match="does not answer"):
            put(tank, "other", 0)
        redis.start()
        put(tank, "thread", 1)
        assert tank.flush().ok
        assert newest(tank, "thread") == 1


def _soon(tank: Surgetank) -> None:
    tank.parts.buffer._shards.server._patience_s = 0.1  # type: ignore[union-attr]


@pytest.mark.parametrize("url", ["rediss://h", "redis+sentinel://h", "redis+cluster://h"])
def test_what_is_not_there_yet_is_refused_by_name(
    tmp_path: Path, database_url: str, url: str
) -> None:
    with pytest.raises(ConfigurationError, match="not supported yet"):
        engine(tmp_path, database_url, url).open()
