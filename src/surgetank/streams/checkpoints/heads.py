"""The newest checkpoints that this process has seen in the database, by thread."""

from __future__ import annotations

import threading

from surgetank.bounded import BoundedMap


class KnownHeads:
    """The newest checkpoints of threads as they were last read from the database, until a put goes
    on from there."""

    def __init__(self, limit: int = 10_000) -> None:
        self._heads = BoundedMap[str, str](limit)
        self._lock = threading.Lock()

    def learn(self, thread_id: str, head: str) -> None:
        """The thread was read."""
        with self._lock:
            self._heads[thread_id] = head

    def take(self, thread_id: str) -> str | None:
        """What is known of the thread, for the put that goes on from it."""
        with self._lock:
            return self._heads.pop(thread_id, None)
