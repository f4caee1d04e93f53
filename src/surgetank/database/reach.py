"""Whether the database can be reached, as far as was noticed: callers don't wait, one after the
other, to find it out.

Only a failure that cost time counts (a frozen server, a host that swallows packets): a refused
connection is known in a millisecond anyway. While the database is away one thread asks for it; it
ends when the database answers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from surgetank.exceptions import DatabaseUnavailable, SurgetankError

_EVERY_S = 0.5


class Reach:
    """What is known of one database. `ask` connects and asks, or raises."""

    def __init__(self, ask: Callable[[], object], *, every_s: float = _EVERY_S) -> None:
        self._ask = ask
        self._every_s = every_s
        self._lock = threading.Lock()
        self._error: DatabaseUnavailable | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @property
    def is_away(self) -> bool:
        """Whether it is known to be away."""
        return self._error is not None

    def check(self) -> None:
        """Raises `DatabaseUnavailable` while the database is known to be away."""
        error = self._error
        if error is not None:
            self._keep_asking()  # also in a forked child, which has no threads
            raise DatabaseUnavailable(error.what, remedy=error.remedy) from error

    def lost(self, error: DatabaseUnavailable) -> None:
        """It took long to learn that the database is away."""
        with self._lock:
            if self._closed.is_set():
                return
            self._error = error
        self._keep_asking()

    def found(self) -> None:
        """It answered."""
        if self._error is not None:
            with self._lock:
                self._error = None

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()
        self.found()

    def _keep_asking(self) -> None:
        with self._lock:
            if self._closed.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="surgetank-reach", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(self._every_s):
            with self._lock:
                if self._error is None:
                    self._thread = None
                    return
            try:
                self._ask()
            except DatabaseUnavailable as error:
                with self._lock:
                    self._error = error if self._error is not None else None
            except SurgetankError:
                self.found()  # it answers, if not kindly: that is known quickly
            else:
                self.found()
