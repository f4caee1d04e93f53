"""Keeping the buffer tidy: what is due by the clock, and jobs whose worker died."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.flushing import Plant
from surgetank.flush.tidying import Tidying
from surgetank.model import FlushJob, JobStatus


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with Plant(tmp_path) as plant:
        yield plant


def tidying(plant: Plant, lost: list[FlushJob]) -> Tidying:
    return Tidying(plant.buffer, clock=plant.clock, on_lost=lost.append)


@pytest.mark.parametrize("jump", [2.0, 10.0, -3600.0])
def test_it_is_done_now_and_then_also_after_the_clock_jumped(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    maintained: list[tuple[float, bool]] = []
    monkeypatch.setattr(
        plant.buffer,
        "maintain",
        lambda *, thorough: maintained.append((plant.clock.now, thorough)),
    )
    start, step = plant.clock.now, tidying(plant, []).step
    for _ in range(3):
        step(threading.Event())
    plant.clock.advance(jump)
    for _ in range(3):
        step(threading.Event())
    assert maintained == [(start, True), (start + jump, jump < 0)]
    plant.clock.advance(30)
    step(threading.Event())
    assert maintained[-1] == (plant.clock.now, True)


def test_jobs_of_workers_that_died_are_ended_and_told_of(plant: Plant) -> None:
    plant.buffer.save_job(
        FlushJob("dead", "s", "manual", JobStatus.RUNNING, plant.clock.now - 500, "gone")
    )
    lost: list[FlushJob] = []
    tidying(plant, lost).step(threading.Event())
    job = plant.buffer.job("dead")
    assert job is not None
    assert job.status is JobStatus.FAILED
    assert [job.id for job in lost] == ["dead"]
