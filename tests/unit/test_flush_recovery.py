"""When a sink is back: one probe that succeeds is enough for everybody, and nobody waits out a
backoff of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from psycopg import errors as pg

from support.flushing import Plant
from support.memory_sink import Switch
from surgetank.flush.breaker import BreakerState, CircuitBreaker
from surgetank.flush.job import StreamFlusher
from surgetank.flush.policy import RetryPolicy
from surgetank.sinks.protocol import Slice

LONG = RetryPolicy(base_s=100.0, max_s=3600.0, fatal_s=3600.0)


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with Plant(tmp_path) as plant:
        yield plant


def outage(
    plant: Plant, partitions: int, make: type[Exception] = ConnectionRefusedError
) -> tuple[StreamFlusher, Switch]:
    """A flusher whose partitions wait for minutes because of a sink that was down; the breaker
    waits for seconds."""
    down = Switch(lambda: make("down"))
    plant.sink.faults = [down]
    for i in range(partitions):
        plant.put(f"p{i:03}")
    flusher = plant.flusher(
        retry=LONG, breaker=CircuitBreaker(plant.clock, threshold=2, base_s=1.0, max_s=5.0)
    )
    for _ in range(2):
        flusher.run("manual")
    assert flusher.breaker.state() is BreakerState.OPEN
    assert min(s.next_attempt_at for s in plant.buffer.states()) > plant.clock.now + 50
    return flusher, down


def test_one_probe_that_succeeds_makes_all_that_waited_due_at_once(plant: Plant) -> None:
    flusher, down = outage(plant, 50)
    down.on = False
    plant.clock.advance(5.0)
    probe = flusher.run_if_due(threading.Event())
    assert probe is not None
    assert probe.result["partitions_processed"] == 1
    assert flusher.run_if_due(threading.Event()) is not None
    assert plant.waiting() == {}
    assert len(plant.told.recovered) == 50


def test_a_single_failure_that_left_the_breaker_closed_is_followed_by_a_probe_too(
    plant: Plant,
) -> None:
    """All partitions failed in one group: that is one failure, and none of them is due for
    minutes."""
    down = Switch(lambda: ConnectionRefusedError("down"))
    plant.sink.faults = [down]
    for i in range(20):
        plant.put(f"p{i:03}")
    flusher = plant.flusher(retry=LONG)
    flusher.run_if_due(threading.Event())
    assert flusher.breaker.state() is BreakerState.CLOSED
    assert flusher.run_if_due(threading.Event()) is None, "not at once"
    down.on = False
    plant.clock.advance(1.0)
    for _ in range(2):
        flusher.run_if_due(threading.Event())
    assert plant.waiting() == {}


def test_a_probe_that_fails_wakes_nobody(plant: Plant) -> None:
    flusher, _ = outage(plant, 50)
    calls = plant.sink.calls
    for _ in range(4):
        plant.clock.advance(5.0)
        flusher.run_if_due(threading.Event())
        flusher.run_if_due(threading.Event())
    assert plant.sink.calls == calls + 4, "one probe at a time, at the breaker's pace"


def test_thousands_that_waited_come_back_spread(plant: Plant) -> None:
    flusher, down = outage(plant, 500)
    down.on = False
    plant.clock.advance(5.0)
    flusher.run_if_due(threading.Event())
    times = [state.next_attempt_at for state in plant.buffer.states()]
    assert sum(at <= plant.clock.now for at in times) <= 150
    assert max(times) <= plant.clock.now + 2.0
    plant.clock.advance(2.0)
    while flusher.run_if_due(threading.Event()) is not None:
        pass
    assert plant.waiting() == {}


def test_a_partition_with_a_trouble_of_its_own_does_not_keep_the_breaker_open(plant: Plant) -> None:
    flusher, down = outage(plant, 20)
    down.on = False

    def locked(call: int, slices: Sequence[Slice]) -> None:
        if any(s.lease.partition == "p000" for s in slices):
            raise pg.LockNotAvailable("locked")

    plant.sink.faults = [locked]
    plant.clock.advance(5.0)
    flusher.run_if_due(threading.Event())
    assert flusher.breaker.state() is BreakerState.CLOSED, "the sink was asked without the data"
    plant.clock.advance(0.1)
    flusher.run_if_due(threading.Event())
    assert plant.waiting() == {"p000": 1}


def test_what_an_operator_had_to_end_is_noticed_at_the_breaker_s_pace(plant: Plant) -> None:
    flusher, down = outage(plant, 20, pg.InvalidPassword)
    down.on = False
    plant.clock.advance(5.0)
    for _ in range(2):
        flusher.run_if_due(threading.Event())
    assert plant.waiting() == {}


def test_another_stream_on_the_same_sink_is_probed_at_once(plant: Plant) -> None:
    breaker = CircuitBreaker(plant.clock, threshold=1, base_s=60.0, max_s=60.0)
    breaker.failure("down")
    assert breaker.state() is BreakerState.OPEN
    breaker.probe_now()
    assert breaker.state() is BreakerState.HALF_OPEN
    assert breaker.success()
    assert not breaker.success(), "once"
