"""What people are told: plain words, what is safe, what to do; nothing when all is well."""

from __future__ import annotations

import json

from surgetank.model import (
    BufferDepth,
    Failure,
    FailureKind,
    ParkedEntry,
    PartitionState,
    StreamDepth,
)
from surgetank.notify.incidents import Facts
from surgetank.notify.report import notices, to_plain_data
from surgetank.streams.installed import STREAMS
from surgetank.streams.stream import Streams

QUIET = BufferDepth(0, 0, 100, 1000, ())


def state(kind: FailureKind, since: float, remedy: str = "") -> PartitionState:
    failure = Failure(kind, "technical words", "SinkError", remedy=remedy)
    return PartitionState("checkpoints", "thread-1", 3, 100, since, 2, 1010.0, since, failure)


def told(depth=QUIET, failing=(), parked=(), down=None):
    facts = Facts(
        now=1000.0, critical_after_s=60.0, waiting=depth.streams, down=down or {}, states=failing,
        parked=parked,
    )  # fmt: skip
    return notices(facts, depth, streams=Streams(STREAMS))


def test_nothing_is_told_when_all_is_well():
    assert told() == ()


def test_a_delay_is_a_warning_and_a_long_one_is_critical():
    (fresh,) = told(failing=[state(FailureKind.TRANSIENT, 990.0)])
    (old,) = told(failing=[state(FailureKind.TRANSIENT, 900.0)])
    assert (fresh.severity, old.severity) == ("warning", "critical")
    assert fresh.thread_id == "thread-1"
    assert "kept in the buffer (3 entries)" in fresh.message
    assert "in 10 s" in fresh.message
    assert "technical words" not in fresh.message
    assert fresh.detail == "technical words"


def test_what_needs_an_operator_is_critical_at_once_and_names_the_way_out():
    (notice,) = told(failing=[state(FailureKind.FATAL, 999.0, remedy="grant it.")])
    assert notice.severity == "critical"
    assert "grant it." in notice.message


def test_a_parked_entry_is_critical_and_says_where_to_look():
    failure = Failure(FailureKind.REJECTED, "refused", "CheckViolation")
    (notice,) = told(parked=[ParkedEntry(7, "checkpoints", "t", 1, 10, 1.0, 2.0, failure)])
    assert notice.severity == "critical"
    assert "surgetank parked show 7" in notice.message


def test_a_dead_database_is_told_once_while_something_waits():
    down = {"checkpoints": "connection refused"}
    waiting = StreamDepth("checkpoints", 5, 50, 2, 995.0, 0, 0)
    assert told(down=down) == ()
    (notice,) = told(depth=BufferDepth(5, 50, 100, 1000, (waiting,)), down=down)
    assert (notice.severity, notice.thread_id) == ("warning", None)
    assert "5 entries of 2 threads" in notice.message


def test_a_buffer_that_fills_up_is_told_before_it_is_full():
    (notice,) = told(depth=BufferDepth(81, 10, 100, 1000, ()))
    assert "81% full" in notice.message


def test_everything_becomes_plain_data_for_json():
    assert (
        json.loads(json.dumps(to_plain_data({"a": (state(FailureKind.FATAL, 1.0),)})))["a"][0][
            "failure"
        ]["kind"]
        == "fatal"
    )
