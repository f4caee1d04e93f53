"""The drill: PostgreSQL is killed during a run that two people follow through a server in another
process.

Everybody learns of it, the run goes on, a new one works, and afterwards everything is there exactly
once.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import httpx
import psycopg
import pytest
from langgraph.graph import END, START, StateGraph
from websockets.sync.client import connect

import surgetank
from support.postgres import PostgresServer
from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.database.migrate import migrate
from surgetank.database.pool import Database
from surgetank.server.access.roles import Role
from surgetank.server.access.tokens import TokenStore

ADMIN_TOKEN = "an-admin-token-of-the-environment"


class State(TypedDict, total=False):
    n: int


class Subscriber(threading.Thread):
    """Follows one path until it is closed, and keeps what came with the time it came."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(daemon=True)
        self.events: list[dict[str, Any]] = []
        self.came: dict[str, float] = {}
        self.ready = threading.Event()
        self._over = threading.Event()
        self._url, self._headers = url, {"Authorization": f"Bearer {token}"}

    def run(self) -> None:
        with connect(self._url, additional_headers=self._headers) as ws:
            while not self._over.is_set():
                try:
                    text = ws.recv(timeout=0.2)
                except TimeoutError:
                    continue
                for line in str(text).split("\n"):
                    event = json.loads(line)
                    self.came.setdefault(event["type"], time.monotonic())
                    self.events.append(event)
                    self.ready.set()

    def of(self, type_: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["type"] == type_]

    def close(self) -> None:
        self._over.set()
        self.join(20)


@pytest.fixture
def private_url(private_postgres: PostgresServer) -> str:
    url = private_postgres.url_of(private_postgres.create_database())
    database = Database(url)
    migrate(database)
    database.close()
    return url


