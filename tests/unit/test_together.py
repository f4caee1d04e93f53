"""Calls made together: each has its own answer, nobody is forgotten, nobody waits alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.waiting import wait_until
from surgetank.workflows.together import Together


def test_alone_it_is_called_at_once() -> None:
    together = Together[int, int](lambda numbers: [n * 2 for n in numbers], most=10)
    assert [together.call(n) for n in range(3)] == [0, 2, 4]


def test_who_comes_meanwhile_goes_with_the_next_call_and_no_call_is_larger_than_it_may_be() -> None:
    begun, go, sizes = threading.Event(), threading.Event(), list[int]()

    def make(numbers: Sequence[int]) -> Sequence[int | Exception]:
        sizes.append(len(numbers))
        begun.set()
        assert go.wait(20)
        return [n if n % 2 else ValueError(str(n)) for n in numbers]

    together = Together[int, int](make, most=4)
    with ThreadPoolExecutor(10) as pool:
        calls = {n: pool.submit(together.call, n) for n in (1,)}
        assert begun.wait(20)
        calls |= {n: pool.submit(together.call, n) for n in range(2, 11)}
        wait_until(lambda: len(together._waiting) == 9, "all others wait")
        go.set()
        for n, call in calls.items():
            if n % 2:
                assert call.result(20) == n
            else:
                with pytest.raises(ValueError, match=f"^{n}$"):
                    call.result(20)
    assert sizes == [1, 4, 4, 1]


def test_what_the_call_raises_is_raised_by_all_of_it_and_the_next_goes_on() -> None:
    broken = True

    def make(numbers: Sequence[int]) -> Sequence[int | Exception]:
        if broken:
            raise KeyError("away")
        return numbers

    together = Together[int, int](make, most=4)
    with pytest.raises(KeyError):
        together.call(1)
    broken = False
    assert together.call(2) == 2


def test_many_threads_all_get_their_own_answer() -> None:
    together = Together[int, int](list, most=7)
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(together.call, range(5000))) == list(range(5000))
