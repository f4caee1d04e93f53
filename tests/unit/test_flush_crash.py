"""A flush that dies at any joint, and another one after it, leave the same rows as one that never
died."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg.errors import CheckViolation

from support.buffers import FakeClock
from support.flushing import Plant
from support.memory_sink import MemorySink, Switch, refuse_hostile
from surgetank.flush.policy import StreamPolicy
from surgetank.flush.tidying import reap
from surgetank.job_result import JobResult
from surgetank.model import FlushJob, JobStatus

POLICY = StreamPolicy(entries=1, batch_entries=4)
JOINTS = (
    "lease", "read_many", "ack", "park", "unpark", "postpone", "release", "save_job", "write", "probe",
)  # fmt: skip


class Crash(BaseException):
    """The process is gone: nothing of it runs any more."""


class Mortal:
    """A process with one buffer and one sink, that dies before or after its nth call of a joint."""

    def __init__(self, die_at: int | None, *, after: bool) -> None:
        self.calls = 0
        self._die_at = die_at
        self._after = after
        self._dead = False

    def __call__(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if self._dead:
            raise Crash
        self.calls += 1
        mine = self.calls == self._die_at
        if mine and not self._after:
            self._dead = True
            raise Crash
        try:
            result = call(*arguments, **named)
        finally:
            self._dead = self._dead or mine
        if mine:
            raise Crash
        return result


class Watched:
    """Hands everything on to `target`; the joints go through the mortal process."""

    def __init__(self, target: object, mortal: Mortal) -> None:
        self._target = target
        self._mortal = mortal

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if name not in JOINTS:
            return attribute
        return lambda *arguments, **named: self._mortal(attribute, *arguments, **named)


def fill(plant: Plant) -> None:
    """14 entries in 3 partitions that overwrite each other's keys; two are hostile."""
    for i in range(14):
        value = b"hostile %d" % i if i in (3, 8) else b"%d" % i
        plant.put("abc"[i % 3], value, key=b"k%d" % (i % 4))
    plant.sink.faults = [refuse_hostile, Switch(lambda: ConnectionError("once"), calls=range(2, 3))]


def flush_in_a_process(plant: Plant, die_at: int | None, *, after: bool) -> int:
    mortal = Mortal(die_at, after=after)
    flusher = plant.flusher(
        buffer=Watched(plant.buffer, mortal), sink=Watched(plant.sink, mortal), policy=POLICY
    )  # fmt: skip
    try:
        flusher.run("manual", up_to_seq=plant.buffer.last_seq("s"))
    except Crash:
        assert die_at is not None
    return mortal.calls


def finish(plant: Plant) -> None:
    """A new process, some time later."""
    for _ in range(4):
        plant.clock.advance(120)
        plant.flusher(policy=POLICY, node="node-2").run("manual")
    assert plant.waiting() == {}


def what_is_there(plant: Plant) -> object:
    parked = sorted((p.partition, p.seq, p.failure.message) for p in plant.buffer.parked())
    depth = plant.buffer.depth()
    return plant.sink.rows, dict(plant.sink.arrivals), parked, depth.entries, depth.bytes


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, int]:
    """What an undisturbed run leaves behind, and how many joints it has."""
    with Plant(tmp_path_factory.mktemp("undisturbed")) as plant:
        fill(plant)
        joints = flush_in_a_process(plant, None, after=False)
        finish(plant)
        return what_is_there(plant), joints


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_flush_that_died_at_any_joint_leaves_the_same_rows_after_the_next_one(
    tmp_path: Path, undisturbed: tuple[object, int], after: bool
) -> None:
    expected, joints = undisturbed
    assert joints > 20
    for die_at in range(1, joints + 1):
        folder = tmp_path / str(die_at)
        folder.mkdir()
        with Plant(folder) as plant:
            fill(plant)
            flush_in_a_process(plant, die_at, after=after)
            finish(plant)
            assert what_is_there(plant) == expected, (
                f"died {'after' if after else 'before'} joint {die_at}"
            )


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_flush_that_died_while_it_took_back_what_it_had_parked_loses_nothing(
    tmp_path: Path, after: bool
) -> None:
    """The sink refuses every row as if it were the row's fault, and then the probe too."""

    def refusing(plant: Plant) -> Switch:
        fault = Switch(lambda: CheckViolation("refused, whatever it is"))
        plant.sink.faults = [fault]
        for name in "abc":
            plant.put(name, name.encode())
        return fault

    with Plant(tmp_path / "counted") as plant:
        refusing(plant)
        joints = flush_in_a_process(plant, None, after=False)
        assert plant.buffer.parked() == [], "it took back what it had parked"
    assert joints > 8
    for die_at in range(1, joints + 1):
        with Plant(tmp_path / str(die_at)) as plant:
            fault = refusing(plant)
            flush_in_a_process(plant, die_at, after=after)
            left = plant.buffer.parked()
            assert len(left) <= 1, "set aside before the sink was asked, and told of"
            fault.on = False
            plant.buffer.unpark([entry.id for entry in left])
            finish(plant)
            assert sorted(plant.sink.arrivals) == ["a", "b", "c"]
            assert plant.buffer.parked() == []


def test_a_flush_that_dies_again_and_again_gets_through(
    tmp_path: Path, undisturbed: tuple[object, int]
) -> None:
    with Plant(tmp_path) as plant:
        fill(plant)
        for die_at in (2, 3, 4, 5, 6, 5, 4, 3, 2):
            flush_in_a_process(plant, die_at, after=die_at % 2 == 0)
            plant.clock.advance(120)
        finish(plant)
        assert what_is_there(plant) == undisturbed[0]


def test_the_job_of_a_process_that_died_is_marked_as_failed(tmp_path: Path) -> None:
    with Plant(tmp_path) as plant:
        fill(plant)
        flush_in_a_process(plant, 5, after=True)
        (job,) = plant.buffer.jobs(status="running")
        assert reap(plant.buffer, plant.clock() + 119) == []
        (reaped,) = reap(plant.buffer, plant.clock() + 120)
        assert (reaped.id, reaped.status, reaped.ok) == (job.id, JobStatus.FAILED, False)
        assert "node-1 stopped without finishing" in reaped.result["message"]
        assert plant.buffer.job(job.id) == reaped
        assert reap(plant.buffer, plant.clock() + 500) == []


def test_reaping_leaves_finished_jobs_and_living_ones_alone(tmp_path: Path) -> None:
    with Plant(tmp_path, MemorySink()) as plant:
        plant.put("p")
        done = plant.flusher().run("manual")
        heartbeat = {"heartbeat_at": plant.clock() + 1000}
        running = FlushJob(
            "r",
            "s",
            "manual",
            JobStatus.RUNNING,
            plant.clock(),
            "n",
            result=JobResult.of(heartbeat),
        )
        plant.buffer.save_job(running)
        assert reap(plant.buffer, plant.clock() + 1100) == []
        assert plant.buffer.job(done.id) == done
        assert plant.buffer.job("r") == running


def test_a_small_step_back_of_the_clock_kills_no_living_job(tmp_path: Path) -> None:
    with Plant(tmp_path) as plant:
        clock: FakeClock = plant.clock
        plant.sink.faults = [lambda call, slices: reaped.extend(reap(plant.buffer, clock() - 1))]
        reaped: list[object] = []
        plant.put("p")
        plant.flusher().run("manual")
        assert reaped == []
