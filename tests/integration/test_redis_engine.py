"""A whole engine with its buffer, events and alerts in Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import savers
from support.commands import run_command
from support.redis_server import running_redis, shared
from support.savers import config
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.buffer.coordination import Due, Leased
from surgetank.exceptions import BufferUnavailable, ConfigurationError, MissingExtra


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


def test_the_newest_events_are_shown_though_their_numbers_are_far_apart(
    tmp_path: Path, database_url: str, url: str
) -> None:
    environment = {
        **os.environ, "SURGETANK_HOME": str(tmp_path), "SURGETANK_DATABASE_URL": database_url,
        "SURGETANK_BUFFER_URL": url,
    }  # fmt: skip
    with engine(tmp_path, database_url, url) as tank:
        for n in range(5):
            tank.broadcast_run_event(f"step{n}", thread_id=f"t{n}")
    lines = run_command(("tail", "-n", "3", "--no-follow", "--json"), environment).stdout
    assert [json.loads(line)["type"] for line in lines.splitlines()] == ["step2", "step3", "step4"]


def test_a_server_that_may_lose_what_was_accepted_is_warned_of_where_people_see_it(
    tmp_path: Path, database_url: str
) -> None:
    with running_redis(maxmemory="64mb") as redis:
        url = redis.url("x")
        redis.client().config_set("maxmemory-policy", "allkeys-lru")
        with engine(tmp_path, database_url, url) as tank:
            picture = tank.status()
            told = [notice for notice in picture.notices if notice.severity == "warning"]
            assert [word for notice in told for word in ("drops keys", "append-only", "full first")
                    if word in notice.message] == ["drops keys", "append-only", "full first"]  # fmt: skip
            assert "noeviction" in told[0].detail
            assert not picture.healthy
            assert picture.buffer.memory_bytes > 500_000
            assert picture.buffer.memory_max == 64 * 1024**2
            redis.client().config_set("maxmemory-policy", "noeviction")
            tank.parts.buffer.maintain()
            assert "drops keys" not in str(tank.status().notices), "it is seen again"
        environment = {
            **os.environ, "SURGETANK_HOME": str(tmp_path), "SURGETANK_BUFFER_URL": url,
            "SURGETANK_DATABASE_URL": database_url,
        }  # fmt: skip
        found = json.loads(run_command(("doctor", "--json"), environment).stdout)
        told = [f["detail"] for f in found if (f["check"], f["state"]) == ("buffer", "warning")]
        assert len(told) == 2
        assert "memory of the server" in next(
            f["detail"] for f in found if f["state"] == "ok" and f["check"] == "buffer"
        )
        assert "of 64.0 MiB" in run_command(("status",), environment).stdout


def test_without_the_client_the_extra_is_named(
    tmp_path: Path, database_url: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtra, match=r"surgetank\[redis\]"):
        engine(tmp_path, database_url, url).open()


def test_a_file_has_no_replica(tmp_path: Path, database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="needs a buffer in Redis"):
        Surgetank(tmp_path, database_url=database_url, durability="replicated").open()


def test_a_user_of_the_server_needs_no_more_than_the_keys_of_the_buffer(
    tmp_path: Path, database_url: str
) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "redis.md"
    (line,) = [row for row in page.read_text().splitlines() if "ACL SETUSER" in row]
    with running_redis(appendonly="yes") as redis:
        redis.client().execute_command(*line.split())
        url = f"redis+unix://surgetank:password@{redis.socket}"
        with engine(tmp_path, database_url, url) as tank:
            put(tank, "thread", 0)
            tank.emit_log("said", thread_id="thread")
            assert tank.flush().ok
            tank.parts.housekeep()
            tank.buffer.check()
            assert [line.message for line in tank.logs("thread")] == ["said"]
            assert tank.status().problems == ()


_FAR_HOST = """
import json, sys, time
home, database_url, url, hours, *what = sys.argv[1:]
machine = time.time
time.time = lambda: machine() + 3600 * float(hours)
from surgetank import Surgetank
from surgetank.buffer.coordination import Due
from surgetank.model import Record
with Surgetank(home, database_url=database_url, buffer_url=url, flush_in_process=False, lease_ttl=1.0,
               retry_base=0.1, retry_max=0.2) as tank:
    buffer = tank.parts.buffer
    if what == ["take"]:
        tank.emit_log("from afar", thread_id="thread")
        tank.log_system_error("seen", "from afar")
        (found,) = buffer.lease("checkpoints", Due(force=True), owner="far", ttl_s=1.0)
        print(found.lease.token)
    if what == ["flush"]:
        print(json.dumps({"ok": tank.flush().ok, "now": tank.now()}))
"""


def test_leases_and_ages_are_the_same_on_hosts_whose_clocks_are_hours_apart(
    tmp_path: Path, database_url: str, url: str
) -> None:
    def far(hours: int, what: str) -> str:
        arguments = [str(tmp_path / "far"), database_url, url, str(hours), what]
        return subprocess.run(
            [sys.executable, "-c", _FAR_HOST, *arguments],
            check=True, capture_output=True, text=True, timeout=100,
        ).stdout  # fmt: skip

    with engine(tmp_path / "near", database_url, url) as tank:
        put(tank, "thread", 0)
        token = int(far(1, "take"))
        buffer = tank.parts.buffer
        state = buffer.state("checkpoints", "thread")
        assert state is not None
        assert state.lease_expires_at - tank.now() <= 1.0
        taken: list[Leased] = []

        def take() -> bool:
            taken[:] = buffer.lease("checkpoints", Due(force=True), owner="near", ttl_s=1.0)
            return bool(taken)

        wait_until(take, "the end of a lease that nobody renews", 30)
        assert taken[0].lease.token > token
        buffer.release([taken[0].lease])
        assert all(abs(line.at - tank.now()) < 100 for line in tank.logs("thread"))
        ages = [tank.now() - s.oldest_at for s in buffer.states()]
        assert len(ages) == 3
        assert all(-1 < age < 100 for age in ages)
        told = json.loads(far(-1, "flush"))
        assert told["ok"]
        assert abs(told["now"] - tank.now()) < 100
        assert tank.status().buffer.entries == 0
        assert all(abs(job.created_at - tank.now()) < 100 for job in tank.jobs.list())
        assert tank.errors.find().errors[0].last_seen == pytest.approx(tank.now(), abs=100)
