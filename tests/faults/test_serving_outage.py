"""PostgreSQL is away for longer than leases last, while fifty clients race over HTTP and runs are under way
in servers and workers: no run is taken from a worker that lives, none runs twice, people are told, and
everything ends. For a minute in `make torture`, with the leases of every day. The seed is printed.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from support.plant import MARKED, Plant, check_marks, running
from support.postgres import PostgresServer
from support.torture import FEW_SEEDS, SEEDS
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.workflows.runs import Strategy
from surgetank.workflows.status import Status

LASTING = len(SEEDS) > 2  # make torture
CLIENTS, HELD = 50, 4
QUICK = {
    "SURGETANK_RUN_LEASE": "2", "SURGETANK_CONNECT_TIMEOUT": "1", "SURGETANK_READ_TIMEOUT": "1",
}  # fmt: skip
PATIENCE_S = 120.0 if LASTING else 60.0
# A run of a thread `held-...` stays in its first node until there is a file of that name without the number.
PROJECT = (
    MARKED
    + """
import asyncio, operator, os, random, time
from typing import Annotated, Any, TypedDict
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    said: Annotated[list[Any], operator.add]

async def stay(state, config: RunnableConfig):
    name, _, _ = config["configurable"]["thread_id"].rpartition("-")
    go, number = os.path.join(os.environ["MARKS"], "..", "go-" + name), 0
    with marked(config, "stay"):
        while name.startswith("held") and not os.path.exists(go):
            get_stream_writer()({"number": number})
            number += 1
            await asyncio.sleep(0.1)
    return {"said": [config["configurable"]["run_id"]]}

def work(state, config: RunnableConfig):
    with marked(config, "work"):
        time.sleep(random.choice([0.0, 0.05]))
    return {"said": [config["configurable"]["run_id"]]}

