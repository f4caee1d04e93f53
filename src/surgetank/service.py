"""A service: something that runs in the background between `start` and `stop`. Written once, for
every thread.

`Background` owns the thread; what it does is a function that works until the event is set.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol


class Service(Protocol):
    """What the assembly starts and stops."""

    @property
    def running(self) -> bool:
        """True while it works."""
        ...

    def start(self) -> None:
        """Start working. Does nothing if it runs."""
        ...

    def stop(self, within_s: float | None = None) -> bool:
        """Ask it to end and wait for it so long (None: for ever). False if that took too long."""
        ...


class Background:
    """A service that is one daemon thread: `work` is given the event that ends it."""

    def __init__(self, name: str, work: Callable[[threading.Event], None]) -> None:
        self._name = name
        self._work = work
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """True while the thread lives."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread. Does nothing if it runs."""
        if not self.running:
            self._stop.clear()
            self._thread = threading.Thread(
                target=self._work, args=(self._stop,), name=self._name, daemon=True
            )
            self._thread.start()

    def stop(self, within_s: float | None = None) -> bool:
        """Ask it to end and wait for it so long (None: for ever). False if that took too long."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(within_s)
        return not self.running
