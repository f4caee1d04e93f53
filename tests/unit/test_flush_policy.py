"""When to try again: backoff with bounds, and the circuit breaker."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.buffers import FakeClock
from surgetank.flush.breaker import BreakerState, CircuitBreaker
from surgetank.flush.policy import RetryPolicy, SpillPolicy, is_relieving, next_attempt
from surgetank.model import Failure, FailureKind

POLICY = RetryPolicy(base_s=0.5, max_s=60.0, fatal_s=300.0)
NOW = 1000.0


def failure(kind: FailureKind) -> Failure:
    return Failure(kind, "m", "E")


@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True), st.sampled_from(FailureKind))
@settings(derandomize=True, database=None, deadline=None)
def test_the_wait_lies_in_the_upper_half_of_a_bounded_exponential(
    before: int, chance: float, kind: FailureKind
) -> None:
    decision = next_attempt(failure(kind), before, NOW, POLICY, lambda: chance)
    whole = 300.0 if kind is FailureKind.FATAL else min(60.0, 0.5 * 2.0 ** min(before, 1000))
    assert decision.attempts == before + 1
    assert NOW + whole / 2 <= decision.next_at <= NOW + whole


def test_the_wait_doubles_until_its_limit_and_never_shrinks() -> None:
    waits = [
        next_attempt(failure(FailureKind.TRANSIENT), n, 0.0, POLICY, lambda: 1.0).next_at
        for n in range(5000)
    ]
    assert waits[:9] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert waits == sorted(waits)
    assert waits[-1] == 60.0


def test_partitions_that_failed_together_come_back_apart() -> None:
    down = failure(FailureKind.TRANSIENT)
    chances = (iter([c / 100]) for c in range(100))
    times = {next_attempt(down, 5, NOW, POLICY, chance.__next__).next_at for chance in chances}
    assert len(times) == 100


def test_the_same_values_give_the_same_decision() -> None:
    one, two = (
        next_attempt(failure(FailureKind.TRANSIENT), 3, NOW, POLICY, lambda: 0.25) for _ in range(2)
    )
    assert one == two


# -- breaker


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def breaker(clock: FakeClock) -> CircuitBreaker:
    return CircuitBreaker(clock, threshold=2, base_s=1.0, max_s=8.0)


def test_a_new_breaker_is_closed(breaker: CircuitBreaker) -> None:
    assert breaker.state() is BreakerState.CLOSED
    view = breaker.view()
    assert (view.failures, view.opened_at, view.retry_at, view.last_error) == (0, None, None, None)


def test_it_opens_after_the_threshold_and_tells_why(breaker: CircuitBreaker) -> None:
    breaker.failure("first")
    assert breaker.state() is BreakerState.CLOSED
    breaker.failure("second")
    view = breaker.view()
    assert view.state is BreakerState.OPEN
    assert (view.failures, view.opened_at, view.retry_at, view.last_error) == (
        2,
        NOW,
        NOW + 1,
        "second",
    )


def test_a_success_between_failures_keeps_it_closed(breaker: CircuitBreaker) -> None:
    for _ in range(5):
        breaker.failure("x")
        breaker.success()
    assert breaker.state() is BreakerState.CLOSED


def test_it_is_half_open_when_its_time_came(breaker: CircuitBreaker, clock: FakeClock) -> None:
    breaker.failure("x")
    breaker.failure("x")
    clock.advance(0.999)
    assert breaker.state() is BreakerState.OPEN
    clock.advance(0.001)
    assert breaker.state() is BreakerState.HALF_OPEN


def test_a_probe_that_succeeds_closes_it_for_good(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    for _ in range(5):
        breaker.failure("x")
    clock.advance(100)
    breaker.success()
    assert breaker.state() is BreakerState.CLOSED
    breaker.failure("y")
    assert breaker.state() is BreakerState.CLOSED
    assert breaker.view().opened_at is None


def test_each_failed_probe_doubles_the_wait_up_to_its_limit(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    breaker.failure("x")
    waits = []
    for _ in range(7):
        breaker.failure("x")
        retry_at = breaker.view().retry_at
        assert retry_at is not None
        waits.append(retry_at - clock.now)
        clock.now = retry_at
        assert breaker.state() is BreakerState.HALF_OPEN
    assert waits == [1, 2, 4, 8, 8, 8, 8]
    assert breaker.view().opened_at == NOW


@pytest.mark.parametrize("back", [1.0, 5.0, 17.0, 3600.0, 10**8])
def test_a_clock_that_was_set_back_keeps_it_open_for_twice_the_longest_wait_at_most(
    breaker: CircuitBreaker, clock: FakeClock, back: float
) -> None:
    breaker.failure("x")
    breaker.failure("x")
    clock.advance(-back)
    waited = 0.0
    while breaker.state() is BreakerState.OPEN:
        clock.advance(0.5)
        waited += 0.5
    assert waited <= 2 * 8.0


def test_a_buffer_is_relieved_from_its_limit_down_to_three_quarters_of_it():
    policy = SpillPolicy(fill=0.8)
    relieving, seen = False, []
    for fill in (0.5, 0.79, 0.8, 0.7, 0.61, 0.6, 0.7, 0.9):
        relieving = is_relieving(policy, fill, before=relieving)
        seen.append(relieving)
    assert seen == [False, False, True, True, True, False, False, True]
