"""Ctrl-C, ports that are taken, and logs as JSON: commands as processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from support.postgres import PostgresServer
from support.savers import put, put_chain
from support.waiting import wait_until
from surgetank import Surgetank


def start(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "surgetank", *arguments], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # a shell that starts the tests in the background has its children ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )  # fmt: skip


@pytest.fixture
def environment(tmp_path: Path, database_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "SURGETANK_HOME": str(tmp_path / "home"),
        "SURGETANK_DATABASE_URL": database_url,
    }


def interrupted(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Its exit code and what stands on stderr after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    try:
        _, said = process.communicate(timeout=40)
    finally:
        process.kill()
    return process.returncode, said.splitlines()


def waits_for_a_lock(url: str) -> bool:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = "
            "current_database()"
        ).fetchone()
    return row is not None and row[0] > 0


@pytest.mark.parametrize("command", ["flush", "export"])
def test_ctrl_c_ends_what_waits_for_the_database_with_one_line(
    environment: dict[str, str], make_tank: Any, database_url: str, command: str, tmp_path: Path
) -> None:
    tank: Surgetank = make_tank()
    put_chain(tank.checkpointer(), "t", 2)
    if command == "export":
        assert tank.flush().ok
    target = ["--to", str(tmp_path / "out.db")] if command == "export" else []
    with psycopg.connect(database_url) as holder:
        holder.execute(
            "LOCK TABLE surgetank.checkpoints, surgetank.threads, surgetank.partition_progress IN "
            "ACCESS EXCLUSIVE MODE"
        )
        process = start(environment, command, *target)
        wait_until(
            lambda: waits_for_a_lock(database_url) or process.poll() is not None, "it to wait"
        )
        code, said = interrupted(process)
    assert code == 130, said
    assert said == ["surgetank: stopped by Ctrl-C"]


def test_ctrl_c_ends_tail_alike(environment: dict[str, str], make_tank: Any) -> None:
    make_tank().emit_log("hello", thread_id="t")
    process = start(environment, "tail", "-f")
    assert process.stdout is not None
    assert "hello" in process.stdout.readline()
    assert interrupted(process) == (130, [])


def test_the_log_of_a_worker_is_json_from_the_first_line_to_the_last(
    environment: dict[str, str], tmp_path: Path
) -> None:
    process = start({**environment, "SURGETANK_LOG_FORMAT": "json"}, "worker")
    assert process.stderr is not None
    first = json.loads(process.stderr.readline())
    assert (first["event"], first["level"]) == ("worker_started", "info")
    assert first["buffer"] == str(tmp_path / "home" / "buffer.db")
    assert first["at"].endswith("+00:00")
    wait_until((tmp_path / "home" / "buffer.db").exists, "the buffer")
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=40)
    assert process.returncode == 0, rest
    assert next(json.loads(line)["event"] for line in rest.splitlines()) == "worker_stopping"


def test_a_port_that_is_taken_is_told_before_a_buffer_is_made(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        process = start(environment, "serve", "--port", str(other.getsockname()[1]))
        _, said = process.communicate(timeout=40)
    assert process.returncode == 2
    assert "can't listen on 127.0.0.1" in said
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "command",
    [("worker", "--json"), ("serve", "--no-auth"), ("export",), ("import",)],
)
def test_sigterm_ends_what_a_frozen_database_holds_up(
    tmp_path: Path, private_postgres: PostgresServer, command: tuple[str, ...]
) -> None:
    """Long-running ones end in order with 0; what is cut off in the middle says so."""
    environment = {
        **os.environ,
        "SURGETANK_HOME": str(tmp_path / "home"),
        "SURGETANK_DATABASE_URL": private_postgres.url,
        "SURGETANK_FLUSH_AGE": "0",
        "SURGETANK_SHUTDOWN_TIMEOUT": "2",
        "SURGETANK_STATEMENT_TIMEOUT": "300",
        "SURGETANK_READ_TIMEOUT": "300",
        "SURGETANK_CONNECT_TIMEOUT": "300",
    }
    other = tmp_path / "other.db"
    with Surgetank(
        environment["SURGETANK_HOME"], database_url=private_postgres.url, flush_in_process=False
    ) as tank:
        put_chain(tank.checkpointer(), "t", 2)
        assert tank.flush().ok
        name, *more = command
        if name == "serve":
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            more += ["--port", str(port)]
        if name == "export":
            more = ["--to", str(other)]
        if name == "import":
            with SqliteSaver.from_conn_string(str(other)) as source:
                put_chain(source, "imported", 2)  # type: ignore[arg-type]
            more = ["--from", str(other)]
        with private_postgres.frozen():
            process = start(environment, name, *more)
            try:
                if name in ("worker", "serve"):
                    put(tank.checkpointer(), "waits", {"n": 1})
                    wait_until(lambda: leased(tank), "it to flush")
                if name == "serve":
                    wait_until(lambda: lives(port), "it to serve")
                if name in ("export", "import"):
                    wait_until(lambda: connects(process), "it to wait for the database")
                process.send_signal(signal.SIGTERM)
                began = time.monotonic()
                _, said = process.communicate(timeout=30)
                took = time.monotonic() - began
            finally:
                process.kill()
    assert took < 2.0 + 4.0, "shutdown_timeout, and the time to end an interpreter"
    assert "Traceback" not in said
    if name in ("worker", "serve"):
        assert process.returncode == 0, said
    else:
        assert process.returncode in (143, -signal.SIGTERM), said


def leased(tank: Surgetank) -> bool:
    (state,) = tank.parts.buffer.states("checkpoints") or (None,)
    return state is not None and state.leased_by is not None


def lives(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
    except httpx.TransportError:
        return False


def connects(process: subprocess.Popen[str]) -> bool:
    return bool(psutil.Process(process.pid).net_connections("unix"))
