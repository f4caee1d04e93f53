"""Servers and workers of runs as processes of one home, for tests that race, kill and cut them off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from support.commands import start_command
from support.servers import free_port
from support.waiting import wait_until


@dataclass
class Plant:
    """The processes, by names like `server`, `server2`, `worker`, and what kills them."""

    folder: Path
    database_url: str
    environment: Mapping[str, str]
    runs: int  # of each process at once
    # of one process, over `environment`: as on a host of its own
    own: Callable[[str], Mapping[str, str]] = lambda _: {}
    programs: Mapping[str, Sequence[str]] = field(default_factory=dict)  # others, for Python
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, Any] = field(default_factory=dict)
    killed_at: dict[int, float] = field(default_factory=dict)
    http: httpx.Client = field(default_factory=httpx.Client)

    @property
    def url(self) -> str:
        """The first server's."""
        return self.urls[0]

    @property
    def urls(self) -> list[str]:
        """Of all servers."""
        return [f"http://127.0.0.1:{port}" for port in self.ports.values()]

    @property
    def marks(self) -> Path:
        """Where nodes write when they begin and end."""
        return self.folder / "marks"

    def start(self, name: str) -> None:
        config = ["--config", str(self.folder / "langgraph.json"), "--runs", str(self.runs)]
        if name.startswith("server"):
            port = self.ports.setdefault(name, free_port())
            command = ["serve", "--no-auth", "--port", str(port), *config]
        else:
            command = ["worker", *config]
        environment = {
            **os.environ, "SURGETANK_HOME": str(self.folder / "home"),
            "SURGETANK_DATABASE_URL": self.database_url, "MARKS": str(self.marks), **self.environment, **self.own(name),
        }  # fmt: skip
        path = self.folder / f"{name}.log"
        if name not in self.programs:
            self.processes[name] = start_command(*command, environment=environment, log=path)
            return
        with path.open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *self.programs[name]], env=environment, stdout=log, stderr=log
            )  # fmt: skip

    def kill(self, name: str) -> None:
        process = self.processes[name]
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.killed_at[process.pid] = time.time()

    def answers(self) -> bool:
        """Whether all servers do."""
        try:
            return all(self.http.get(f"{url}/ok").status_code == 200 for url in self.urls)
        except httpx.TransportError:
            return False


@contextmanager
def running(
    folder: Path, database_url: str, project: str, *, servers: int = 1, workers: int = 1,
    runs: int = 3, environment: Mapping[str, str] | None = None,
    own: Callable[[str], Mapping[str, str]] = lambda _: {},
    programs: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Plant]:  # fmt: skip
    """A plant whose graph `agent` is the one of `project`, a module; its processes end with it."""
    plant = Plant(folder, database_url, environment or {}, runs, own, programs or {})
    plant.marks.mkdir()
    (folder / "p.py").write_text(project)
    named = {"dependencies": ["."], "graphs": {"agent": "./p.py:agent"}}
    (folder / "langgraph.json").write_text(json.dumps(named))
    try:
        if servers:
            plant.start("server")
            wait_until(plant.answers, "the server", 60)  # the first one prepares the home
        for kind, count in (("server", servers), ("worker", workers)):
            for number in range(count):
                name = f"{kind}{number + 1 if number else ''}"
                if name not in plant.processes:
                    plant.start(name)
        for name in plant.programs:
            plant.start(name)
        wait_until(plant.answers, "all servers", 60)
        yield plant
    finally:
        plant.http.close()
        for process in plant.processes.values():
            process.terminate()
        for process in plant.processes.values():
            process.wait(60)


# For a project: `with marked(config, NODE):` says that a node is under way, as `check_marks` reads it.
MARKED = """
import json, os, time
from contextlib import contextmanager

@contextmanager
def marked(config, name):
    where = config["configurable"]
    def mark(what):
        line = json.dumps([time.time(), os.getpid(), what, name, where["run_id"]])
        with open(os.path.join(os.environ["MARKS"], where["thread_id"]), "a") as file:
            file.write(line + "\\n")
    mark("+")
    try:
        yield
    finally:
        mark("-")
"""


def check_marks(
    marks: Path, killed_at: Mapping[int, float], *, alone: bool = True
) -> dict[str, list[tuple[str, str]]]:
    """No two runs, and no two attempts of one, were in nodes of a thread at the same time: nobody who
    lives is in a node when another begins. Gives the nodes that began, with their runs, by thread.

    A mark is a line of JSON: time, pid, "+" or "-", node, run.
    """
    begun: dict[str, list[tuple[str, str]]] = {}
    for path in marks.iterdir():
        inside: dict[tuple[int, str, str], float] = {}
        nodes = begun.setdefault(path.name, [])
        for line in path.read_text().splitlines():
            at, pid, what, node, run = json.loads(line)
            if what == "-":
                inside.pop((pid, node, run), None)
                continue
            alive = [each for each in inside if killed_at.get(each[0], at + 1) > at]
            assert not alone or not alive, (path.name, alive, line)
            inside[pid, node, run] = at
            nodes.append((node, run))
    return begun
