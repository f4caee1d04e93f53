"""The background thread: it flushes what is due, outlives problems, and stops when told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.buffers import wait_until
from support.flushing import Plant
from support.memory_sink import Switch
from surgetank.exceptions import BufferUnavailable
from surgetank.flush.policy import StreamPolicy
from surgetank.flush.scheduler import Scheduler, problem_of
from surgetank.model import FlushJob, JobStatus


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with Plant(tmp_path) as plant:
        yield plant


class Problems(list[tuple[BaseException, str]]):
    def __call__(self, error: BaseException, trace: str) -> None:
        self.append((error, trace))


class Scripted:
    """A flusher that does what the test says, round by round."""

    def __init__(self, *rounds: object) -> None:
        self.rounds = list(rounds)
        self.seen = 0
        self.scheduler: Scheduler | None = None

    def run_if_due(self, stop: threading.Event) -> FlushJob | None:
        self.seen += 1
        if not self.rounds:
            stop.set()
            return None
        step = self.rounds.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step  # type: ignore[return-value]


def scheduler(
    plant: Plant, *flushers: object, problems: Problems | None = None, **options: float
) -> Scheduler:
    return Scheduler(
        plant.buffer,
        flushers,  # type: ignore[arg-type]
        tick_s=options.pop("tick_s", 0.001),
        on_problem=problems if problems is not None else Problems(),
        **options,
    )


def test_what_is_accepted_arrives_in_the_background_until_it_is_stopped(plant: Plant) -> None:
    problems = Problems()
    background = scheduler(plant, plant.flusher(), problems=problems)
    background.start()
    background.start()
    for i in range(20):
        plant.put(f"p{i % 3}", b"%d" % i)
    wait_until(lambda: plant.buffer.depth().entries == 0)
    assert background.running
    assert background.stop(20)
    assert not background.running
    plant.put("p", b"after")
    assert plant.waiting() == {"p": 1}
    assert problems == []


def test_it_can_be_started_again(plant: Plant) -> None:
    background = scheduler(plant, plant.flusher())
    for i in range(2):
        background.start()
        plant.put("p", b"%d" % i)
        wait_until(lambda: plant.waiting() == {})
        assert background.stop(20)


def test_stopping_waits_for_the_group_under_way_and_says_when_that_takes_too_long(
    plant: Plant,
) -> None:
    plant.sink.gate = threading.Event()
    for i in range(4):
        plant.put(f"p{i}")
    background = scheduler(plant, plant.flusher(policy=StreamPolicy(entries=1, batch_entries=1)))
    background.start()
    assert plant.sink.entered.wait(20)
    assert background.stop(0.05) is False
    plant.sink.gate.set()
    assert background.stop(20) is True
    assert plant.sink.calls == 1
    assert len(plant.waiting()) == 3
    assert all(s.leased_by is None for s in plant.buffer.states())


def test_a_problem_is_reported_with_its_trace_and_work_goes_on(plant: Plant) -> None:
    problems = Problems()
    error = BufferUnavailable("The disk is full.", remedy="free some space")
    flusher = Scripted(error, ValueError("a bug"), None)
    scheduler(plant, flusher, problems=problems).run(threading.Event())
    assert [e for e, _ in problems] == [error, problems[1][0]]
    assert "a bug" in problems[1][1]
    assert "Traceback" in problems[1][1]
    assert flusher.seen == 4
    assert problem_of(error) == "The disk is full."
    assert problem_of(problems[1][0]) == "ValueError: a bug"


def test_it_looks_again_at_once_after_a_job_and_at_the_next_tick_otherwise(plant: Plant) -> None:
    job = FlushJob("1", "s", "schedule", JobStatus.COMPLETED, 1.0, "n")
    flusher = Scripted(job, job, job)
    background = scheduler(plant, flusher, tick_s=600.0)
    background.start()
    wait_until(lambda: flusher.seen == 4)
    assert background.stop(20)


def test_runs_that_ended_are_flushed_together_and_no_other(plant: Plant) -> None:
    for name in ("a", "b", "c", "under way"):
        plant.put(name)
    flusher = plant.flusher(policy=StreamPolicy(entries=1000, age_s=3600.0))
    background = scheduler(plant, flusher, tick_s=600.0)
    for name in ("a", "b", "c", "nobody", "a"):
        background.run_ended("s", name, awaited=False)
    background.start()
    wait_until(lambda: plant.waiting() == {"under way": 1})
    assert background.stop(20)
    assert [(job.trigger, job.partition) for job in plant.told.jobs] == [("run_end", None)]


def test_who_waits_for_the_end_of_a_run_does_not_wait_for_the_pause_between_flushes(
    plant: Plant,
) -> None:
    flusher = plant.flusher(policy=StreamPolicy(entries=1000, age_s=3600.0))
    background = scheduler(plant, flusher, tick_s=0.01)
    background._rest_until = time.monotonic() + 3600.0
    plant.put("left", b"1")
    plant.put("awaited", b"2")
    background.start()
    background.run_ended("s", "left", awaited=False)
    background.run_ended("s", "awaited")
    wait_until(lambda: plant.waiting() == {})  # the pause is short from then on
    assert background.stop(20)
    assert [job.partition for job in plant.told.jobs] == ["awaited", "left"]


def test_waking_cuts_the_pause_short(plant: Plant) -> None:
    flusher = Scripted(None)
    background = scheduler(plant, flusher, tick_s=600.0)
    background.start()
    wait_until(lambda: flusher.seen == 1)
    background.wake()
    wait_until(lambda: flusher.seen == 2)
    assert background.stop(20)


def test_a_failing_stream_does_not_hinder_the_next(plant: Plant) -> None:
    plant.sink.faults = [Switch(ConnectionError, partition="bad")]
    plant.put("bad", stream="s")
    plant.put("good", stream="t")
    background = scheduler(plant, plant.flusher(stream="s"), plant.flusher(stream="t"))
    background.start()
    wait_until(lambda: plant.waiting() == {"bad": 1})
    assert background.stop(20)
