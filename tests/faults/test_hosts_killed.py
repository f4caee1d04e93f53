"""Several hosts on one buffer in Redis: one that is killed while it flushes is taken over, nothing is there twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import workload
from support.commands import run_module
from support.redis_server import url_for
from support.tanks import MakeTank

LEASES = "surgetank.buffer.redis.leases:RedisLeases.lease"
ACKS = "surgetank.buffer.redis.acks:RedisAcks.ack"


@pytest.mark.parametrize("point", [("after", LEASES), ("before", ACKS)], ids=["leased", "written"])
def test_what_a_killed_host_had_leased_is_flushed_by_another_one(
    make_tank: MakeTank, tmp_path: Path, database_url: str, undisturbed: Any, point: tuple[str, str]
) -> None:
    url = url_for(tmp_path)
    tank = make_tank(home=tmp_path / "one", buffer_url=url, lease_ttl=1.0)
    for _ in workload.steps(tank.checkpointer()):
        pass
    done = run_module(
        "support.killed", *point, 1, "flush", "--home", tmp_path / "two", "--database-url", database_url,
        SURGETANK_BUFFER_URL=url, SURGETANK_LEASE_TTL="1",
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    job = tank.flush()
    assert job.ok, job.result
    assert tank.status().buffer.entries == 0
    assert workload.picture(tank) == undisturbed
