"""What many pages ask for is found out once."""

from __future__ import annotations

import threading

import pytest

from surgetank.console.fresh import Fresh


def test_an_answer_is_kept_for_its_time_and_a_failure_never() -> None:
    now, asked = [0.0], list[str]()

    def make() -> int:
        asked.append("x")
        if len(asked) == 1:
            raise ValueError("not yet")
        return len(asked)

    fresh = Fresh(clock=lambda: now[0])
    with pytest.raises(ValueError, match="not yet"):
        fresh.get("status", 1.0, make)
    assert fresh.get("status", 1.0, make) == 2
    now[0] = 0.9
    assert fresh.get("status", 1.0, make) == 2
    assert fresh.get("other", 1.0, make) == 3
    now[0] = 1.0
    assert fresh.get("status", 1.0, make) == 4
    fresh.forget()
    assert fresh.get("status", 1.0, make) == 5


def test_of_many_who_ask_at_once_one_finds_it_out() -> None:
    fresh, asked, begin = Fresh(), list[int](), threading.Barrier(8)

    def ask() -> None:
        begin.wait()
        fresh.get("status", 60.0, lambda: asked.append(1))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [1]
