"""Agent servers as processes of their own, on the same project: ours, and `langgraph dev` where
somebody installed it (`make bench-peers`; it is Elastic-2.0, nothing of it is shipped or copied).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from bench.harness import BenchError, Scene
from bench.peers import OURS

LANGGRAPH_DEV = "langgraph dev"
PEERS = Path(__file__).parents[1] / ".venv-peers"
_START_S = 90.0
_PROJECT = Path(__file__).with_name("project")


@dataclass(frozen=True, slots=True)
class AgentServer:
    """A running agent server and what its clients need."""

    name: str
    url: str
    headers: dict[str, str]


@contextmanager
def agent_servers(scene: Scene) -> Iterator[list[AgentServer]]:
    """Those that can be had on this machine, ours first."""
    folder = shutil.copytree(_PROJECT, scene.home / "project")  # `langgraph dev` writes into it
    config = folder / "langgraph.json"
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(_ours(scene, config))]
        program = PEERS / "bin/langgraph"
        if program.exists() and scene.scale.peers:
            servers.append(stack.enter_context(_langgraph_dev(scene, config, program)))
        yield servers


@contextmanager
def _ours(scene: Scene, config: Path) -> Iterator[AgentServer]:
    port, token = _free_port(), secrets.token_urlsafe(32)
    with scene.server.database(migrated=True) as url:
        environment = {
            **os.environ,
            "SURGETANK_HOME": mkdtemp(dir=scene.home),
            "SURGETANK_DATABASE_URL": url,
            "SURGETANK_ADMIN_TOKEN": token,
        }
        program = str(Path(sys.executable).with_name("surgetank"))
        command = [program, "serve", "--config", str(config), "--port", str(port)]
        with _process(scene, OURS, command, environment, config.parent):
            yield _ready(AgentServer(OURS, f"http://127.0.0.1:{port}", {"X-Api-Key": token}))


@contextmanager
def _langgraph_dev(scene: Scene, config: Path, program: Path) -> Iterator[AgentServer]:
    port = _free_port()
    command = [
        str(program), "dev", "--no-browser", "--no-reload", "--port", str(port),
        "--config", str(config),
    ]  # fmt: skip
    environment = {**os.environ, "LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1"}
    with _process(scene, LANGGRAPH_DEV, command, environment, config.parent):
        yield _ready(AgentServer(LANGGRAPH_DEV, f"http://127.0.0.1:{port}", {}))


@contextmanager
def _process(
    scene: Scene, name: str, command: list[str], environment: dict[str, str], folder: Path
) -> Iterator[None]:
    log = scene.home / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ready(server: AgentServer) -> AgentServer:
    limit = time.monotonic() + _START_S
    while time.monotonic() < limit:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"{server.url}/ok", timeout=2).read()
            return server
        time.sleep(0.1)
    raise BenchError(f"{server.name} did not start within {_START_S:.0f} s")
