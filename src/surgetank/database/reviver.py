"""Starting an embedded server that went, on a thread of its own: whoever needs a connection waits for
it no longer than connecting may take, the flush thread too.
"""

from __future__ import annotations

import threading

from surgetank.database.embedded import EmbeddedPostgres


class Reviver:
    """Safe to use from several threads: one start at a time, which all wait for."""

    def __init__(self, embedded: EmbeddedPostgres) -> None:
        self._embedded = embedded
        self._lock = threading.Lock()
        self._attempt: _Attempt | None = None

    def revive(self, within_s: float) -> bool:
        """Whether the server was started again, within this time. Raises like
        `EmbeddedPostgres.start`."""
        with self._lock:
            attempt = self._attempt
            if attempt is None or attempt.over.is_set():
                attempt = self._attempt = _Attempt(self._embedded)
                attempt.start()
        if not attempt.over.wait(within_s):
            return False  # it goes on; the next one who asks may find the server
        if attempt.error is not None:
            raise attempt.error
        return attempt.revived


class _Attempt(threading.Thread):
    def __init__(self, embedded: EmbeddedPostgres) -> None:
        super().__init__(name="surgetank-revive", daemon=True)
        self._embedded = embedded
        self.over = threading.Event()
        self.revived = False
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.revived = self._embedded.revive()
        except Exception as error:  # noqa: BLE001 - raised to whoever waits for it
            self.error = error
        finally:
            self.over.set()
