"""Checkpoints made after reading come after what was read, whatever the clock says."""

from __future__ import annotations

import time
from uuid import UUID

import pytest
from langgraph.checkpoint.base import id as names
from langgraph.checkpoint.base.id import uuid6

from surgetank.streams.checkpoints.later import come_after


@pytest.fixture(autouse=True)
def own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_last_v6_timestamp", None)


def name_of(monkeypatch: pytest.MonkeyPatch, hours: float) -> str:
    """What a host whose clock is ahead would give."""
    now = time.time_ns()
    with monkeypatch.context() as there:
        there.setattr(names, "_last_v6_timestamp", None)
        there.setattr(time, "time_ns", lambda: now + int(hours * 3600e9))
        return str(uuid6(clock_seq=3))


@pytest.mark.parametrize("hours", [1, 23, -1])
def test_what_is_made_after_reading_is_newer(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    read = name_of(monkeypatch, hours)
    come_after(read)
    made = [str(uuid6(clock_seq=0)) for _ in range(3)]
    assert sorted([read, *made]) == [read, *made]


@pytest.mark.parametrize(
    "odd",
    ["ffffffff-ffff-6fff-bfff-ffffffffffff", "", "1", "é" * 32, "0" * 12 + "6" + "z" * 19, str(UUID(int=5))],
)  # fmt: skip
def test_an_odd_name_is_not_the_measure_of_others(odd: str) -> None:
    before = uuid6(clock_seq=0)
    come_after(odd)
    after = uuid6(clock_seq=0)
    assert after > before
    assert after.time - before.time < 600 * 10_000_000, "no minutes later"


def test_a_clock_that_is_days_ahead_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    far = name_of(monkeypatch, 25)
    come_after(far)
    assert str(uuid6(clock_seq=0)) < far
