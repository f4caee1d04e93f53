"""An engine whose Redis server goes, hangs, is full or comes back with less: what people see, and that it goes on
by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import savers
from support.redis_server import RedisTestServer, running_redis
from support.savers import config
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.exceptions import BufferUnavailable
from surgetank.notify.health import Level

LOST = "redis_connection_error"
PATIENCE_S = 60.0


def put(tank: Surgetank, thread: str, n: int) -> None:
    saver = tank.checkpointer()
    before = saver.get_tuple(config(thread))
    values = {"messages": [f"message {i} " * 50 for i in range(n + 1)], "n": n}
    savers.put(saver, thread, values, parent=before.config if before is not None else None)


def kept(tank: Surgetank, thread: str) -> list[int]:
    """The checkpoints that can be read, oldest first."""
    return [
        found.checkpoint["channel_values"]["n"]
        for found in tank.checkpointer().list(config(thread))
    ][::-1]


def engine(home: Path, database_url: str, url: str, **more: Any) -> Surgetank:
    settings = {"flush_age": 0.05, "retry_base": 0.05, "retry_max": 0.2, **more}
    tank = Surgetank(home, database_url=database_url, buffer_url=url, **settings).open()
    hurry(tank)
    return tank


def hurry(tank: Surgetank) -> None:
    """What is lost is given up soon."""
    events: Any = tank.events
    tank.parts.buffer._shards.server._patience_s = 0.1  # type: ignore[union-attr]
    events._server._patience_s = 0.1


@pytest.fixture
def redis() -> Iterator[RedisTestServer]:
    with running_redis(appendonly="yes", appendfsync="always") as server:
        yield server


def lost_errors(tank: Surgetank) -> list[Any]:
    return [e for e in tank.errors.find().errors if e.error_type == LOST]


def test_a_server_that_is_lost_is_one_error_with_host_and_port_and_is_over_by_itself(
    tmp_path: Path, database_url: str, redis: RedisTestServer
) -> None:
    url = f"redis://127.0.0.1:{redis.port}/0?prefix=x&shards=2"
    with engine(tmp_path, database_url, url) as tank:
        put(tank, "thread", 0)
        redis.kill()
        with pytest.raises(BufferUnavailable, match=f"127.0.0.1:{redis.port}"):
            put(tank, "thread", 1)
        wait_until(lambda: bool(lost_errors(tank)), "the error in the database", PATIENCE_S)
        (error,) = lost_errors(tank)
        assert (error.error_context["host"], error.error_context["port"]) == (
            "127.0.0.1",
            redis.port,
        )
        assert not error.resolved
        assert "does not answer" in (tank.errors.find().problem or "")
        assert tank.errors.get(error.id).error_message == error.error_message
        with pytest.raises(BufferUnavailable):  # it may be in the buffer
            tank.errors.get("00000000-0000-4000-8000-000000000000")
        for incidents in (tank.incidents(), tank.incidents("thread")):
            assert ["not known" in incident.message for incident in incidents] == [True]
        picture = tank.status()
        assert picture.health.of("buffer").down
        assert [notice.severity for notice in picture.notices] == ["critical"]
        assert picture.problems == ()
        redis.start()
        wait_until(lambda: tank.incidents("thread") == [], "the end of the banner", PATIENCE_S)
        put(tank, "thread", 1)
        wait_until(lambda: all(e.resolved for e in lost_errors(tank)), "the end", PATIENCE_S)
        wait_until(lambda: tank.status().buffer.entries == 0, "all to be flushed", PATIENCE_S)
        assert kept(tank, "thread") == [0, 1]
        assert [e.occurrences for e in tank.errors.find().errors] == [1], "it is the only one"
        wait_until(lambda: tank.status().health.level is Level.OK, "a clean bill", PATIENCE_S)
