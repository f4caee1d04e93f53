"""One judgement: what counts as well, what as a warning, what as critical; and whose breaker is
shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from surgetank.model import BufferDepth, Failure, FailureKind, PartitionState, StreamDepth
from surgetank.notify.health import Health, Level, SinkFacts, judge, observed_breaker

QUIET = StreamDepth("checkpoints", 0, 0, 0, None, 0, 0)
WELL = SinkFacts("checkpoints", reachable=True, breaker="closed")


def judged(stream: StreamDepth = QUIET, sink: SinkFacts = WELL, **more: Any) -> Health:
    depth = BufferDepth(stream.entries, more.pop("size", 0), 100, 1000, (stream,))
    facts: dict[str, Any] = {
        "severities": (), "lag_s": 0.0, "flushes": None, "problems": 0, "patience_s": 60.0, **more,
    }  # fmt: skip
    return judge(depth, [sink], **facts)


def test_all_is_well_when_nothing_is_wrong():
    health = judged()
    assert (health.level, health.exit_code) == (Level.OK, 0)
    assert health.of("database").detail == "answers"


@pytest.mark.parametrize(
    ("changes", "part", "level"),
    [
        ({"sink": replace(WELL, reachable=False)}, "database", Level.WARNING),
        ({"sink": replace(WELL, reachable=False, refused=True)}, "database", Level.CRITICAL),
        ({"sink": replace(WELL, reachable=None, breaker="open")}, "database", Level.WARNING),
        ({"size": 800}, "buffer", Level.CRITICAL),
        ({"flushes": False}, "flush", Level.CRITICAL),
        ({"stream": replace(QUIET, entries=1, failing=1)}, "flush", Level.WARNING),
        ({"stream": replace(QUIET, parked=1)}, "flush", Level.CRITICAL),
        ({"stream": replace(QUIET, entries=1), "lag_s": 61.0}, "flush", Level.WARNING),
        ({"severities": ("warning",)}, "saving", Level.WARNING),
        ({"severities": ("warning", "critical")}, "saving", Level.CRITICAL),
        ({"problems": 1}, "problems", Level.WARNING),
        ({"fallback_usable": False}, "fallback", Level.CRITICAL),
    ],
)
def test_each_thing_that_is_wrong_is_found_and_is_no_success(changes, part, level):
    health = judged(**changes)
    assert health.of(part).level is level
    assert (health.level, health.exit_code) == (level, 1)


def test_an_embedded_database_that_nobody_started_is_no_trouble_until_something_waits_for_it():
    stopped = SinkFacts("checkpoints", reachable=False, breaker="closed", stopped=True)
    assert judged(sink=stopped).level is Level.OK
    assert judged(replace(QUIET, entries=1), stopped).of("database").level is Level.WARNING


def failing(stream: str, next_at: float, failure: Failure) -> PartitionState:
    return PartitionState(stream, "t", 1, 1, 0.0, 3, next_at, 1.0, failure)


AWAY = Failure(FailureKind.TRANSIENT, "it is away", "DatabaseUnavailable")


def test_the_breaker_of_another_process_is_seen_in_what_it_left_with_the_partitions():
    states = [failing("checkpoints", 20.0, AWAY), failing("checkpoints", 15.0, AWAY)]
    seen = observed_breaker("checkpoints", states, 10.0)
    assert (seen.breaker, seen.retry_at, seen.last_error) == ("open", 15.0, "it is away")
    assert observed_breaker("checkpoints", states, 16.0).breaker == "half_open"
    assert observed_breaker("thread_logs", states, 10.0).breaker == "closed"


def test_a_partition_s_own_trouble_is_no_open_breaker():
    for failure in (
        Failure(FailureKind.TRANSIENT, "deadlock", "DeadlockDetected", "40P01"),
        Failure(FailureKind.TRANSIENT, "lost", "LeaseLost"),
    ):
        assert (
            observed_breaker("checkpoints", [failing("checkpoints", 20.0, failure)], 10.0).breaker
            == "closed"
        )
