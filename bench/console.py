"""A console to be measured: our server as a process of its own, and Debian's Chromium before it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil

from bench.harness import BenchError, Scene

_START_S = 60.0
_PROGRAMS = ("chromium", "chromium-browser")


@dataclass(frozen=True, slots=True)
class ConsoleServer:
    """A running server with its console."""

    url: str
    home: str
    database_url: str
    token: str
    process: psutil.Process

    def log_in(self, page: Any) -> None:
        """As people do."""
        page.goto(f"{self.url}/console/login")
        page.get_by_label("Your token").fill(self.token)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/console/*")


def is_here(scene: Scene) -> bool:
    """Whether there is a browser to measure with. A trial of all measures takes none."""
    return scene.scale.peers and any(map(shutil.which, _PROGRAMS))


@contextmanager
def console_server(scene: Scene, **settings: str) -> Iterator[ConsoleServer]:
    """One, with a database and a home of its own; settings as the environment has them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home, token = mkdtemp(dir=scene.home), secrets.token_urlsafe(32)
    with scene.server.database(migrated=True) as url:
        environment = {
            **os.environ, "SURGETANK_HOME": home, "SURGETANK_DATABASE_URL": url,
            "SURGETANK_ADMIN_TOKEN": token, **settings,
        }  # fmt: skip
        program = str(Path(sys.executable).with_name("surgetank"))
        with (scene.home / "console.log").open("wb") as output:
            process = subprocess.Popen(
                [program, "serve", "--port", str(port)], env=environment, stdout=output,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            _wait_for(port)
            there = psutil.Process(process.pid)
            yield ConsoleServer(f"http://127.0.0.1:{port}", home, url, token, there)
        finally:
            process.terminate()
            process.wait(60)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise BenchError("the server did not start")


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium."""
    from playwright.sync_api import sync_playwright

    program = next(found for name in _PROGRAMS if (found := shutil.which(name)))
    flags = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=flags)
        try:
            yield started
        finally:
            started.close()


def longest_tasks(trace: bytes) -> tuple[float, float]:
    """The longest task of the page's main thread in a trace of the category `toplevel`, in
    milliseconds: on the processor, and by the clock."""
    events = json.loads(trace)["traceEvents"]
    mains = {
        (event["pid"], event["tid"])
        for event in events
        if event.get("name") == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    tasks: dict[tuple[int, int], list[tuple[float, float]]] = {thread: [] for thread in mains}
    for event in events:
        thread = (event["pid"], event["tid"])
        if thread in mains and event["name"].endswith("RunTask") and "tdur" in event:
            tasks[thread].append((event["tdur"] / 1000, event["dur"] / 1000))
    busiest = max(tasks.values(), key=lambda each: sum(cpu for cpu, _ in each), default=[])
    if not busiest:
        raise BenchError("the browser traced no tasks")
    return max(cpu for cpu, _ in busiest), max(clock for _, clock in busiest)
