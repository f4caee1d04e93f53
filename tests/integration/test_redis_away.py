"""An engine whose Redis server goes, hangs, is full or comes back with less: what people see, and that it goes on
by itself."""

from __future__ import annotations

import asyncio
import operator
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph

from support import savers
from support.http import ADMIN_TOKEN, running
from support.redis_server import RedisTestServer, running_redis
from support.savers import config
from support.tcp_proxy import TcpProxy
from support.waiting import wait_until
from support.webhook import running_webhook
from surgetank import Surgetank
from surgetank.exceptions import BufferFull, BufferUnavailable
from surgetank.notify.health import Level
from surgetank.workflows.execution import FixedGraphs
from surgetank.workflows.runs import NewRun
from surgetank.workflows.status import Status

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


def test_that_the_server_is_away_is_alerted_meanwhile_once_and_so_is_its_end(
    tmp_path: Path, database_url: str, redis: RedisTestServer
) -> None:
    url = f"redis://127.0.0.1:{redis.port}/0?prefix=x&shards=2"
    lost, found = (
        f"Surgetank: Critical error: {LOST}",
        "Surgetank: Recovered: the server of the buffer",
    )
    with running_webhook() as webhook:
        more: dict[str, Any] = {"alert_urls": [webhook.url], "alert_every": 0.05}
        with engine(tmp_path, database_url, url, **more) as tank:
            watch = tank.parts.reporting.alerts
            book: Any = watch.book
            book._server._patience_s = 0.1
            wait_until(lambda: watch._background.running, "the watch", PATIENCE_S)
            redis.kill()
            wait_until(lambda: webhook.titles() == [lost], "the alert", PATIENCE_S)
            redis.start()
            wait_until(lambda: webhook.titles() == [lost, found], "its end", PATIENCE_S)


def test_what_a_server_lost_is_told_as_a_range_and_nothing_after_it_is_skipped(
    tmp_path: Path, database_url: str
) -> None:
    """Without a file it comes back with nothing: a process that was there before tells, one that opens
    then goes on with it."""
    with running_redis() as redis:
        url = redis.url("x", shards=1)
        with engine(tmp_path / "one", database_url, url, flush_in_process=False) as one:
            for thread in ("a", "b"):
                put(one, thread, 0)
                put(one, thread, 1)
            assert one.flush().ok
            put(one, "a", 2)
            put(one, "new", 0)
            lost = one.parts.buffer.last_seq("checkpoints")
            redis.kill()
            redis.start()
            with engine(tmp_path / "two", database_url, url, flush_in_process=False) as two:
                put(two, "b", 2)
                put(one, "a", 3)
                assert one.parts.buffer.id == two.parts.buffer.id, "one fence for all"
                one.parts.housekeep()
                (told,) = [e for e in one.errors.find().errors if e.error_type == "buffer_damaged"]
                assert told.occurrences == 1, "once, whoever finds it"
                assert "What was accepted last is lost" in told.error_message
                assert f"up to {lost} at least" in told.error_message
                put(two, "new", 1)
                for tank in (two, one):
                    assert tank.flush().ok
                assert one.status().buffer.entries == 0
                for tank in (one, two):
                    assert kept(tank, "a") == [0, 1, 3]
                    assert kept(tank, "b") == [0, 1, 2]
                    assert kept(tank, "new") == [1]
                assert one.parts.buffer.miscounted() == []  # type: ignore[union-attr]


def test_a_full_server_refuses_and_is_emptied_by_flushing(
    tmp_path: Path, database_url: str
) -> None:
    with running_redis() as redis:
        url = redis.url("x", shards=2)
        settings = {"flush_in_process": False, "keep_acknowledged": 0.0, "recent_max_bytes": 0}
        with engine(tmp_path, database_url, url, **settings) as tank:
            used = redis.client().info("memory")["used_memory"]
            redis.client().config_set("maxmemory", used + 1_000_000)
            accepted, refused = 0, ""
            while not refused and accepted < 200:
                try:
                    values = {"text": f"{accepted} " * 10_000, "n": accepted}
                    savers.put(tank.checkpointer(), f"t{accepted}", values)
                    accepted += 1
                except BufferFull as error:
                    refused = error.what
            assert "out of memory" in refused
            assert accepted > 5
            assert tank.status().buffer.entries >= accepted
            assert tank.flush().ok, "what waits leaves it"
            assert tank.status().buffer.entries == 0
            put(tank, "again", 0)
            assert tank.flush().ok
            assert [kept(tank, f"t{n}") for n in range(accepted)] == [[n] for n in range(accepted)]
            assert kept(tank, "again") == [0]
            assert not lost_errors(tank), "it answers"


