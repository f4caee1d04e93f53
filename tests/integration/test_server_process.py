"""`surgetank serve` as an operator runs it: a process that starts, says what it does, and stops."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.commands import run_command
from support.http import ADMIN_TOKEN
from support.process import Process
from support.savers import put_chain
from support.waiting import wait_until
from surgetank import Surgetank


@pytest.fixture
def environment(tmp_path: Path, database_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "SURGETANK_HOME": str(tmp_path / "home"),
        "SURGETANK_DATABASE_URL": database_url,
        "SURGETANK_FLUSH_AGE": "0",
    }


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Any]:
    started: list[Process] = []

    def make(*arguments: str, **more: str) -> Process:
        started.append(Process({**environment, **more}, *arguments))
        return started[-1]

    yield make
    for one in started:
        one.process.kill()
        one.process.wait()
        one._reader.join(10)
        assert one.process.stdout is not None
        one.process.stdout.close()


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(arguments, environment)


def test_tokens_are_made_listed_and_revoked_on_the_command_line(environment, start):
    made = run(
        environment, "token", "create", "--role", "operator", "--user", "ops", "--expires", "30d"
    )
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    assert re.fullmatch(r"stk_[\w-]{43}", token)
    assert "not shown again" in made.stderr
    (listed,) = json.loads(run(environment, "token", "list", "--json").stdout)
    assert (listed["user"], listed["role"], listed["last_used_at"]) == ("ops", "operator", None)
    assert 29 * 86400 < listed["expires_at"] - listed["created_at"] < 31 * 86400

    url = start().url()
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{url}/me", headers=headers).json()["user"] == "ops"
    assert httpx.get(f"{url}/admin/tokens", headers=headers).status_code == 403

    assert run(environment, "token", "revoke", listed["id"]).returncode == 0
    assert "revoked by command line" in run(environment, "token", "list").stdout
    assert run(environment, "token", "revoke", "nothing").returncode == 2
    for wrong in (("--expires", "soon"), ("--user", "")):
        done = run(environment, "token", "create", "--role", "viewer", "--user", "x", *wrong)
        assert done.returncode == 2, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_flushes_and_ends_in_order(start, environment, tank, number):
    process = start(SURGETANK_ADMIN_TOKEN=ADMIN_TOKEN)
    url = process.url()
    put_chain(tank.checkpointer(), "t", 3)
    wait_until(lambda: tank.status().buffer.entries == 0, "the server to flush")
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    listed = httpx.get(
        f"{url}/threads", headers=headers, params={"ticket_to_hide": "hidden"}
    ).json()
    assert [t["thread_id"] for t in listed["threads"]] == ["t"]
    assert process.end(number) == (130 if number == signal.SIGINT else 0)
    assert "stopping" in process.text
    assert "Traceback" not in process.text
    assert "/health/" not in process.text
    assert "path='/threads'" in process.text
    for secret in ("hidden", ADMIN_TOKEN):
        assert secret not in process.text


def test_it_ends_in_bounded_time_with_a_request_under_way(start, environment):
    process = start(SURGETANK_ADMIN_TOKEN=ADMIN_TOKEN, SURGETANK_SHUTDOWN_TIMEOUT="1")
    host, port = process.url().removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as open_request:
        open_request.sendall(b"POST /flush HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        assert process.end() == 0


def test_beyond_loopback_it_refuses_to_start_before_anybody_can_log_in(start, environment):
    refused = run(environment, "serve", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    assert "there is no token" in refused.stderr
    assert "SURGETANK_ADMIN_TOKEN" in refused.stderr
    open_door = run(environment, "serve", "--host", "0.0.0.0", "--port", "0", "--no-auth")
    assert open_door.returncode == 2
    assert "--no-auth" in open_door.stderr

    with_variable = start("--host", "0.0.0.0", SURGETANK_ADMIN_TOKEN=ADMIN_TOKEN)
    assert httpx.get(f"{with_variable.url()}/me").status_code == 401
    assert run(environment, "token", "create", "--role", "admin", "--user", "me").returncode == 0
    with_token = start("--host", "0.0.0.0")
    assert httpx.get(f"{with_token.url()}/me").status_code == 401


def test_on_loopback_it_says_that_nobody_can_log_in_or_that_everybody_can(start):
    nobody = start()
    nobody.url()
    assert "there is no token yet" in nobody.text
    everybody = start("--no-auth")
    assert httpx.get(f"{everybody.url()}/me").json()["role"] == "admin"
    assert "no authentication" in everybody.text


def test_it_starts_and_serves_while_the_database_is_down(
    start, environment, tmp_path, private_postgres
):
    url = private_postgres.url
    private_postgres.stop()
    with Surgetank(
        tmp_path / "home", database_url=url, flush_in_process=False, flush_on_close=False
    ) as tank:
        put_chain(tank.checkpointer(), "t", 3)
    process = start(
        SURGETANK_DATABASE_URL=url,
        SURGETANK_ADMIN_TOKEN=ADMIN_TOKEN,
        SURGETANK_SHUTDOWN_TIMEOUT="1",
    )
    at = process.url()
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    assert httpx.get(f"{at}/health/ready").json()["status"] == "degraded"
    assert httpx.get(f"{at}/threads/t/state", headers=headers).json()["values"]["step"] == 2
    private_postgres.start()
    wait_until(
        lambda: httpx.get(f"{at}/buffer", headers=headers).json()["buffer"]["entries"] == 0,
        "the flush",
        timeout_s=60,
    )
    assert process.end() == 0


def test_a_port_that_is_taken_is_said(environment):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(
            {**environment, "SURGETANK_ADMIN_TOKEN": ADMIN_TOKEN}, "serve", "--port", str(port)
        )
    assert done.returncode == 2
    assert f"port {port}" in done.stderr


def test_a_short_admin_token_is_refused_without_being_shown(environment):
    done = run({**environment, "SURGETANK_ADMIN_TOKEN": "hunter2"}, "serve", "--port", "0")
    assert done.returncode == 2
    assert "admin_token" in done.stderr
    assert "hunter2" not in done.stderr
