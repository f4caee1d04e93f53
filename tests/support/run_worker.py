"""A worker of runs as a process, whose nodes stay where a test wants them to.

python -m support.run_worker HOME URL MARKS '{"stays": true, "lease_s": 1.0, "renew_s": 0.2}'

The graph has three nodes in a row. Each adds a line to `MARKS/THREAD` when it begins and when it ends.
With `stays` the first one stays in itself until there is a file `MARKS/go`. The process says "works" when it
begins, and "over" each time when it has no run any more.
"""

from __future__ import annotations

import asyncio
import json
import operator
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast

import psutil
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from support.commands import start_module
from surgetank import Surgetank
from surgetank.workflows.execution import FixedGraphs
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.worker import Graph, RunWorker

GO = "go"
NODES = ("n0", "n1", "n2")
QUICK: Any = {"connect_timeout": 2.0, "read_timeout": 1.0}


class State(TypedDict, total=False):
    """Who did what."""

    steps: Annotated[list[str], operator.add]


class WorkerProcess:
    """One such process."""

    def __init__(self, home: Path, url: str, marks: Path, **options: Any) -> None:
        marks.mkdir(exist_ok=True)
        self._process = start_module("support.run_worker", home, url, marks, json.dumps(options))
        self.wait_for("works")

    @property
    def name(self) -> str:
        """What it is called in marks and steps."""
        return str(self._process.pid)

    def wait_for(self, word: str) -> None:
        """Wait until it says the word."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == word:
                return
        raise AssertionError(f"the worker ended before it said {word!r}")

    def freeze(self) -> None:
        """Stop it where it is (SIGSTOP)."""
        process = psutil.Process(self._process.pid)
        process.send_signal(signal.SIGSTOP)
        while process.status() != psutil.STATUS_STOPPED:
            pass

    def go_on(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def marks_of(marks: Path, thread: str) -> list[str]:
    """What nodes of a thread marked, in order: `+PID:NODE:RUN` at its beginning, `-PID:NODE:RUN` at
    its end."""
    path = marks / thread
    return path.read_text().split() if path.exists() else []


def _graph(tank: Surgetank, marks: Path, *, stays: bool, pause_s: float) -> Graph:
    me = str(os.getpid())

    def mark(config: RunnableConfig, text: str) -> None:
        where = config["configurable"]
        with (marks / where["thread_id"]).open("a") as file:
            file.write(f"{text}:{where['run_id']}\n")

    def node(name: str) -> Any:
        async def run(_: State, config: RunnableConfig) -> State:
            done = f"{me}:{name}"
            mark(config, f"+{done}")
            try:
                await asyncio.sleep(pause_s)
                while stays and name == NODES[0] and not (marks / GO).exists():  # noqa: ASYNC110 - others let it go on
                    await asyncio.sleep(0.01)
            finally:  # also when it is cancelled
                mark(config, f"-{done}")
            return {"steps": [done]}

        run.__annotations__ = {"config": RunnableConfig}
        return run

    builder = StateGraph(State)
    for name in NODES:
        builder.add_node(name, node(name))
    for before, after in zip([START, *NODES], [*NODES, END], strict=True):
        builder.add_edge(before, after)
    return cast("Graph", builder.compile(checkpointer=tank.checkpointer()))


async def _work(home: str, url: str, marks: str, options: dict[str, Any]) -> None:
    with Surgetank(home, database_url=url, flush_in_process=False, **QUICK) as tank:
        graph = _graph(
            tank,
            Path(marks),
            stays=options.get("stays", False),
            pause_s=options.get("pause_s", 0.0),
        )
        queue = RunQueue(tank.parts.database, lease_s=options.get("lease_s", 1.0))
        worker = RunWorker(
            queue, FixedGraphs({"agent": graph}), name=f"worker-{os.getpid()}",
            renew_s=options.get("renew_s", 0.2), most=options.get("most", 10),
            saver=tank.checkpointer(),
        )  # fmt: skip
        working = asyncio.create_task(worker.work(asyncio.Event()))
        print("works", flush=True)
        had = 0
        while not working.done():
            if had and not worker.under_way:
                print("over", flush=True)
            had = worker.under_way
            await asyncio.sleep(0.005)
        await working


if __name__ == "__main__":
    given_home, given_url, given_marks, given = sys.argv[1:]
    asyncio.run(_work(given_home, given_url, given_marks, json.loads(given)))
