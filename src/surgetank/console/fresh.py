"""What many open pages ask for at the same time is found out once, and kept for a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Fresh:
    """Answers by name, each as old as who asks allows. Safe to use from several threads: of those who
    ask for the same at once one finds it out, and the others wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[Hashable, tuple[float, Any]] = {}
        self._busy: dict[Hashable, threading.Lock] = {}

    def get(self, name: Hashable, most_s: float, make: Callable[[], T]) -> T:
        """The answer, at most `most_s` seconds old. Raises what `make` raises, and keeps nothing
        then."""
        with self._lock:
            busy = self._busy.setdefault(name, threading.Lock())
        with busy:
            known = self._known.get(name)
            if known is None or not 0 <= self._clock() - known[0] < most_s:
                known = (self._clock(), make())
                self._known[name] = known
            found: T = known[1]
            return found

    def forget(self) -> None:
        """Believe nothing any more: something was changed by hand."""
        with self._lock:
            self._known.clear()
