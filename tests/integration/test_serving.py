"""`surgetank serve --config`, `dev` and `worker --runs` as processes: killed, told to stop, a project
that changes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.commands import start_command
from support.postgres import PostgresServer
from support.servers import free_port
from support.waiting import wait_until

PROJECT = """
import operator
from typing import Annotated, Any, TypedDict
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

class State(TypedDict, total=False):
    said: Annotated[list[Any], operator.add]

def ask(state):
    return {"said": [interrupt("really?"), "VERSION"]}

version = "VERSION"
graph = StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile()
"""


WEB = """
from fastapi import FastAPI
import p

app = FastAPI()

@app.get("/version")
def version():
    return p.version
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "project"
    found.mkdir()
    (found / "p.py").write_text(PROJECT.replace("VERSION", "one"))
    (found / "web.py").write_text(WEB)
    http = {"app": "./web.py:app"}
    named = {"dependencies": ["."], "graphs": {"agent": "./p.py:graph"}, "http": http}
    (found / "langgraph.json").write_text(json.dumps(named))
    return found


Start = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path, private_postgres: PostgresServer) -> Iterator[Start]:
    started: list[Any] = []
    environment = {
        **os.environ, "SURGETANK_HOME": str(tmp_path / "home"),
        "SURGETANK_DATABASE_URL": private_postgres.url, "SURGETANK_RUN_LEASE": "2",
    }  # fmt: skip

    def run(*command: str) -> Any:
        process = start_command(*command, environment=environment, log=tmp_path / "log")
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
    for process in started:
        process.wait(60)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ok").status_code == 200
    except httpx.TransportError:
        return False


def post(url: str, path: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{url}{path}", json=body, headers=headers, timeout=30)


def waiting(url: str) -> list[Any]:
    found = httpx.get(f"{url}/user-checkpoints?status=pending").json()
    rows: list[Any] = found["user_checkpoints"]
    return rows


def test_a_question_survives_the_server_and_is_answered_once(start: Start, folder: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    serve = ("serve", "--no-auth", "--port", str(port), "--config", str(folder / "langgraph.json"))
    server = start(*serve)
    wait_until(lambda: answers(url), "the server", 60)
    thread = post(url, "/threads", {}).json()["thread_id"]
    run = post(url, f"/threads/{thread}/runs", {"assistant_id": "agent", "input": {}}).json()
    (row,) = wait_until(lambda: waiting(url), "the question")
    server.send_signal(signal.SIGKILL)
    server.wait()
    start(*serve)
    wait_until(lambda: answers(url), "the server again", 60)
    assert [r["checkpoint_id"] for r in waiting(url)] == [row["checkpoint_id"]]
    decided = post(url, f"/user-checkpoints/{row['checkpoint_id']}/resolve", {"action": "approve"})
    again = decided.json()["run_id"]
    values = httpx.get(f"{url}/threads/{thread}/runs/{again}/join", timeout=60).json()
    assert values["said"] == [True, "one"]
    # what the first run sent before the kill is there for who comes back
    path = f"/threads/{thread}/runs/{run['run_id']}/stream"
    replay = httpx.get(f"{url}{path}", headers={"Last-Event-ID": "0"}, timeout=30).text
    assert "__interrupt__" in replay
    assert replay.rstrip().splitlines()[-3] == "event: end"
    late = post(url, f"/user-checkpoints/{row['checkpoint_id']}/resolve", {"action": "reject"})
    assert late.status_code == 409


def test_a_worker_takes_runs_that_a_server_without_one_accepts(start: Start, folder: Path) -> None:
    port, config = free_port(), str(folder / "langgraph.json")
    url = f"http://127.0.0.1:{port}"
    start("serve", "--no-auth", "--port", str(port), "--config", config, "--runs", "0")
    wait_until(lambda: answers(url), "the server", 60)
    run = post(url, "/runs", {"assistant_id": "agent", "input": {}}).json()
    assert run["status"] == "pending"
    worker = start("worker", "--config", config, "--runs", "2")
    wait_until(lambda: waiting(url), "the question", 60)
    worker.terminate()
    assert worker.wait(60) == 0


def test_the_server_for_development_is_started_anew_when_the_project_changes(
    start: Start, folder: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    dev = start("dev", "--port", str(port), "--config", str(folder / "langgraph.json"))
    wait_until(lambda: answers(url), "the server", 60)
    thread = post(url, "/threads", {}).json()["thread_id"]
    post(url, f"/threads/{thread}/runs", {"assistant_id": "agent", "input": {}})
    (row,) = wait_until(lambda: waiting(url), "the question")
    assert httpx.get(f"{url}/version").json() == "one"
    (folder / "p.py").write_text(PROJECT.replace("VERSION", "two"))
    wait_until(lambda: not answers(url), "the server to go", 60)
    wait_until(lambda: answers(url), "the server again", 60)
    decided = post(url, f"/user-checkpoints/{row['checkpoint_id']}/resolve", {"action": "approve"})
    join = f"{url}/threads/{thread}/runs/{decided.json()['run_id']}/join"
    assert httpx.get(join, timeout=60).json()["said"] == [True, "two"]
    assert httpx.get(f"{url}/version").json() == "two"
    search = "/threads/search"
    origin = {"Origin": "https://evil.example"}
    assert post(url, search, {}, **origin).status_code == 403
    allowed = post(url, search, {}, Origin="http://localhost:3000")
    assert allowed.status_code == 200, allowed.text
    plain = httpx.post(f"{url}{search}", content="{}", headers={"Content-Type": "text/plain"})
    assert plain.status_code == 422
    dev.terminate()
    assert dev.wait(60) == 0
