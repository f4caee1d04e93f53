"""The host's cyclic garbage collector, held back while a group's rows are computed, and never
across a wait.

A group of many small partitions makes tens of thousands of objects that live together and die by
their counts; collecting in the middle of it only walks over them again and again (a fifth of the
time, measured). But the process is the user's: whenever the thread that computes waits for the
server, the collector runs as it always does.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_computing = 0  # threads that compute just now
_mine = threading.local()


@contextmanager
def held_back() -> Iterator[None]:
    """No collection while this thread computes. Does nothing where the host has switched it off
    itself."""
    if not _start(only_if_enabled=True):
        yield
        return
    _mine.holds = True
    try:
        yield
    finally:
        _mine.holds = False
        _end()


def release() -> bool:
    """A wait begins: the collector runs meanwhile. Returns whether this thread held it back, and
    must `hold` again."""
    holds: bool = getattr(_mine, "holds", False)
    if holds:
        _end()
    return holds


def hold() -> None:
    """The wait is over."""
    _start(only_if_enabled=False)


def _start(*, only_if_enabled: bool) -> bool:
    global _computing  # noqa: PLW0603 - the collector is the process's, so its owner is too
    with _lock:
        if only_if_enabled and _computing == 0 and not gc.isenabled():
            return False
        _computing += 1
        gc.disable()
    return True


def _end() -> None:
    global _computing  # noqa: PLW0603
    with _lock:
        _computing -= 1
        if _computing == 0:
            gc.enable()


def _in_a_child() -> None:
    """The threads that computed were not forked with the process."""
    global _lock, _computing, _mine
    if _computing:
        gc.enable()
    _lock, _computing, _mine = threading.Lock(), 0, threading.local()


os.register_at_fork(after_in_child=_in_a_child)
