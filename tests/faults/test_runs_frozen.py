"""Workers and databases that stand still for a while and go on: a worker that was taken for dead changes
nothing any more, and nobody is taken for dead because the database was away.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.postgres import PostgresServer
from support.run_worker import GO, NODES, QUICK, WorkerProcess, marks_of
from support.torture import FEW_SEEDS
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.workflows.runs import NewRun, Run
from surgetank.workflows.status import Status

NEVER = 1000.0
ROUNDS = 6


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts workers on one buffer; they are gone afterwards."""
    with ExitStack() as ends:

        def start(url: str, **options: Any) -> WorkerProcess:
            worker = WorkerProcess(tmp_path / "home", url, tmp_path / "marks", **options)
            ends.callback(worker.kill)
            return worker

        yield start


@contextmanager
def engine(tmp_path: Path, url: str) -> Iterator[Surgetank]:
    with Surgetank(tmp_path / "home", database_url=url, flush_in_process=False, **QUICK) as tank:
        tank.parts.database.prepare()
        yield tank


def accept(tank: Surgetank, thread: str = "t", **more: Any) -> Run:
    new = NewRun(
        thread_id=thread, assistant_id="agent", run_id=uuid.uuid4(),
        kwargs={"input": {"steps": []}}, **more,
    )  # fmt: skip
    return tank.runs.accept(new, actor="ada")


def becomes(tank: Surgetank, run: Run, *states: Status) -> Run:
    wait_until(lambda: tank.runs.get(run.run_id).status in states, f"{run.run_id}: {states}")
    return tank.runs.get(run.run_id)


def everything(tank: Surgetank, thread: str = "t") -> list[Any]:
    """All that is stored of a thread's state, and its runs."""
    stored = [
        (found.config, found.checkpoint, found.metadata, found.parent_config, found.pending_writes)
        for found in tank.checkpointer().list({"configurable": {"thread_id": thread}})
    ]
    return [*stored, *tank.runs.of_thread(thread)]


def steps(tank: Surgetank, thread: str = "t") -> list[str]:
    found = tank.checkpointer().get_tuple({"configurable": {"thread_id": thread}})
    assert found is not None
    return list(found.checkpoint["channel_values"]["steps"])


@pytest.mark.parametrize("another_run", [False, True])
def test_a_worker_that_was_frozen_past_its_lease_writes_nothing_any_more(
    tmp_path: Path, database_url: str, start: Callable[..., WorkerProcess], another_run: bool
) -> None:
    """It never looks after its lease again, so that nothing but the fence stops it."""
    marks = tmp_path / "marks"
    with engine(tmp_path, database_url) as tank:
        frozen = start(database_url, stays=True, renew_s=NEVER)
        run = accept(tank, max_attempts=1 if another_run else 3)
        wait_until(lambda: marks_of(marks, "t"), "it to be in the node")
        frozen.freeze()
        second = start(database_url)
        if another_run:
            assert "went silent" in str(becomes(tank, run, Status.FAILED).error)
            run = accept(tank)
        assert becomes(tank, run, Status.COMPLETED).attempts == (1 if another_run else 2)
        assert steps(tank) == [f"{second.name}:{node}" for node in NODES]
        before = everything(tank)

        (marks / GO).touch()
        frozen.go_on()
        frozen.wait_for("over")

        assert marks_of(marks, "t")[-1].startswith(f"-{frozen.name}:n0"), "its node came to its end"
        assert everything(tank) == before


def test_a_worker_that_goes_on_and_sees_that_it_lost_its_run_takes_the_next(
    tmp_path: Path, database_url: str, start: Callable[..., WorkerProcess]
) -> None:
    marks = tmp_path / "marks"
    with engine(tmp_path, database_url) as tank:
        frozen = start(database_url, stays=True)
        run = accept(tank)
        wait_until(lambda: marks_of(marks, "t"), "it to be in the node")
        frozen.freeze()
        second = start(database_url)
        becomes(tank, run, Status.COMPLETED)
        second.kill()
        frozen.go_on()
        frozen.wait_for("over")
        (marks / GO).touch()
        assert becomes(tank, accept(tank), Status.COMPLETED).attempts == 1
        assert steps(tank) == [
            f"{name}:{node}" for name in (second.name, frozen.name) for node in NODES
        ]


