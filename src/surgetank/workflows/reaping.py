"""Taking runs from workers that went silent, and from nobody else.

While the database is away nobody can renew a lease, so that afterwards all have run out. Who reaps must
have been in contact for as long as a lease before; others had the same time to come back. The time of
contact is the database's, and compared in the statement that reaps: one that was sent before the
database stood still, and is carried out when it goes on, reaps nothing.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from surgetank.workflows.queue import RunQueue
from surgetank.workflows.status import Status

_GAP = (
    2 / 3
)  # of a lease: a renewed one lasts longer than a shorter gap, and the third until it is renewed


class Reaper:
    """Reaps for one process. To be called at least each third of a lease, on one thread."""

    def __init__(self, queue: RunQueue, *, actor: str) -> None:
        self._queue = queue
        self._actor = actor
        self._since: datetime | None = None
        self._last: datetime | None = None

    def step(self) -> dict[uuid.UUID, Status]:
        """End or give back what silent workers hold, unless they might only be cut off as we were.
        Raises `DatabaseUnavailable`."""
        gap = timedelta(seconds=self._queue.lease_s * _GAP)
        at, ended = self._queue.reap_in_contact(self._since, self._last, gap, actor=self._actor)
        if self._last is None or at - self._last > gap:
            self._since = at
        self._last = at
        return ended
