"""Hosts whose clocks are two hours apart share a buffer in Redis: a run goes from one worker to another that is told
to stop, a conversation goes on elsewhere, and who follows changes servers meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from support.following import sse
from support.http import ADMIN_TOKEN, Server, running
from support.projects import MakeProject, imports_undone, project
from support.redis_server import shared
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet

__all__ = ["imports_undone", "project"]

PATIENCE_S = 120.0
LONG_S = 600.0  # nothing is ever taken over because a lease ran out
PROJECT = """
import asyncio, operator, os
from typing import Annotated, TypedDict
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

class State(TypedDict, total=False):
    stays: bool
    by: Annotated[list[int], operator.add]
    answer: str

async def work(state):
    for n in range(5):
        get_stream_writer()({"n": n, "by": os.getpid()})
    while state.get("stays") and not os.path.exists(os.environ["GATE"]):
        await asyncio.sleep(0.01)
    return {"by": [os.getpid()]}

def ask(state):
    return {"answer": interrupt({"question": "go on?", "surgetank": {"expires_in": 1800}})}

def carry_out(state):
    return {"by": [os.getpid()]}

agent = StateGraph(State).add_node(work).add_node(ask).add_node(carry_out)
agent.add_edge(START, "work").add_edge("work", "ask").add_edge("ask", "carry_out")
"""
WITH_A_CLOCK_OF_ITS_OWN = """
import sys, time
hours = int(sys.argv.pop(1))
seconds, nanoseconds = time.time, time.time_ns
time.time = lambda: seconds() + hours * 3600
time.time_ns = lambda: nanoseconds() + hours * 3_600_000_000_000
from surgetank.cli import main
main()
"""


class Worker:
    """A process that flushes and works on runs, on a host of its own."""

    def __init__(self, home: Path, hours: int, config: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WITH_A_CLOCK_OF_ITS_OWN, str(hours), "worker", "--config", str(config)],
            env={**os.environ, **environment, "SURGETANK_HOME": str(home)},
        )  # fmt: skip
        self.pid = self.process.pid

    def stop(self) -> int:
        """Tell it to stop; what it ends with."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Nodes that stay wait for this file."""
    return tmp_path / "gate"


@contextmanager
def hosts(
    folder: Path, database_url: str, config: Path, gate: Path
) -> Iterator[tuple[Server, Server, Any]]:
    """Two servers, and what starts a worker."""
    url = shared().url(shards=4)
    environment = {
        "SURGETANK_BUFFER_URL": url, "SURGETANK_DATABASE_URL": database_url, "GATE": str(gate),
        "SURGETANK_FLUSH_AGE": "0", "SURGETANK_LEASE_TTL": f"{LONG_S}", "SURGETANK_RUN_LEASE": f"{LONG_S}",
    }  # fmt: skip
    workers: list[Worker] = []

    def start(name: str, hours: int) -> Worker:
        workers.append(Worker(folder / name, hours, config, environment))
        return workers[-1]

    with ExitStack() as stack:
        servers: list[Server] = []
        for name in ("near", "far"):
            tank = stack.enter_context(
                Surgetank(folder / name, database_url=database_url, buffer_url=url, flush_in_process=False,
                          admin_token=ADMIN_TOKEN)
            )  # fmt: skip
            graphs = GraphSet(load(config), checkpointer=tank.checkpointer())
            servers.append(stack.enter_context(running(tank, graphs=graphs)))
        try:
            yield servers[0], servers[1], start
        finally:
            for each in workers:
                each.process.kill()
                each.process.wait()


@pytest.mark.timeout(300)
def test_a_run_and_a_conversation_move_between_hosts_whatever_their_clocks_say(
    tmp_path: Path, database_url: str, project: MakeProject, gate: Path
) -> None:
    config = project({"p.py": PROJECT}, {"agent": "./p.py:agent"})
    with hosts(tmp_path, database_url, config, gate) as (near, far, start):
        ahead = start("ahead", +1)
        asked = begin(near, {"stays": False})
        wait_for(near, asked, "interrupted")
        (question,) = far.admin.get("/user-checkpoints").json()["user_checkpoints"]
        until = datetime.fromisoformat(question["expires_at"]).timestamp()
        assert until - near.tank.now() == pytest.approx(1800, abs=300)

        # A worker that is told to stop hands over at once what it has not ended.
        stays = begin(near, {"stays": True})
        path = f"/threads/{stays}/runs/{newest_run(near, stays)}/stream"
        seen = follow(near, path, 0, 3)
        behind = start("behind", -1)
        wait_until(lambda: len(far.tank.workers()) == 4, "the other worker", PATIENCE_S)
        wait_until(lambda: {w.state for w in far.tank.workers()} == {"working"}, "no silence", 60)
        assert ahead.stop() == 0
        seen += follow(far, path, seen[-1][0], 4)
        gate.touch()
        wait_for(far, stays, "interrupted")
        seen += follow(near, path, seen[-1][0], 3)
        numbers = [number for number, _ in seen]
        assert numbers == sorted(set(numbers))
        parts = [(event["by"], event["n"]) for _, event in seen if "n" in event]
        assert parts == [(pid, n) for pid in (ahead.pid, behind.pid) for n in range(5)]

        # A conversation goes on where the clock is two hours behind.
        for thread, server in ((asked, far), (stays, near)):
            body = {"assistant_id": "agent", "command": {"resume": "yes"}}
            server.admin.post(f"/threads/{thread}/runs/wait", json=body).raise_for_status()
        for server in (near, far):
            assert state_of(server, asked) == (["yes", ahead.pid, behind.pid], [])
            assert state_of(server, stays) == (["yes", behind.pid, behind.pid], [])
            history = server.admin.get(f"/threads/{asked}/history").json()
            steps = [each["metadata"]["step"] for each in history]
            assert steps == sorted(steps, reverse=True)
        wait_until(lambda: far.tank.status().buffer.entries == 0, "all to be flushed", PATIENCE_S)
        assert state_of(near, asked) == (["yes", ahead.pid, behind.pid], [])
        assert behind.stop() == 0
        assert all(state.leased_by is None for state in near.tank.parts.buffer.states())


def begin(server: Server, given: dict[str, Any]) -> str:
    """A run on a new thread, which it gives."""
    thread = str(server.admin.post("/threads", json={}).json()["thread_id"])
    body = {"assistant_id": "agent", "input": given, "stream_mode": ["custom"]}
    server.admin.post(f"/threads/{thread}/runs", json=body).raise_for_status()
    return thread


def newest_run(server: Server, thread: str) -> str:
    return str(server.admin.get(f"/threads/{thread}/runs").json()[0]["run_id"])


def wait_for(server: Server, thread: str, status: str) -> None:
    client = server.admin
    wait_until(
        lambda: client.get(f"/threads/{thread}").json()["status"] == status, status, PATIENCE_S
    )


def follow(server: Server, path: str, after: int, count: int) -> list[tuple[int, dict[str, Any]]]:
    """The events of a run after a number, until so many are from its node."""
    found: list[tuple[int, dict[str, Any]]] = []
    headers = {"Last-Event-ID": str(after)}
    with server.admin.stream("GET", path, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        while sum("n" in event for _, event in found) < count:
            found += sse(lines, 1)
    return found


def state_of(server: Server, thread: str) -> tuple[list[Any], list[str]]:
    """The answer and who did it, and what comes next."""
    state = server.admin.get(f"/threads/{thread}/state").json()
    return [state["values"].get("answer"), *state["values"]["by"]], state["next"]
