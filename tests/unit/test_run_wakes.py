"""Two signals come of each acceptance: one look is enough, and none is too few."""

from __future__ import annotations

import random

from surgetank.app.run_service import _Pairs
from surgetank.workflows.listening import _MANY


def test_of_two_signals_of_one_acceptance_the_first_wakes() -> None:
    now = 0.0
    pairs = _Pairs(lambda: now)
    assert [pairs.here(), pairs.notified(1)] == [True, False]
    assert [pairs.notified(1), pairs.here()] == [True, False]
    assert [pairs.here(), pairs.here(), pairs.notified(2)] == [True, True, False]
    assert [pairs.here(), pairs.notified(2)] == [True, True]  # one of another process
    now = 1.5  # what that one left is forgotten
    assert [pairs.here(), pairs.notified(1)] == [True, False]
    assert pairs.notified(_MANY)


def test_a_signal_whose_other_half_is_lost_keeps_nothing_quiet_for_long() -> None:
    now = 0.0
    pairs = _Pairs(lambda: now)
    assert pairs.here()
    now = 2.0
    assert pairs.notified(1)


def test_after_each_acceptance_something_wakes() -> None:
    """Whatever the order in which signals of own and foreign acceptances come."""
    source = random.Random(7)
    for _ in range(2000):
        pairs = _Pairs(lambda: 0.0)
        committed: list[bool] = [source.random() < 0.5 for _ in range(source.randint(1, 8))]
        # notifications come in the order of the commits; an own signal any time after its commit
        events = [(number + 0.5, "commit", number) for number in range(len(committed))]
        late = 0.0
        for number, own in enumerate(committed):
            late = max(late, number + 0.5 + source.random() * 3) + 1e-6
            events.append((late, "notified", number))
            if own:
                events.append((number + 0.6 + source.random() * 3, "here", number))
        unseen: set[int] = set()
        for _at, what, number in sorted(events):
            if what == "commit":
                unseen.add(number)
            elif pairs.here() if what == "here" else pairs.notified(1):
                unseen.clear()
        assert not unseen, (committed, sorted(events))