@pytest.fixture
def served(tmp_path: Path, private_url: str) -> Iterator[str]:
    """The address of `surgetank serve` in a process of its own, on the buffer of the test's
    engine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "SURGETANK_HOME": str(tmp_path / "home"), "SURGETANK_DATABASE_URL": private_url,
        "SURGETANK_ADMIN_TOKEN": ADMIN_TOKEN, "SURGETANK_FLUSH_IN_PROCESS": "false",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "surgetank", "serve", "--port", str(port)], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(address), "the server", timeout_s=60)
        yield address
    finally:
        process.terminate()
        assert process.wait(60) == 0


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health/live").status_code == 200
    except httpx.TransportError:
        return False


def graph_of(tank: Surgetank, go_on: Callable[[], bool]) -> Any:
    """Counts and logs until it may end."""

    def node(state: State) -> State:
        surgetank.emit_log(f"round {state['n']}")
        time.sleep(0.01)
        return {"n": state["n"] + 1}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_conditional_edges("node", lambda _: "node" if go_on() else END)
    return builder.compile(checkpointer=tank.checkpointer())


def config(thread: str) -> Any:
    return {"configurable": {"thread_id": thread, "user_id": "ada"}, "recursion_limit": 100_000}


def test_nobody_is_left_blind_and_nothing_is_lost(
    make_tank: MakeTank, private_postgres: PostgresServer, private_url: str, served: str
):
    tank = make_tank(database_url=private_url, flush_in_process=True)
    token = TokenStore(tank.parts.database).create("ada", Role.VIEWER, by="test")[1]
    over = threading.Event()
    results: list[State] = []
    run = threading.Thread(
        target=lambda: results.append(
            graph_of(tank, lambda: not over.is_set()).invoke({"n": 0}, config("live"))
        )
    )
    run.start()
    wait_until(lambda: tank.jobs(status="completed"), "a first flush")
    live = served.replace("http", "ws")
    ada, admin = (
        Subscriber(f"{live}/ws/threads/live?after=0", token),
        Subscriber(f"{live}/ws/events", ADMIN_TOKEN),
    )
    administrator = httpx.Client(
        base_url=served, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}, timeout=30
    )
    user = httpx.Client(base_url=served, headers={"Authorization": f"Bearer {token}"}, timeout=30)
    with administrator, user:
        assert user.get("/me").json()["user"] == "ada"
        assert user.get("/threads/live/logs").status_code == 200
        for subscriber in (ada, admin):
            subscriber.start()
        wait_until(lambda: ada.ready.is_set() and admin.ready.is_set(), "both to follow")

        private_postgres.kill()
        killed = time.monotonic()
        for name, subscriber in (("ada", ada), ("admin", admin)):
            wait_until(partial(subscriber.of, "checkpoint_flush_error"), "the banner")
            print(
                f"{name}: the banner after "
                f"{subscriber.came['checkpoint_flush_error'] - killed:.2f} s"
            )
        (banner,) = wait_until(
            lambda: user.get("/threads/live/logs").json()["incidents"], "the banner beside the log"
        )
        assert "Saving is delayed" in banner["message"]
        page = wait_until(
            lambda: p if (p := administrator.get("/admin/system-errors").json())["count"] else None,
            "it",
        )
        assert page["status"] == "partial"
        (error,) = page["errors"]
        assert "Traceback" in error["stack_trace"]
        shown = subprocess.run(
            [sys.executable, "-m", "surgetank", "errors"], capture_output=True, text=True, check=False,
            env={**os.environ, "SURGETANK_HOME": str(tank.settings.home), "SURGETANK_DATABASE_URL": private_url},
        )  # fmt: skip
        assert "Traceback" in shown.stdout
        wait_until(
            lambda: tank.jobs.get(error["error_context"]["job"]).status.value == "failed",
            "the job to have failed",
        )
        fresh = graph_of(tank, lambda: False).invoke({"n": 0}, config("fresh"))
        assert fresh == {"n": 1}

        over.set()
        run.join()
        rounds = results[0]["n"]
        private_postgres.start()
        for subscriber in (ada, admin):
            wait_until(
                partial(subscriber.of, "checkpoint_flush_recovered"),
                "the banner to go",
                timeout_s=60,
            )
        wait_until(
            lambda: tank.parts.buffer.depth().entries == 0, "everything to arrive", timeout_s=60
        )
        assert administrator.get("/admin/system-errors").json()["status"] == "ok"
    for subscriber in (ada, admin):
        subscriber.close()
        for kind in ("checkpoint_flush_error", "checkpoint_flush_recovered"):
            (event,) = subscriber.of(kind)
            # the user's is derived for their thread, the administrator's is the sink's own
            assert event["thread_id"] == ("live" if subscriber is ada else None)
            assert event.get("derived", False) is (subscriber is ada)
    assert tank.incidents() == []
    # Each event once and in order, for the user from the first on.
    mine = [event for event in ada.events[1:] if not event.get("derived")]
    assert [e["seq"] for e in mine] == list(range(1, len(mine) + 1))
    ids = [e["id"] for e in admin.events[1:]]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    told = [e["message"] for e in ada.of("log") if e["message"].startswith("round")]
    assert told == [f"round {n}" for n in range(rounds)]
    with psycopg.connect(private_url) as connection:
        logged = connection.execute(
            "SELECT message FROM surgetank.thread_logs WHERE thread_id = 'live' AND message LIKE "
            "'round%' ORDER BY seq"
        ).fetchall()
        errors = connection.execute(
            "SELECT error_type, occurrences FROM surgetank.system_errors ORDER BY error_type"
        ).fetchall()
        checkpoints = connection.execute(
            "SELECT count(*) FROM surgetank.checkpoint_history WHERE thread_id = 'live'"
        ).fetchone()
    assert [message for (message,) in logged] == told
    assert [type_ for type_, _ in errors] == ["checkpoint_flush_error"]
    assert errors[0][1] == 1, "one outage, however many threads waited"
    assert checkpoints == (rounds + 2,)