agent = StateGraph(State).add_node(stay).add_node(work).add_edge(START, "stay").add_edge("stay", "work")
"""
)
NODES = ["stay", "work"]


@dataclass
class Follower:
    """Reads what a run sends, to its end."""

    url: str
    thread: str
    run: str
    ids: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def follow(self) -> None:
        path = f"{self.url}/threads/{self.thread}/runs/{self.run}/stream"
        headers = {"Last-Event-ID": "-1"}
        with httpx.stream("GET", path, headers=headers, timeout=PATIENCE_S) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    self.names.append(line[7:])
                elif line.startswith("id: "):
                    self.ids.append(int(line[4:]))


@dataclass
class Outage:
    """One time without the database, and what goes on meanwhile."""

    plant: Plant
    postgres: PostgresServer
    how: str
    away_s: float
    chance: random.Random
    accepted: list[tuple[str, str]] = field(default_factory=list)

    def thread(self, kind: str, number: int) -> str:
        return f"{kind}-{self.how}-{number}"

    def go(self, when: str) -> None:
        (self.plant.folder / f"go-held-{when}-{self.how}").touch()

    def happen(self) -> str:
        """All of it; what is to be printed."""
        held = {when: self.begin(f"held-{when}") for when in ("during", "after")}
        runs = [each for every in held.values() for each in every]
        wait_until(lambda: all((self.plant.marks / t).exists() for t, _ in runs), "nodes", 60)
        fences = self.fences(runs)
        followers = [
            Follower(self.chance.choice(self.plant.urls), *self.chance.choice(every))
            for every in held.values()
        ]
        over = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as pool, ThreadPoolExecutor(len(followers)) as beside:
            following = [beside.submit(each.follow) for each in followers]
            racing = [pool.submit(self.race, number, over) for number in range(CLIENTS)]
            wait_until(lambda: len(self.accepted) > len(runs) + CLIENTS / 2, "clients to race", 60)
            with self.away():
                began = time.monotonic()
                refused = self.refused()
                sent = len(followers[0].ids)
                wait_until(lambda: len(followers[0].ids) > sent, "what runs say to be followed")
                self.go("during")
                waiting = held["during"]  # their last steps are in the buffer only
                wait_until(lambda: self.banners(waiting), "people to be told", PATIENCE_S)
                told_s = time.monotonic() - began
                wait_until(lambda: time.monotonic() - began > self.away_s, "so long", PATIENCE_S)
                assert "end" not in followers[0].names + followers[1].names, "nothing is recorded"
            wait_until(lambda: not self.banners(waiting), "the banners to go", PATIENCE_S)
            assert self.fences(runs) == fences, "nobody was taken for dead"
            self.go("after")
            over.set()
            settle(racing)
            wait_until(self.is_at_rest, "every run to be over", PATIENCE_S)
            settle(following)
        for each in followers:
            assert each.names[-1] == "end"
            assert "gap" not in each.names
            assert len(set(each.ids)) == len(each.ids), "each once"
            assert each.ids == sorted(each.ids)
        return f"{self.how} for {self.away_s:.0f} s, told after {told_s:.1f} s, {refused}"

    @contextmanager
    def away(self) -> Iterator[None]:
        if self.how == "frozen":
            with self.postgres.frozen():
                yield
        else:
            self.postgres.stop("fast")
            try:
                yield
            finally:
                self.postgres.start()

    def begin(self, kind: str) -> list[tuple[str, str]]:
        """Runs on threads of their own."""
        with httpx.Client(timeout=60) as http:
            for number in range(HELD):
                run = self.ask(http, self.thread(kind, number), Strategy.ENQUEUE)
                assert run is not None
        return self.accepted[-HELD:]

    def race(self, number: int, over: threading.Event) -> None:
        """One client: a run after the other, each until it is known what became of it."""
        chance = random.Random(f"{self.chance}/{number}")
        strategy = list(Strategy)[number % len(Strategy)]
        with httpx.Client(timeout=60) as http:
            while True:
                self.ask(http, self.thread(f"race-{strategy.value}", chance.randrange(2)), strategy)
                if over.wait(chance.uniform(0.2, 1.0) if LASTING else 3.0):
                    return

    def ask(self, http: httpx.Client, thread: str, strategy: Strategy) -> str | None:
        run = str(uuid.uuid4())
        body = {
            "assistant_id": "agent", "input": {"said": []}, "run_id": run, "stream_mode": "custom",
            "multitask_strategy": strategy.value, "if_not_exists": "create",
        }  # fmt: skip
        limit = time.monotonic() + PATIENCE_S + self.away_s
        while True:
            url = self.chance.choice(self.plant.urls)
            answer = http.post(f"{url}/threads/{thread}/runs", json=body)
            if answer.status_code == 200:
                self.accepted.append((thread, run))
                return run
            if answer.status_code == 409:  # busy; or its answer was lost, and it was rolled back
                assert strategy in (Strategy.REJECT, Strategy.ROLLBACK), answer.text
                return None
            assert answer.status_code == 503, answer.text
            assert time.monotonic() < limit, answer.text
            time.sleep(0.5)

    def refused(self) -> str:
        """A run that is asked for now is refused in time, and told why."""
        began = time.monotonic()
        body = {"assistant_id": "agent", "input": {"said": []}, "if_not_exists": "create"}
        path = f"{self.plant.url}/threads/{self.thread('refused', 0)}/runs"
        answer = httpx.post(path, json=body, timeout=60)
        took = time.monotonic() - began
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) > 0
        assert "database" in answer.text.lower(), answer.text
        return f"refused in {took:.1f} s"

    def banners(self, runs: list[tuple[str, str]]) -> list[Any]:
        """What the users of the threads see, at each server."""
        found: list[Any] = []
        for url in self.plant.urls:
            for thread, _ in runs[:: len(runs) - 1]:
                answer = self.plant.http.get(f"{url}/threads/{thread}/logs", timeout=60)
                assert answer.status_code == 200, answer.text
                found += answer.json()["incidents"]
        return found

    def fences(self, runs: list[tuple[str, str]]) -> dict[str, int]:
        """How often the runs that were held have been claimed."""
        query = "SELECT run_id::text, fence FROM surgetank.runs"
        mine = {run for _, run in runs}
        return {run: fence for run, fence in self.rows(query) if run in mine}

    def is_at_rest(self) -> bool:
        query = "SELECT count(*) FROM surgetank.runs WHERE status IN ('pending', 'running')"
        return self.rows(query) == [(0,)]

    def rows(self, query: str) -> list[Any]:
        with psycopg.connect(self.postgres.url) as connection:
            return connection.execute(query.encode()).fetchall()


def settle(futures: list[Future[None]]) -> None:
    for each in futures:
        each.result(PATIENCE_S)


@pytest.mark.parametrize("seed", FEW_SEEDS)
@pytest.mark.timeout(900)
def test_no_run_is_taken_or_run_twice_because_the_database_was_away(
    tmp_path: Path, private_postgres: PostgresServer, seed: int
) -> None:
    whole = LASTING and seed == 1
    quick: dict[str, str] = {} if whole else QUICK
    with ExitStack() as ends:
        plant = ends.enter_context(
            running(
                tmp_path, private_postgres.url, PROJECT, servers=2, workers=2, runs=6,
                environment=quick,
            )
        )  # fmt: skip
        outages = [
            Outage(plant, private_postgres, how, 60.0 if whole else 5.0, random.Random(seed))
            for how in ("frozen", "stopped")
        ]
        figures = [outage.happen() for outage in outages]
        begun = check_marks(plant.marks, plant.killed_at)
    with Surgetank(tmp_path / "home", database_url=private_postgres.url) as tank:
        for outage, told in zip(outages, figures, strict=True):
            counts = check_ends(tank, outage, begun)
            print(f"seed {seed}: {told}; {len(outage.accepted)} runs acknowledged, {counts}")
        assert tank.audit.verify().sound
    again = outages[0].rows("SELECT run_id FROM surgetank.runs WHERE attempts > 1")
    assert again == [], "run again"


def check_ends(
    tank: Surgetank, outage: Outage, begun: dict[str, list[tuple[str, str]]]
) -> dict[str, int]:
    by_id = {
        str(run.run_id): run
        for thread in {thread for thread, _ in outage.accepted}
        for run in tank.runs.of_thread(thread, limit=1000)
    }
    expected: dict[str, set[Status | None]] = {
        "interrupt": {Status.COMPLETED, Status.CANCELLED}, "rollback": {Status.COMPLETED, None},
    }  # fmt: skip
    counts = Counter[str]()
    for thread, id_ in outage.accepted:
        status = by_id[id_].status if id_ in by_id else None
        counts[str(status)] += 1
        kind = thread.split("-")[1]
        assert status in expected.get(kind, {Status.COMPLETED}), (thread, id_, status)
        if status is Status.COMPLETED:
            assert [node for node, of in begun[thread] if of == id_] == NODES, (thread, id_)
    for thread in {thread for thread, _ in outage.accepted}:
        nodes = begun[thread]
        assert len(set(nodes)) == len(nodes), (thread, "a node of a run twice")
    return dict(counts)
