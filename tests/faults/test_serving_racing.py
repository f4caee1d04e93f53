"""Fifty clients race over HTTP for a few threads of several servers, whose runs go to these servers and to
workers beside them: of one thread one run is under way, its nodes never overlap, and each run that was
acknowledged is over in the end as its strategy says. The seed is printed.
"""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from support.plant import MARKED, Plant, check_marks, running
from support.torture import FEW_SEEDS, SEEDS
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.workflows.runs import Strategy
from surgetank.workflows.status import Status

LASTING = len(SEEDS) > 2  # make torture
CLIENTS, EACH = 50, 6 if LASTING else 1
SERVERS, WORKERS = (3, 3) if LASTING else (2, 2)
THREADS = 5
# Each node says whose run it is. The first one can be cancelled where it waits, the second one is a
# function, which Python can't end.
PROJECT = (
    MARKED
    + """
import asyncio, operator, os, random, time
from typing import Annotated, Any, TypedDict
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    said: Annotated[list[Any], operator.add]

async def wait(state, config: RunnableConfig):
    with marked(config, "wait"):
        await asyncio.sleep(random.uniform(0.0, 0.05))
    return {"said": [config["configurable"]["run_id"]]}

def work(state, config: RunnableConfig):
    with marked(config, "work"):
        time.sleep(random.choice([0.0, 0.02, 0.2]))
    return {"said": [config["configurable"]["run_id"]]}

agent = StateGraph(State).add_node(wait).add_node(work).add_edge(START, "wait").add_edge("wait", "work")
"""
)
NODES = ["wait", "work"]
TWO = """
SELECT thread_id FROM surgetank.runs WHERE status = 'running' OR (status = 'pending' AND %s)
GROUP BY thread_id HAVING count(*) > 1
"""


@dataclass
class Observer:
    """Looks into the table all the time."""

    url: str
    strategy: Strategy
    looks: int = 0
    most: int = 0

    def look(self, over: threading.Event) -> list[str]:
        """Threads with two runs; it must stay without any."""
        wrong: list[str] = []
        with psycopg.connect(self.url, autocommit=True) as connection:
            while not over.is_set():
                found = connection.execute(TWO, (self.strategy is Strategy.REJECT,)).fetchall()
                wrong += [f"the table has two of {thread}" for (thread,) in found]
                at_once = connection.execute(
                    "SELECT count(*) FROM surgetank.runs WHERE status = 'running'"
                ).fetchone()
                self.most = max(self.most, at_once[0] if at_once else 0)
                self.looks += 1
        return wrong


@contextmanager
def observed(url: str, strategy: Strategy) -> Iterator[Observer]:
    over, observer = threading.Event(), Observer(url, strategy)
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(observer.look, over)
        try:
            yield observer
        finally:
            over.set()
        assert looking.result(30) == []


@pytest.mark.parametrize("seed", FEW_SEEDS)
@pytest.mark.timeout(900)
def test_of_one_thread_one_run_is_under_way_however_clients_race_over_servers(
    tmp_path: Path, database_url: str, seed: int
) -> None:
    with running(tmp_path, database_url, PROJECT, servers=SERVERS, workers=WORKERS) as plant:
        told = {s: race(plant, s, random.Random(f"{seed}/{s}")) for s in Strategy}
        begun = check_marks(plant.marks, plant.killed_at)
    with Surgetank(tmp_path / "home", database_url=database_url) as tank:
        for strategy, accepted in told.items():
            check_ends(tank, strategy, accepted, begun)
        assert tank.audit.verify().sound
    left = rows(
        database_url,
        "SELECT thread_id, status FROM surgetank.thread_status"
        " WHERE running_run IS NOT NULL OR status <> 'idle'",
    )
    assert left == []
    marks = [
        json.loads(line) for path in plant.marks.iterdir() for line in path.read_text().splitlines()
    ]
    assert len({mark[1] for mark in marks}) == SERVERS + WORKERS, "all of them had runs"


