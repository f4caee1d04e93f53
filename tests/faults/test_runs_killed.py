"""Workers of runs killed with -9 at random, PostgreSQL crashing between: every run that was accepted
ends or waits for a person, none runs twice at once, no answer is lost. The seed is printed.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psycopg
import pytest

from support.plant import check_marks
from support.postgres import PostgresServer
from support.torture import FEW_SEEDS
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.workflows.runs import NewRun, Run
from surgetank.workflows.status import Status

TESTS = str(Path(__file__).parents[1])
STEPS = 3
# A node marks its beginning and its end in a file of its thread: two at once would be seen.
WORKER = """
import asyncio, json, os, sys, time, typing, operator
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from surgetank import Surgetank
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.execution import FixedGraphs
from surgetank.workflows.worker import RunWorker

home, url, marks = sys.argv[1:]

class State(typing.TypedDict, total=False):
    steps: typing.Annotated[list, operator.add]

def mark(config, what, node):
    where = config["configurable"]
    line = json.dumps([time.time(), os.getpid(), what, node, where["run_id"]])
    with open(os.path.join(marks, where["thread_id"]), "a") as file:
        file.write(line + "\\n")

def step(number):
    async def node(state, config):
        mark(config, "+", f"n{number}")
        try:
            await asyncio.sleep(0.1)
        finally:
            mark(config, "-", f"n{number}")
        return {"steps": [number]}
    node.__annotations__ = {}
    return node

def ask(state):
    return {"steps": [interrupt("go on?")]}

async def main():
    tank = Surgetank(home, database_url=url, flush_in_process=False).open()
    builder = StateGraph(State)
    names = [f"n{n}" for n in range(3)] + ["ask"]
    for n in range(3):
        builder.add_node(f"n{n}", step(n))
    builder.add_node("ask", ask)
    for a, b in zip([START, *names], [*names, END]):
        builder.add_edge(a, b)
    graph = builder.compile(checkpointer=tank.checkpointer())
    queue = RunQueue(tank.parts.database, lease_s=1.0)
    worker = RunWorker(queue, FixedGraphs({"agent": graph}), name=f"worker-{os.getpid()}", renew_s=0.2)
    print("works", flush=True)
    await worker.work(asyncio.Event())

asyncio.run(main())
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": TESTS},
    )  # fmt: skip
    assert worker.stdout is not None
    worker.stdout.readline()
    return worker


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_no_run_is_lost_or_doubled_whoever_is_killed(
    tmp_path: Path, private_postgres: PostgresServer, seed: int
) -> None:
    chance = random.Random(seed)
    home, marks, url = str(tmp_path / "home"), tmp_path / "marks", private_postgres.url
    marks.mkdir()
    threads = [f"t{number}" for number in range(6)]
    with Surgetank(home, database_url=url, flush_in_process=False) as tank:
        tank.parts.database.prepare()
        arguments = (home, url, str(marks))
        workers = [start(*arguments) for _ in range(2)]
        kills, killed_at = 0, dict[int, float]()
        try:
            runs = [accept(tank, thread, n) for n in range(16) for thread in threads]
            for _ in range(5):
                wait_until(
                    lambda: Status.RUNNING in tank.runs.counts() or is_over(tank, runs), "work"
                )
                time.sleep(chance.uniform(0.0, 0.3))
                victim = chance.randrange(2)
                workers[victim].kill()
                workers[victim].communicate()
                killed_at[workers[victim].pid] = time.time()
                kills += 1
                if chance.random() < 0.3:
                    private_postgres.kill()
                    time.sleep(chance.uniform(0.0, 0.3))
                    private_postgres.start()
                    kills += 1
                workers[victim] = start(*arguments)
            wait_until(lambda: is_over(tank, runs), "every run to wait for a person", timeout_s=90)
            answers = [answer(tank, run) for run in latest(tank, threads)]
            wait_until(lambda: is_over(tank, answers), "the answers to arrive", timeout_s=90)
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
        states = {run.run_id: tank.runs.get(run.run_id) for run in [*runs, *answers]}
        attempts = sum(run.attempts for run in states.values())
        print(f"seed {seed}: {kills} kills, {len(states)} runs, {attempts} attempts, 0 lost")
        for run in runs:
            after = states[run.run_id]
            assert after.status in (Status.AWAITING_CHECKPOINT, Status.FAILED), (seed, after)
            if after.status is Status.FAILED:
                assert after.attempts == after.max_attempts, (seed, after)
                assert "went silent" in (after.error or ""), (seed, after)
        for thread, given in zip(threads, answers, strict=True):
            assert states[given.run_id].status is Status.COMPLETED, (seed, states[given.run_id])
            values = tank.checkpointer().get_tuple({"configurable": {"thread_id": thread}})
            assert values is not None
            steps = values.checkpoint["channel_values"]["steps"]
            assert steps.count(f"answer to {thread}") == 1, (seed, steps)
        check_marks(marks, killed_at)
        with psycopg.connect(url) as connection:
            left = connection.execute(
                "SELECT count(*) FROM surgetank.thread_status WHERE running_run IS NOT NULL"
            ).fetchone()
        assert left == (0,)


def accept(tank: Surgetank, thread: str, number: int) -> Run:
    """Accepted again until it is known to be, as a client would: the database may be away."""
    new = NewRun(
        thread_id=thread, assistant_id="agent", kwargs={"input": {"steps": [f"run {number}"]}},
        run_id=uuid.uuid4(), max_attempts=20,
    )  # fmt: skip
    return tank.runs.accept(new, actor="ada")


def latest(tank: Surgetank, threads: list[str]) -> list[Run]:
    return [tank.runs.of_thread(thread, limit=1)[0] for thread in threads]


def answer(tank: Surgetank, run: Run) -> Run:
    new = NewRun(
        thread_id=run.thread_id, assistant_id="agent", workflow_id=run.workflow_id,
        kwargs={"command": {"resume": f"answer to {run.thread_id}"}}, max_attempts=20,
    )  # fmt: skip
    return tank.runs.accept(new, actor="ada")


def is_over(tank: Surgetank, runs: list[Run]) -> bool:
    return all(
        tank.runs.get(run.run_id).status not in (Status.PENDING, Status.RUNNING) for run in runs
    )
