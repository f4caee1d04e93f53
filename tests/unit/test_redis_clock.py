"""The server's time, as it is known on a host."""

from __future__ import annotations

import pytest

from surgetank.redis import clock as module
from surgetank.redis.clock import ServerClock


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What has passed on this machine: the last of these."""
    at = [1000.0]
    monkeypatch.setattr(module, "passed", lambda: at[-1])
    return at


def test_it_is_the_servers_however_this_machine_is_set(passes: list[float]) -> None:
    clock = ServerClock()
    clock.learn(1000.0, 1000.5, 5000.0)
    assert abs(clock() - 5000.0) <= 0.25
    passes.append(1010.0)
    assert abs(clock() - 5010.0) <= 0.25


def test_what_was_heard_sooner_counts_for_more(passes: list[float]) -> None:
    clock = ServerClock()
    clock.learn(1000.0, 1000.002, 5000.001)
    clock.learn(1000.1, 1003.1, 5003.0)  # the answer was late on its way
    assert clock() == pytest.approx(5000.0, abs=0.001)
    clock.learn(1003.2, 1003.201, 5003.205)
    assert clock() == pytest.approx(5000.0, abs=0.01)
    assert len(passes) == 1


def test_a_server_whose_clock_was_set_is_followed(passes: list[float]) -> None:
    clock = ServerClock()
    clock.learn(1000.0, 1000.001, 5000.0)
    clock.learn(1000.0, 1001.0, 8600.0)
    assert abs(clock() - 8600.0) <= 1.0
    assert len(passes) == 1


def test_it_is_asked_now_and_then(passes: list[float]) -> None:
    clock = ServerClock()
    assert clock.is_due
    clock.learn(1000.0, 1000.001, 5000.0)
    assert not clock.is_due
    passes.append(1011.0)
    assert clock.is_due
