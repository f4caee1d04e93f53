"""Writes of an event loop that another process held up: made in their order by one thread, so that
the loop goes on.

Bounded. What waits here is not accepted yet, which its caller was told (`emit_log` returns 0).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

from surgetank.exceptions import BufferUnavailable

MOST = 10_000


class HandOver:
    """A queue and its thread, which ends when nothing waits. `on_error` is told of what could not
    be written."""

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._waiting: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._running = False

    @property
    def busy(self) -> bool:
        """Whether something waits: what comes now must not overtake it."""
        return self._running and self._pid == os.getpid()

    def submit(self, write: Callable[[], object]) -> None:
        """Have it written. Raises `BufferUnavailable` when too much waits already."""
        if self._pid != os.getpid():  # a forked child: its parent writes what waited there
            self._start()
        with self._changed:
            if len(self._waiting) >= MOST:
                raise BufferUnavailable(
                    f"{MOST} writes of the event loop wait because another process holds the "
                    f"buffer.",
                    remedy="see which process it is (`surgetank status`); nothing accepted is "
                    "lost.",
                )
            self._waiting.append(write)
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name="surgetank-handover", daemon=False).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._running = False
                    self._changed.notify_all()
                    return
                write = self._waiting.popleft()
            try:
                write()
            except Exception as error:  # noqa: BLE001 - its caller has gone on; it is told in the status
                self._on_error(error)

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing waits; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.busy, timeout_s)
