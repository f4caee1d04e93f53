"""The host's garbage collector: held back while rows are computed, never across a wait, and always
given back."""

from __future__ import annotations

import gc
import os
import threading

import pytest

from surgetank.database import collector


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was_after_a_flush_also_one_that_raised(enabled):
    seen = []

    def group() -> None:
        with collector.held_back():
            seen.append(gc.isenabled())
            raise KeyboardInterrupt

    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(KeyboardInterrupt):
            group()
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
    assert seen == [False]


def test_the_collector_runs_while_the_thread_waits():
    seen = []
    with collector.held_back():
        assert collector.release()
        seen.append(gc.isenabled())
        collector.hold()
        seen.append(gc.isenabled())
    assert seen == [True, False]
    assert gc.isenabled()
    assert not collector.release(), "a thread that holds nothing back has nothing to release"


def test_threads_hold_it_back_together_and_the_last_one_gives_it_back():
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with collector.held_back():
            inside.set()
            assert leave.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(30)
    with collector.held_back():
        pass
    assert not gc.isenabled(), "the other one still computes"
    leave.set()
    thread.join(30)
    assert gc.isenabled()


def test_a_forked_child_starts_with_a_collector_that_runs():
    with collector.held_back():
        child = os.fork()
        if child == 0:
            os._exit(0 if gc.isenabled() else 1)
    assert os.waitpid(child, 0)[1] == 0
