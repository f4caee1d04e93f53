"""`status`, readiness and `doctor` say the same, and the truth: by exit code, JSON and HTTP."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from support.commands import run_command
from support.http import ADMIN_TOKEN, running
from support.postgres import PASSWORD_ROLE, PostgresServer
from support.savers import put
from support.tanks import MakeTank
from surgetank.notify.health import Level

LOOKING = [
    ("status",), ("doctor",), ("jobs", "list"), ("parked", "list"), ("errors",), ("tail",), ("metrics",), ("storage",),
    ("parked", "show", "1"),
]  # fmt: skip


def cli(home: Path, *arguments: str, url: str = "") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    environment = {**os.environ, "SURGETANK_HOME": str(home), "SURGETANK_DATABASE_URL": url}
    done = run_command(arguments, environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", LOOKING, ids=" ".join)
def test_looking_at_a_home_that_does_not_exist_is_an_error_and_makes_none(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    home = tmp_path / "nowhere"
    code, said, complaint = cli(home, *command)
    assert code == (1 if command == ("doctor",) else 2)
    assert str(home) in said + complaint
    assert not home.exists()


def test_all_agree_while_the_database_is_well_away_frozen_and_refusing(
    make_tank: MakeTank, private_postgres: PostgresServer, tmp_path: Path
) -> None:
    tank = make_tank(
        database_url=private_postgres.url, admin_token=ADMIN_TOKEN, connect_timeout=2.0
    )
    put(tank.checkpointer(), "t", {"n": 1})
    assert tank.flush().ok
    home, refused_url = (
        tmp_path / "home",
        private_postgres.url_of("postgres", user=PASSWORD_ROLE, password="wrong"),
    )

    def picture(url: str) -> dict[str, Any]:
        code, said, _ = cli(home, "status", "--json", url=url)
        health: dict[str, Any] = json.loads(said)["health"]
        assert code == health["exit_code"]
        return health

    with running(tank) as server:

        def ready() -> dict[str, Any]:
            started = time.monotonic()
            answer: dict[str, Any] = server.admin.get("/health/ready").json()
            assert time.monotonic() - started < 8.0
            return answer

        assert (
            picture(private_postgres.url)["level"]
            == tank.status(ping=True).health.level.value
            == "ok"
        )
        assert ready()["status"] == "ready"
        assert picture(refused_url)["level"] == "critical", "nothing waits, and still it is told"
        with private_postgres.frozen():
            assert picture(private_postgres.url)["level"] == "warning"
            for _ in range(2):
                assert ready()["components"]["database"]["status"] == "down"
        private_postgres.stop()
        assert picture(private_postgres.url)["level"] == "warning"
        assert ready()["status"] == "degraded"
        code, said, _ = cli(home, "doctor", url=private_postgres.url)
        assert code == 1
        assert "can't be reached" in said
        private_postgres.start()


def test_the_breaker_shown_is_that_of_the_process_that_flushes(
    make_tank: MakeTank, private_postgres: PostgresServer
) -> None:
    worker = make_tank(database_url=private_postgres.url)
    put(worker.checkpointer(), "t", {"n": 1})
    assert worker.flush().ok
    private_postgres.stop()
    put(worker.checkpointer(), "t", {"n": 2})
    for _ in range(3):
        worker.flush()
    looking = make_tank(database_url=private_postgres.url)
    (seen,) = [sink for sink in looking.status().sinks if sink.stream == "checkpoints"]
    assert seen.breaker in ("open", "half_open")
    assert "can't be reached" in (seen.last_error or "")
    assert looking.status().health.level is not Level.OK
    private_postgres.start()