def race(plant: Plant, strategy: Strategy, chance: random.Random) -> list[tuple[str, str]]:
    """All clients at once; thread and run of each that was acknowledged, when all are over."""
    begin, seeds = threading.Barrier(CLIENTS), [chance.random() for _ in range(CLIENTS)]
    threads = [f"{strategy.value}-{number}" for number in range(THREADS)]

    def client(number: int) -> list[tuple[str, str] | None]:
        own = random.Random(seeds[number])
        with httpx.Client(timeout=60) as http:
            begin.wait()
            return [
                start(http, own.choice(plant.urls), own.choice(threads), strategy)
                for _ in range(EACH)
            ]

    with observed(plant.database_url, strategy) as observer, ThreadPoolExecutor(CLIENTS) as pool:
        began = time.monotonic()
        asked = [each for every in pool.map(client, range(CLIENTS)) for each in every]
        wait_until(lambda: is_at_rest(plant.database_url), "every run to be over", 300)
        took = time.monotonic() - began
    accepted = [each for each in asked if each is not None]
    print(
        f"{strategy}: {len(asked)} asked for, {len(accepted)} acknowledged, in {took:.1f} s;"
        f" {observer.most} at once, looked {observer.looks} times"
    )
    assert observer.most > 1, "threads do not wait for each other"
    return accepted


def start(http: httpx.Client, url: str, thread: str, strategy: Strategy) -> tuple[str, str] | None:
    """What was acknowledged; None when it was refused."""
    run = str(uuid.uuid4())
    body = {
        "assistant_id": "agent", "input": {"said": []}, "run_id": run,
        "multitask_strategy": strategy.value, "if_not_exists": "create",
    }  # fmt: skip
    limit = time.monotonic() + 120
    while True:
        answer = http.post(f"{url}/threads/{thread}/runs", json=body)
        if answer.status_code == 409:  # or an answer was lost, and it was rolled back since
            assert strategy in (Strategy.REJECT, Strategy.ROLLBACK), answer.text
            return None
        if answer.status_code == 200:
            return thread, run
        assert answer.status_code == 503, answer.text  # the database is busy: as clients do
        assert time.monotonic() < limit, answer.text
        time.sleep(0.5)


def check_ends(
    tank: Surgetank, strategy: Strategy, accepted: list[tuple[str, str]],
    begun: dict[str, list[tuple[str, str]]],
) -> None:  # fmt: skip
    by_id = {
        str(run.run_id): run
        for thread in {thread for thread, _ in accepted}
        for run in tank.runs.of_thread(thread, limit=1000)
    }
    ordered = defaultdict[str, list[str]](list)
    for run in sorted(by_id.values(), key=lambda run: run.seq):
        ordered[run.thread_id].append(str(run.run_id))
    assert {run for _, run in accepted} >= set(by_id), "a run that nobody was told of"
    counts = Counter(by_id[run].status if run in by_id else None for _, run in accepted)
    print(f"{strategy}: {dict(counts)}")
    others: dict[Strategy, set[Status | None]] = {
        Strategy.INTERRUPT: {Status.CANCELLED}, Strategy.ROLLBACK: {None},
    }  # fmt: skip
    assert set(counts) == {Status.COMPLETED} | others.get(strategy, set())
    assert all(run.attempts == 1 for run in by_id.values() if run.status is Status.COMPLETED)
    if strategy is Strategy.REJECT:
        assert len(accepted) < CLIENTS * EACH, "somebody was refused"
    elif strategy is not Strategy.ROLLBACK:
        assert len(accepted) == CLIENTS * EACH
    for thread, runs in ordered.items():
        said = values(tank, thread)
        completed = [run for run in runs if by_id[run].status is Status.COMPLETED]
        assert completed[-1:] == runs[-1:], "nobody came after the last one"
        # all of each that was completed, side by side and in order; of others no more than they did
        whole = [run for run in said if run in set(completed)]
        assert whole == [run for run in completed for _ in NODES], thread
        rest = Counter(run for run in said if run not in set(completed))
        assert set(rest) <= (set(runs) if strategy is Strategy.INTERRUPT else set()), (thread, rest)
        assert all(count <= len(NODES) for count in rest.values())
        nodes = begun[thread]
        assert len(set(nodes)) == len(nodes), "a node of a run twice"
        firsts = [run for node, run in nodes if node == NODES[0] and run in by_id]
        assert firsts == [run for run in runs if run in set(firsts)], "in the order of acceptance"


def is_at_rest(url: str) -> bool:
    query = "SELECT count(*) FROM surgetank.runs WHERE status IN ('pending', 'running')"
    return rows(url, query) == [(0,)]


def values(tank: Surgetank, thread: str) -> list[str]:
    found = tank.checkpointer().get_tuple({"configurable": {"thread_id": thread}})
    assert found is not None
    said: list[str] = found.checkpoint["channel_values"]["said"]
    return said


def rows(url: str, query: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()
