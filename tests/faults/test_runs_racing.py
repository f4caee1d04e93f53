"""Fifty clients race for threads with each strategy, over several queues as several servers have them: of
one thread one run is under way, and each is over in the end as its strategy says.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg
import pytest

from support.postgres import PostgresServer
from support.run_worker import QUICK, WorkerProcess, marks_of
from support.torture import FEW_SEEDS, SEEDS
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.database.migrate import MigratedDatabase
from surgetank.exceptions import (
    DatabaseUnavailable,
    InvalidTransition,
    RunNotFound,
    ThreadBusy,
)
from surgetank.workflows.queue import ASKED, RunQueue
from surgetank.workflows.runs import NewRun, Run, Strategy
from surgetank.workflows.status import Status

CLIENTS, EACH, SERVERS, WORKERS = 50, 2, 4, 4
THREADS = ("a", "b", "c")
LASTING = len(SEEDS) > 2  # make torture
TWO = """
SELECT thread_id FROM surgetank.runs WHERE status = 'running' OR (status = 'pending' AND %s)
GROUP BY thread_id HAVING count(*) > 1
"""


@pytest.fixture
def queues(database_url: str) -> Iterator[list[RunQueue]]:
    """As many servers have them, each with connections of its own."""
    with ExitStack() as ends:
        databases = [MigratedDatabase(database_url, max_size=6) for _ in range(SERVERS)]
        for database in databases:
            ends.callback(database.close)
        databases[0].prepare()
        yield [RunQueue(database, lease_s=60.0) for database in databases]


class Holders:
    """Who has which thread, as claimers say themselves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, uuid.UUID] = {}
        self.wrong: list[str] = []
        self.begun: dict[str, list[uuid.UUID]] = defaultdict(list)

    def take(self, run: Run) -> None:
        with self._lock:
            if run.thread_id in self._held:
                self.wrong.append(
                    f"{run.thread_id}: {run.run_id} beside {self._held[run.thread_id]}"
                )
            self._held[run.thread_id] = run.run_id
            self.begun[run.thread_id].append(run.run_id)

    def leave(self, run: Run) -> None:
        with self._lock:
            del self._held[run.thread_id]


def work(queue: RunQueue, name: str, holders: Holders, over: threading.Event) -> None:
    """Claims, holds on for a moment, and ends what it has as it is asked to."""
    chance = random.Random(name)
    while not over.is_set():
        for run in queue.claim(name, chance.randint(1, 2)):
            holders.take(run)
            asked = run.cancel_action
            for _ in range(chance.randint(0, 3)):
                held = queue.renew([run])
                if run.run_id not in held:
                    holders.wrong.append(f"{run.run_id} was lost")
                asked = asked or held.get(run.run_id)
            holders.leave(run)
            status = Status.CANCELLED if asked else Status.COMPLETED
            if queue.end(run, status, actor=name) == ASKED:  # since it was renewed last
                queue.end(run, Status.CANCELLED, actor=name)


def observe(url: str, strategy: Strategy, wrong: list[str], over: threading.Event) -> None:
    """Looks into the table all the time."""
    with psycopg.connect(url, autocommit=True) as connection:
        while not over.is_set():
            found = connection.execute(TWO, (strategy is Strategy.REJECT,)).fetchall()
            wrong += [f"the table has two of {thread}" for (thread,) in found]


@pytest.mark.parametrize("strategy", list(Strategy))
def test_of_one_thread_one_run_is_under_way_however_clients_race(
    queues: list[RunQueue], database_url: str, strategy: Strategy
) -> None:
    holders, over, begin = Holders(), threading.Event(), threading.Barrier(CLIENTS)
    seed = random.randrange(10**6)
    print(f"seed {seed}")

    def client(number: int) -> list[Run]:
        chance, queue = random.Random(seed + number), queues[number % SERVERS]
        begin.wait()
        accepted = []
        for _ in range(EACH):
            new = NewRun(thread_id=chance.choice(THREADS), assistant_id="agent", strategy=strategy)
            with suppress(ThreadBusy):
                accepted.append(queue.accept(new, actor=f"client-{number}"))
        return accepted

    beside = [
        threading.Thread(target=work, args=(queues[n % SERVERS], f"w{n}", holders, over))
        for n in range(WORKERS)
    ]
    beside.append(
        threading.Thread(target=observe, args=(database_url, strategy, holders.wrong, over))
    )
    for thread in beside:
        thread.start()
    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            accepted = [run for runs in pool.map(client, range(CLIENTS)) for run in runs]
        wait_until(lambda: is_over(queues[0], accepted), "every run to be over", timeout_s=60)
    finally:
        over.set()
        for thread in beside:
            thread.join(30)
    assert holders.wrong == []
    assert all(not thread.is_alive() for thread in beside)
    ends = {run.run_id: state(queues[0], run) for run in accepted}
    count = Counter(ends.values())
    print(f"{strategy}: {len(accepted)} accepted, {dict(count)}")
    check_ends(strategy, accepted, ends, holders)
    with psycopg.connect(database_url) as connection:
        left = connection.execute(
            "SELECT thread_id, status FROM surgetank.thread_status"
            " WHERE running_run IS NOT NULL OR status <> 'idle'"
        ).fetchall()
        noted = connection.execute(
            "SELECT count(*) FROM surgetank.audit WHERE action = 'run_accepted'"
        ).fetchone()
    assert left == []
    assert noted == (len(accepted),)


