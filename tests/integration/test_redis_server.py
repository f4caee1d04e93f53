"""Talking to Redis: done once though a reply is lost, and every trouble by its name, in time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as ConnectionLost

from support.buffers import child_env
from support.guard import servers
from support.redis_server import RedisTestServer, running_redis, shared, url_for
from support.waiting import wait_until
from surgetank.exceptions import BufferFull, BufferUnavailable
from surgetank.redis.address import RedisAddress, parse
from surgetank.redis.scripts import Script, Scripts
from surgetank.redis.server import Call, RedisServer

COUNT = """-- name: count
return {call('INCR', T .. 'counter'), A[1]}
-- name: fill (grows)
call('SET', T .. 'a', string.rep('x', 1000))
call('SET', T .. 'b', string.rep('x', tonumber(A[1])))
return 1
-- name: number
return {text(tonumber(A[1]))}
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripts]:
    folder = tmp_path_factory.mktemp("scripts")
    package = folder / "scripts_of_a_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "count.lua").write_text(COUNT)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield Scripts("scripts_of_a_test", "count.lua")


@pytest.fixture
def address(tmp_path: Path) -> RedisAddress:
    return parse(url_for(tmp_path))


@pytest.fixture
def server(address: RedisAddress) -> Iterator[RedisServer]:
    server = RedisServer(address, name="buffer", timeout_s=5.0, patience_s=5.0)
    yield server
    server.close()


def count(server: RedisServer, script: Script, more: str = "") -> int:
    number, said = server.call(script, server.address.tag(0), [more], once=True)
    assert said == more.encode()
    return int(number)


def test_a_script_that_the_server_does_not_have_is_sent(
    server: RedisServer, scripts: Scripts
) -> None:
    assert count(server, scripts["count"], "\u00e9\0") == 1
    shared().client().script_flush()
    assert count(server, scripts["count"]) == 2
    shared().client().script_flush()
    tags = [server.address.tag(n) for n in range(3)]
    found = server.call_all([Call(scripts["count"], tag, ["x"], once=True) for tag in tags])
    assert [number for number, _ in found] == [3, 1, 1]


@pytest.mark.parametrize("lost", ["the request", "the reply", "the reply of both tries"])
def test_what_is_sent_again_after_a_lost_connection_is_done_once(
    server: RedisServer, scripts: Scripts, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    count(server, scripts["count"])
    ask, tries = RedisServer._pipeline, [0]

    def losing(lane: object, commands: object) -> list[object]:
        tries[0] += 1
        losses = 2 if lost == "the reply of both tries" else 1
        if lost == "the request" and tries[0] == 1:
            raise ConnectionLost("cut")
        replies = ask(lane, commands)  # type: ignore[arg-type]
        if tries[0] <= losses and lost != "the request":
            raise ConnectionLost("cut")
        return replies

    monkeypatch.setattr(RedisServer, "_pipeline", staticmethod(losing))
    assert count(server, scripts["count"], "again") == 2
    assert count(server, scripts["count"]) == 3
    assert tries[0] > 2


def test_two_with_the_same_text_are_two(server: RedisServer, scripts: Scripts) -> None:
    assert [count(server, scripts["count"], "same") for _ in range(3)] == [1, 2, 3]
    other = RedisServer(server.address, name="buffer")
    assert count(other, scripts["count"], "same") == 4
    other.close()


@pytest.mark.parametrize("number", [0, 1, -1, 2**53 - 1, 0.1, 1700000000.123456, 1e300, -2.5e-9])
def test_numbers_come_back_as_they_went(
    server: RedisServer, scripts: Scripts, number: float
) -> None:
    (found,) = server.call(scripts["number"], server.address.tag(0), [number])
    assert float(found) == number


def test_a_server_that_is_away_is_said_in_time_and_used_when_it_is_back(scripts: Scripts) -> None:
    with running_redis() as redis:
        server = RedisServer(parse(redis.url()), name="buffer", timeout_s=0.2, patience_s=0.1)
        assert count(server, scripts["count"]) == 1
        redis.kill()
        with pytest.raises(BufferUnavailable, match=r"The buffer redis\+unix.*does not answer"):
            count(server, scripts["count"])
        redis.start()
        assert count(server, scripts["count"]) == 1, "it had no persistence"
        _frozen(redis, server, scripts)
        server.close()


def _frozen(redis: RedisTestServer, server: RedisServer, scripts: Scripts) -> None:
    redis.freeze()
    began = time.monotonic()
    with pytest.raises(BufferUnavailable, match="not known"):
        count(server, scripts["count"])
    assert time.monotonic() - began < 5
    redis.thaw()
    assert count(server, scripts["count"]) in (2, 3)


def test_a_wrong_password_is_said_at_once_and_not_repeated() -> None:
    with running_redis(requirepass="richtig") as redis:
        secret = parse(f"redis+unix://:geheim@{redis.socket}")
        server = RedisServer(secret, name="buffer", patience_s=60)
        with pytest.raises(BufferUnavailable, match="refuses our user or password") as caught:
            server.command("PING")
        assert "geheim" not in str(caught.value)
        server.close()


def test_a_server_without_memory_is_full_and_nothing_is_half_done(
    tmp_path: Path, scripts: Scripts
) -> None:
    with running_redis(maxmemory="1mb") as redis:
        server = RedisServer(parse(redis.url("x")), name="buffer")
        server.call(scripts["fill"], server.address.tag(0), [2_000_000], once=True)
        with pytest.raises(BufferFull, match="Way out"):
            server.call(scripts["fill"], server.address.tag(1), [10], once=True)
        assert redis.client().keys("{x:1}*") == []
        server.close()


def test_after_closing_and_after_a_fork_it_says_what_to_do(
    address: RedisAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RedisServer(address, name="buffer")
    server.command("PING")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 1)
        with pytest.raises(BufferUnavailable, match="before this process was forked"):
            server.command("PING")
    server.close()
    server.close()
    with pytest.raises(BufferUnavailable, match=r"is closed.*Way out: open Surgetank again"):
        server.command("PING")


def test_a_replica_is_refused_before_anything_is_read_from_it(scripts: Scripts) -> None:
    with running_redis() as redis:
        redis.client().replicaof("127.0.0.1", 1)
        server = RedisServer(parse(redis.url()), name="buffer", patience_s=0.05)
        with pytest.raises(BufferUnavailable, match="is a replica"):
            server.command("PING")
        redis.client().replicaof("NO", "ONE")
        assert count(server, scripts["count"]) == 1
        redis.client().replicaof("127.0.0.1", 1)
        with pytest.raises(BufferUnavailable, match="is a replica"):
            count(server, scripts["count"])
        server.close()


def test_a_server_of_the_tests_ends_with_the_run_that_started_it() -> None:
    code = "from support.redis_server import shared; print(shared().folder, flush=True); input()"
    environment = {k: v for k, v in child_env().items() if k != "TEST_REDIS_FOLDER"}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        assert run.stdout is not None
        folder = run.stdout.readline().strip()
        assert len(servers(folder)) == 1
        run.kill()
    wait_until(lambda: not servers(folder) and not Path(folder).exists(), "the end of the server")