@pytest.mark.parametrize("how", ["frozen", "crashed"])
def test_no_run_is_taken_from_a_living_worker_because_the_database_was_away(
    tmp_path: Path, private_postgres: PostgresServer, start: Callable[..., WorkerProcess], how: str
) -> None:
    """All leases run out meanwhile. Afterwards all workers are asked about their leases at once, and each
    could reap the others."""
    marks, url, lease_s = tmp_path / "marks", private_postgres.url, 2.0
    threads = [f"t{number}" for number in range(9)]
    with engine(tmp_path, url) as tank:
        for _ in range(3):
            start(url, stays=True, lease_s=lease_s, renew_s=lease_s / 4, most=3)
        runs = [accept(tank, thread) for thread in threads]
        wait_until(lambda: all(marks_of(marks, thread) for thread in threads), "all to be in nodes")
        held = {run.run_id: (tank.runs.get(run.run_id)).fence for run in runs}
        if how == "frozen":
            with private_postgres.frozen():
                time.sleep(2 * lease_s)
        else:
            private_postgres.kill()
            time.sleep(2 * lease_s)
            private_postgres.start()
        back = time.monotonic()
        wait_until(lambda: time.monotonic() - back > 2.5 * lease_s, "whoever reaps to have reaped")
        assert {run.run_id: tank.runs.get(run.run_id).fence for run in runs} == held
        (marks / GO).touch()
        for run in runs:
            assert becomes(tank, run, Status.COMPLETED).attempts == 1
        for thread in threads:
            assert len(marks_of(marks, thread)) == 2 * len(NODES), "each node once"
            assert len(steps(tank, thread)) == len(NODES)
        after = [accept(tank, thread) for thread in threads]
        for run in after:
            becomes(tank, run, Status.COMPLETED)


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_each_step_is_in_the_state_once_whoever_stands_still_and_goes_on(
    tmp_path: Path, database_url: str, start: Callable[..., WorkerProcess], seed: int
) -> None:
    """Workers are frozen at random for longer than their leases last, so that two have one run again and
    again. Nodes run more than once by that; the state has each of them once, in order."""
    chance, lease_s, threads = random.Random(seed), 1.0, [f"t{number}" for number in range(8)]
    with engine(tmp_path, database_url) as tank:
        start(database_url, lease_s=lease_s, pause_s=0.1, most=2)
        # These never look after their leases: only the fence stops them.
        workers = [
            start(database_url, lease_s=lease_s, renew_s=NEVER, pause_s=0.1, most=4)
            for _ in range(2)
        ]
        runs = [accept(tank, thread, max_attempts=50) for _ in range(ROUNDS) for thread in threads]
        freezes = 0
        while not all(over(tank, run) for run in runs):
            frozen = chance.choice(workers)
            time.sleep(chance.uniform(0.0, 0.3))
            frozen.freeze()
            time.sleep(chance.uniform(1.0, 2.0) * lease_s)
            frozen.go_on()
            freezes += 1
        ended = [tank.runs.get(run.run_id) for run in runs]
        begun = sum(
            line[0] == "+" for thread in threads for line in marks_of(tmp_path / "marks", thread)
        )
        print(
            f"seed {seed}: {freezes} freezes, {len(runs)} runs, {sum(r.attempts for r in ended)} attempts,"
            f" {begun - len(NODES) * len(runs)} nodes run again"
        )
        assert {run.status for run in ended} == {Status.COMPLETED}, seed
        for thread in threads:
            nodes = [step.split(":")[1] for step in steps(tank, thread)]
            assert nodes == list(NODES) * ROUNDS, (seed, thread)


def over(tank: Surgetank, run: Run) -> bool:
    return tank.runs.get(run.run_id).status not in (Status.PENDING, Status.RUNNING)
