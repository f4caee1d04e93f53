"""A job's status from its partitions: in all combinations."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgetank.flush.classify import combine
from surgetank.model import (
    Failure,
    FailureKind,
    JobStatus,
    ParkedEntry,
    PartitionOutcome,
    Replacement,
)

DOWN = Failure(
    FailureKind.TRANSIENT, "the database is down", "OperationalError", "08006", "wait", "trace"
)
BAD = Failure(FailureKind.REJECTED, "a bad value", "DataError")


def parked(name: str, count: int = 1) -> tuple[ParkedEntry, ...]:
    return tuple(ParkedEntry(i, "s", name, i, 1, 0.0, 0.0, BAD) for i in range(count))


def outcome(kind: str, name: str) -> PartitionOutcome:
    whole = PartitionOutcome("s", name, entries=2, rows=3, bytes=10)
    return {
        "ok": whole,
        "failed": PartitionOutcome("s", name, failure=DOWN, attempts=2, next_attempt_at=5.0),
        "half": replace(whole, failure=DOWN),
        "parked": replace(whole, parked=1, parked_entries=parked(name)),
        "all parked": PartitionOutcome("s", name, parked=2, parked_entries=parked(name, 2)),
        "parked and failed": replace(whole, parked=1, parked_entries=parked(name), failure=DOWN),
    }[kind]


KINDS = ["ok", "failed", "half", "parked", "all parked", "parked and failed"]
FAILED = {"failed", "half", "parked and failed"}
SAVED_NOTHING = {"failed", "all parked"}


@pytest.mark.parametrize(
    "kinds", [c for n in range(4) for c in itertools.product(KINDS, repeat=n)], ids=str
)
def test_the_rule_in_all_combinations(kinds: tuple[str, ...]) -> None:
    status, result = combine([outcome(kind, f"p{i}") for i, kind in enumerate(kinds)])

    saved_nothing = bool(kinds) and all(k in SAVED_NOTHING for k in kinds)
    everything_failed = bool(kinds) and all(k in FAILED for k in kinds)
    assert (status is JobStatus.FAILED) == (everything_failed or saved_nothing)
    assert result["partitions_processed"] == len(kinds)
    assert result["partitions_failed"] == len(result["errors"]) == sum(k in FAILED for k in kinds)
    messages = sum({"ok": 0, "parked and failed": 2}.get(k, 1) for k in kinds)
    if status is JobStatus.FAILED:
        assert result["warnings"] == []
        assert result["message"].count("the database is down") == sum(k in FAILED for k in kinds)
        assert result["message"].count("parked: a bad value") == messages - sum(
            k in FAILED for k in kinds
        )
    else:
        assert len(result["warnings"]) == messages
        for i, kind in enumerate(kinds):
            assert any(w.startswith(f"s/p{i}: ") for w in result["warnings"]) == (kind != "ok")


failures = st.none() | st.builds(
    Failure,
    st.sampled_from(FailureKind),
    st.text(max_size=9),
    st.just("E"),
    st.none() | st.just("08006"),
)
outcomes = st.lists(
    st.builds(
        PartitionOutcome, st.just("s"), st.text(max_size=3), entries=st.integers(0, 9), rows=st.integers(0, 9),
        bytes=st.integers(0, 99), parked=st.integers(0, 3), failure=failures,
    ),
    max_size=70,
)  # fmt: skip


@given(outcomes)
@settings(derandomize=True, database=None, deadline=None)
def test_completed_without_warnings_means_safe_and_failed_means_that_nothing_succeeded(
    given_outcomes: list[PartitionOutcome],
) -> None:
    status, result = combine(given_outcomes)
    trouble = any(o.failure is not None or o.parked for o in given_outcomes)
    saved = any(o.entries for o in given_outcomes)
    all_failed = all(o.failure is not None for o in given_outcomes)
    assert status in (JobStatus.COMPLETED, JobStatus.FAILED)
    if status is JobStatus.COMPLETED:
        assert bool(result["warnings"]) == trouble
    else:
        assert all_failed or not saved
        assert result["message"]
        assert bool(result["errors"]) == any(o.failure is not None for o in given_outcomes)
    assert result["rows_flushed"] == sum(o.rows for o in given_outcomes)
    assert result["entries_flushed"] == sum(o.entries for o in given_outcomes)
    assert result["entries_parked"] == sum(o.parked for o in given_outcomes)
    assert result["bytes"] == sum(o.bytes for o in given_outcomes)


def test_nothing_to_flush_is_completed_with_zeros() -> None:
    status, result = combine([])
    assert status is JobStatus.COMPLETED
    assert (result["rows_flushed"], result["partitions_processed"], result["warnings"]) == (
        0,
        0,
        [],
    )
    assert "message" not in result


def test_an_error_tells_all_that_is_known_of_it() -> None:
    (error,) = combine([outcome("failed", "p")])[1]["errors"]
    assert error == {
        "stream": "s", "partition": "p", "kind": "transient", "error_type": "OperationalError", "sqlstate": "08006",
        "message": "the database is down", "remedy": "wait", "stack_trace": "trace", "attempts": 2,
        "next_attempt_at": 5.0,
    }  # fmt: skip


def test_messages_and_replacements_are_bounded_and_say_so() -> None:
    many = []
    for i in range(80):
        failed = outcome("failed", f"p{i}")
        assert failed.failure is not None
        failure = replace(failed.failure, message=f"down for the {i}th time")
        replaced = (Replacement("$.x", "NaN", "nan"),)
        many.append(replace(failed, failure=failure, replaced=replaced))
    many.append(outcome("ok", "last"))
    _, result = combine(many)
    assert len(result["warnings"]) == 51
    assert result["warnings"][-1] == "... and 30 more"
    assert len(result["errors"]) == len(result["replacements"]) == 50
    assert result["partitions_failed"] == 80


def test_partitions_that_failed_alike_are_one_message_and_share_their_trace() -> None:
    few = [outcome("failed", f"p{i}") for i in range(3)]
    assert [w.partition(":")[0] for w in combine([*few, outcome("ok", "x")])[1]["warnings"]] == [
        "s/p0", "s/p1", "s/p2",
    ]  # fmt: skip
    many = [outcome("failed", f"p{i}") for i in range(10_000)]
    _, result = combine([outcome("parked", "odd"), *many])
    assert result["warnings"] == [
        "s/odd: 1 entry was parked: a bad value",
        "s: 10000 partitions (p0, p1, p2 and 9997 more): transient: the database is down",
    ]
    assert [e["partition"] for e in result["errors"]] == [f"p{i}" for i in range(50)]
    assert [e["stack_trace"] for e in result["errors"]] == [*["trace"] * 3, *[""] * 47]


def test_a_warning_about_parked_entries_counts_them_and_gives_each_reason_once() -> None:
    _, result = combine([outcome("parked", "a"), outcome("all parked", "b")])
    assert result["warnings"] == [
        "s/a: 1 entry was parked: a bad value",
        "s/b: 2 entries were parked: a bad value",
    ]
