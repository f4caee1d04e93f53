"""The time of a server, for all who use it: leases, ages and waits mean the same on every host, however its
own clock goes.

What passes is counted by the machine, which nobody sets. From where it is counted, the server says, now and
then.
"""

from __future__ import annotations

import threading
import time

_EVERY_S = 10.0
_DRIFT = 0.001  # two machines do not count quite alike
_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps


def passed() -> float:
    """Seconds that have passed on this machine."""
    return time.clock_gettime(_BOOT)


class ServerClock:
    """Seconds since the epoch, by the server. By this machine until the server was asked once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset = time.time() - passed()
        self._error = float("inf")  # by how much it may be wrong
        self._at = float("-inf")

    def __call__(self) -> float:
        return passed() + self._offset

    @property
    def is_due(self) -> bool:
        """Whether the server is to be asked again."""
        return passed() - self._at > _EVERY_S

    def learn(self, sent: float, received: float, server: float) -> None:
        """The server said this; it was asked and answered at these times."""
        error, offset = (received - sent) / 2, server - (sent + received) / 2
        with self._lock:
            before = self._error + _DRIFT * (received - self._at)
            # What was heard late says less, unless the server's clock was set since.
            if error <= before or abs(offset - self._offset) > error + before:
                self._offset, self._error = offset, error
            else:
                self._error = before
            self._at = received
