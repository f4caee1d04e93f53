"""What has to be done about once a second beside flushing, on a thread of its own.

A sink that is frozen holds up the flush thread; spilling and telling go on here. Steps run in their
order, and one that fails is told of and keeps no other from being taken.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence

from surgetank.service import Background

_EVERY_S = 1.0
Step = Callable[[threading.Event], None]  # the event is set when it is to end


class Housekeeping(Background):
    """A service that takes its steps over and over."""

    def __init__(
        self,
        name: str,
        steps: Sequence[Step],
        *,
        on_problem: Callable[[BaseException, str], None],
        every_s: float = _EVERY_S,
    ) -> None:
        super().__init__(name, self._run)
        self._steps = tuple(steps)
        self._on_problem = on_problem
        self._every_s = every_s

    def add(self, step: Step) -> None:
        """Take one more step, after the others."""
        self._steps = (*self._steps, step)

    def round(self, stop: threading.Event | None = None) -> None:
        """Take each step once, on this thread."""
        stop = stop or threading.Event()
        for step in self._steps:
            if stop.is_set():
                return
            try:
                step(stop)
            except Exception as error:  # noqa: BLE001 - told to the operator; the other steps must be taken
                if not stop.is_set():  # else only what it works on was closed
                    self._on_problem(error, traceback.format_exc())

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.round(stop)
            stop.wait(self._every_s)