def check_ends(
    strategy: Strategy,
    accepted: list[Run],
    ends: dict[uuid.UUID, Status | None],
    holders: Holders,
) -> None:
    by_thread: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(accepted, key=lambda run: run.seq):
        by_thread[run.thread_id].append(run)
    if strategy in (Strategy.REJECT, Strategy.ENQUEUE):
        assert set(ends.values()) == {Status.COMPLETED}
        for thread, runs in by_thread.items():
            assert holders.begun[thread] == [run.run_id for run in runs], "each once, in order"
    else:
        other = Status.CANCELLED if strategy is Strategy.INTERRUPT else None
        assert set(ends.values()) <= {Status.COMPLETED, other}
        for runs in by_thread.values():
            assert ends[runs[-1].run_id] is Status.COMPLETED, "nobody came after it"
    if strategy is not Strategy.REJECT:
        assert len(accepted) == CLIENTS * EACH


def state(queue: RunQueue, run: Run) -> Status | None:
    """None when it was rolled back, and is gone."""
    try:
        return queue.get(run.run_id).status
    except RunNotFound:
        return None


def is_over(queue: RunQueue, runs: list[Run]) -> bool:
    return all(state(queue, run) not in (Status.PENDING, Status.RUNNING) for run in runs)


# -- with workers that are processes, and a database that goes away


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_no_node_runs_twice_and_no_two_at_once_though_the_database_goes_away(
    tmp_path: Path, private_postgres: PostgresServer, seed: int
) -> None:
    """Fifty clients, four servers, three workers; PostgreSQL stands still or is gone in the middle, for
    longer than leases last (for each strategy once a minute in `make torture`)."""
    strategy = list(Strategy)[seed % len(Strategy)]
    chance, home, marks, url = (
        random.Random(seed),
        tmp_path / "home",
        tmp_path / "marks",
        private_postgres.url,
    )
    lease_s, away_s = 2.0, 60.0 if LASTING and seed <= len(Strategy) else 3.0
    threads = [f"t{number}" for number in range(12)]
    with ExitStack() as ends, ThreadPoolExecutor(CLIENTS) as pool:
        tank = ends.enter_context(
            Surgetank(home, database_url=url, flush_in_process=False, **QUICK)
        )
        tank.parts.database.prepare()
        for _ in range(3):
            worker = WorkerProcess(home, url, marks, lease_s=lease_s, renew_s=0.3, pause_s=0.05)
            ends.callback(worker.kill)
        databases = [
            MigratedDatabase(url, max_size=6, connect_timeout_s=2, read_timeout_s=1)
            for _ in range(SERVERS)
        ]
        for database in databases:
            ends.callback(database.close)

        def client(number: int) -> list[Run]:
            own = random.Random(f"{seed}/{number}")
            queue = RunQueue(databases[number % SERVERS], lease_s=lease_s)
            runs = (accepted(queue, own.choice(threads), strategy) for _ in range(3))
            return [run for run in runs if run is not None]

        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        wait_until(lambda: marks.exists() and any(marks.iterdir()), "the first nodes")
        time.sleep(chance.uniform(0.0, 0.3))
        if chance.random() < 0.5:
            with private_postgres.frozen():
                time.sleep(away_s)
        else:
            private_postgres.kill()
            time.sleep(away_s)
            private_postgres.start()
        runs = [run for each in clients for run in each.result(120)]
        queue = RunQueue(tank.parts.database)
        wait_until(lambda: patient(lambda: is_over(queue, runs)), "all to be over", timeout_s=120)
        states = Counter(state(queue, run) for run in runs)
        print(f"seed {seed}, {strategy}: {len(runs)} runs, {dict(states)}")
        assert set(states) <= {Status.COMPLETED, Status.CANCELLED, None}
        check_marks(marks, threads, seed)


def check_marks(marks: Path, threads: list[str], seed: int) -> None:
    for thread in threads:
        lines = marks_of(marks, thread)
        begun = [line.split(":", 1)[1] for line in lines if line[0] == "+"]
        assert len(begun) == len(set(begun)), (seed, thread, "a node of a run twice")
        for first, second in zip(lines[::2], lines[1::2], strict=True):
            assert (first[0], second[0]) == ("+", "-"), (seed, thread, "two at once")
            assert first[1:] == second[1:], (seed, thread, "two at once")


def accepted(queue: RunQueue, thread: str, strategy: Strategy) -> Run | None:
    """The run, asked for until it is known what became of it, as a client would; or None, refused."""
    new = NewRun(
        thread_id=thread, assistant_id="agent", kwargs={"input": {"steps": []}}, strategy=strategy
    )
    while True:
        try:
            return queue.accept(new, actor="ada")
        except ThreadBusy:
            return None
        except InvalidTransition:  # the answer was lost, and another one has rolled it back since
            assert strategy is Strategy.ROLLBACK
            return None
        except DatabaseUnavailable:
            time.sleep(0.1)


def patient(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except DatabaseUnavailable:
        return False