def test_cut_off_and_held_back_on_the_way_nothing_accepted_is_lost_or_twice(
    tmp_path: Path, database_url: str, redis: RedisTestServer
) -> None:
    with closing(TcpProxy(("127.0.0.1", redis.port))) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0?prefix=x&shards=2"
        direct = f"redis://127.0.0.1:{redis.port}/0?prefix=x&shards=2"
        with (
            engine(tmp_path / "cut", database_url, url, flush_in_process=False) as tank,
            engine(tmp_path / "well", database_url, direct, flush_in_process=False) as well,
        ):
            put(tank, "t", 0)
            proxy.cut()
            with pytest.raises(BufferUnavailable, match="does not answer"):
                put(tank, "t", 1)
            put(well, "t", 1)
            proxy.mend()
            put(tank, "t", 2)
            with _waiting_for(tank, 0.5):
                proxy.hold()
                with pytest.raises(BufferUnavailable, match="not known"):
                    tank.emit_log("on its way", thread_id="t")
                proxy.mend()
            wait_until(lambda: tank.parts.buffer.taken_away() is None, "an answer", PATIENCE_S)
            assert len(list(tank.logs("t"))) <= 1, "it may have been accepted, once"
            assert well.flush().ok
            assert kept(tank, "t") == [0, 1, 2]
            assert tank.flush().ok
            assert kept(well, "t") == [0, 1, 2]


@contextmanager
def _waiting_for(tank: Surgetank, seconds: float) -> Iterator[None]:
    """It waits so long for an answer."""
    server = tank.parts.buffer._shards.server  # type: ignore[union-attr]
    before, server._timeout_s = server._timeout_s, seconds
    server._idle.clear()
    yield
    server._timeout_s = before
    server._idle.clear()


def test_a_worker_on_redis_ends_cleanly_on_sigterm(
    tmp_path: Path, database_url: str, redis: RedisTestServer
) -> None:
    url = redis.url("x", shards=2)
    environment = {
        **os.environ, "SURGETANK_HOME": str(tmp_path / "worker"), "SURGETANK_BUFFER_URL": url,
        "SURGETANK_DATABASE_URL": database_url, "SURGETANK_FLUSH_AGE": "0",
    }  # fmt: skip
    with engine(tmp_path / "app", database_url, url, flush_in_process=False) as tank:
        put(tank, "t", 0)
        worker = subprocess.Popen(
            [sys.executable, "-m", "surgetank", "worker"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            wait_until(lambda: tank.status().buffer.entries == 0, "the worker's flush", PATIENCE_S)
            worker.send_signal(signal.SIGTERM)
            _, said = worker.communicate(timeout=PATIENCE_S)
            assert worker.returncode == 0, said
            assert "Traceback" not in said
            assert all(state.leased_by is None for state in tank.parts.buffer.states())
        finally:
            worker.kill()


class State(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]


def test_a_run_whose_buffer_goes_is_tried_again_and_who_follows_it_waits(
    tmp_path: Path, database_url: str, redis: RedisTestServer
) -> None:
    """Nobody's run fails, and none is cancelled because its client seems to have gone."""
    url = f"redis://127.0.0.1:{redis.port}/0?prefix=x&shards=2"
    begun, goes_on = list[str](), threading.Event()

    async def first(_: State) -> State:
        begun.append("first")
        return {"steps": ["first"]}

    async def second(_: State) -> State:
        begun.append("second")
        while not goes_on.is_set():  # noqa: ASYNC110 - of another thread
            await asyncio.sleep(0.01)
        if begun.count("second") == 1:
            redis.kill()
        return {"steps": ["second"]}

    with engine(tmp_path, database_url, url, admin_token=ADMIN_TOKEN) as tank:
        builder: Any = StateGraph(State)
        builder.add_node("first", first).add_node("second", second)
        builder.add_edge(START, "first").add_edge("first", "second")
        graph = builder.compile(checkpointer=tank.checkpointer())
        worker = tank.runs.service(FixedGraphs({"agent": graph}))
        with running(tank) as server:
            worker.start()
            log: Any = server.services.streams.log
            log._server._patience_s = 0.1
            new = NewRun(thread_id="t", assistant_id="agent", kwargs={"input": {"steps": []}})
            run = tank.runs.accept(new, actor="ada")
            path = f"/threads/t/runs/{run.run_id}/stream?cancel_on_disconnect=true"
            try:
                wait_until(lambda: "second" in begun, "the second node", PATIENCE_S)
                with server.admin.stream(
                    "GET", path, headers={"Last-Event-ID": "0"}, timeout=60
                ) as answer:
                    lines = answer.iter_lines()
                    assert next(lines).startswith("event: ")
                    goes_on.set()
                    wait_until(lambda: not redis.answers(), "the server to go", PATIENCE_S)
                    assert ": still here" in lines
                    wait_until(
                        lambda: tank.runs.get(run.run_id).status is Status.PENDING,
                        "a pause",
                        PATIENCE_S,
                    )
                    redis.start()
                    assert "event: end" in lines
            finally:
                assert worker.stop(20.0)
        ended = tank.runs.get(run.run_id)
        assert (ended.status, ended.error) == (Status.COMPLETED, None)
        found = tank.checkpointer().get_tuple(config("t"))
        assert found is not None
        assert found.checkpoint["channel_values"]["steps"] == ["first", "second"]
        assert begun == ["first", "second", "second"], "no node while it is away"
