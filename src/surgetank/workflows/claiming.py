"""Claims of one worker. One whose answer was lost may have been carried out, or may be when the database
goes on: what it claimed is found, so that no run waits until its lease has run out.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection

from surgetank.exceptions import DatabaseUnavailable
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import Run


class Claims:
    """For a worker that makes one claim after the other."""

    def __init__(
        self, queue: RunQueue, worker: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._queue = queue
        self._worker = worker
        self._clock = clock
        self._lost = False  # the last answer
        self._unsure_to = 0.0
        self._left: set[uuid.UUID] = set()

    @property
    def sure(self) -> bool:
        """Whether all that was claimed is known."""
        return not self._lost and self._clock() >= self._unsure_to

    def lost(self) -> None:
        """An answer that may have been a claim was lost. May be called on any thread."""
        self._lost = True

    def leave(self, run_id: uuid.UUID) -> None:
        """A run of this worker whose end could not be recorded: it is the reaper's."""
        self._left.add(run_id)

    def take(
        self,
        most: int,
        mine: Callable[[], Collection[uuid.UUID]],
        *,
        graphs: Collection[str],
        most_of_assistant: int | None,
    ) -> list[Run]:
        """Up to `most` due runs; or what was claimed before and is not among `mine`. Raises what
        `RunQueue.claim` raises."""
        unsure, lost = not self.sure, self._lost
        try:
            # `mine` is asked after it is unsure: what began before is among them, and nothing does now
            if unsure and (found := self._queue.held_by(self._worker, {*mine(), *self._left})):
                return found
            claimed = self._queue.claim(
                self._worker, most, graphs=graphs, most_of_assistant=most_of_assistant
            )
        except DatabaseUnavailable:
            self._lost = True
            raise
        if lost:  # what was sent before may be carried out after this
            self._lost, self._unsure_to = False, self._clock() + self._queue.lease_s
        elif not unsure:
            self._left.clear()
        return claimed
