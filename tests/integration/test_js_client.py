"""LangGraph's own clients under Node on a server of ours: each route that they use, `useStream`, and a
server that is killed while they follow a run. Every answer is compared with our OpenAPI document."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.commands import start_command
from support.http import ADMIN_TOKEN
from support.openapi import Answers
from support.postgres import PostgresServer
from support.servers import free_port
from support.waiting import wait_until

JS = Path(__file__).parents[1] / "js"
pytestmark = pytest.mark.skipif(
    shutil.which("npm") is None, reason="only Node runs the JavaScript clients"
)


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("js") / "js"
    shutil.copytree(JS, folder, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(
        install, cwd=folder, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@dataclass
class Served:
    """A server as a process, which can be killed and started again on the same port."""

    folder: Path
    database_url: str
    port: int
    process: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {
            **os.environ, "SURGETANK_HOME": str(self.folder / "home"), "SURGETANK_RUN_LEASE": "2",
            "SURGETANK_DATABASE_URL": self.database_url, "SURGETANK_ADMIN_TOKEN": ADMIN_TOKEN,
        }  # fmt: skip
        config = str(self.folder / "langgraph.json")
        command = ["serve", "--port", str(self.port), "--config", config]
        self.process = start_command(
            *command, environment=environment, log=self.folder / "server.log"
        )
        wait_until(self._answers, "the server", 60)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/ok").status_code == 200
        return False

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "SURGETANK_URL": self.url, "TOKEN": ADMIN_TOKEN, **more}


@pytest.fixture
def served(tmp_path: Path, private_postgres: PostgresServer) -> Iterator[Served]:
    graphs = {"agent": "./project.py:agent", "failing": "./project.py:failing"}
    shutil.copy(JS / "project.py", tmp_path)
    (tmp_path / "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": graphs}))
    server = Served(tmp_path, private_postgres.url, free_port())
    server.start()
    yield server
    assert server.process is not None
    server.process.terminate()
    assert server.process.wait(60) == 0


@pytest.mark.parametrize("suite", ["client", "react"])
def test_the_javascript_client_works(scripts: Path, served: Served, suite: str) -> None:
    log = served.folder / "answers"
    done = subprocess.run(
        ["node", "--test", "--test-concurrency=1", "--test-force-exit", f"{suite}.test.mjs"],
        cwd=scripts, env=served.environment(ANSWERS_FILE=str(log)), capture_output=True, text=True,
        check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    answers = Answers(httpx.get(f"{served.url}/openapi.json").json())
    answers.check_lines(log.read_text().splitlines())
    assert answers.compared > 10


def test_a_client_that_follows_a_run_gets_each_event_once_though_the_server_is_killed(
    scripts: Path, served: Served
) -> None:
    follower = subprocess.Popen(
        ["node", "follow.mjs"], cwd=scripts, env=served.environment(), stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    parts = []
    assert follower.stdout is not None
    with follower.stdout as lines:
        for line in lines:
            parts.append(json.loads(line))
            if len(parts) == 10:
                served.kill()
                served.start()
    assert follower.wait(60) == 0
    assert parts[-1]["event"] == "over"
    attempts, numbers = 0, list[list[int]]()
    for part in parts:
        if part["event"] == "metadata":
            attempts += 1
            numbers.append([])
        elif part["event"] == "custom" and "number" in part["data"]:
            numbers[-1].append(part["data"]["number"])
    assert attempts == 2
    assert numbers[1] == list(range(60))
    assert numbers[0] == list(range(len(numbers[0])))
