"""`WorkflowStatusManager`: the only writer of how a run ends. While the database is away it waits
and tries again; who has lost the run writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from surgetank.exceptions import DatabaseUnavailable, LeaseLost, RunNotFound
from surgetank.flush.policy import RetryPolicy
from surgetank.workflows.approvals.manager import save_created
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import Run
from surgetank.workflows.status import Status

_RETRY = RetryPolicy(base_s=0.2, max_s=5.0)
ENDED = "ended"  # instead of the state of a thread, which may have changed since
_ERROR_BYTES = 8 * 1024


class WorkflowStatusManager:
    """Records how runs end: state of run, workflow and thread with the audit row, in one
    transaction.

    `wait` waits for so many seconds and says whether to go on; `on_waiting` is told, once for each
    step, that the database is away. Each method gives the state of the thread, `ENDED`, or `ASKED`, and raises
    `LeaseLost` when the run is somebody else's, `DatabaseUnavailable` when `wait` said stop.
    """

    def __init__(
        self,
        queue: RunQueue,
        *,
        actor: str,
        wait: Callable[[float], bool],
        on_waiting: Callable[[Run, DatabaseUnavailable], None] = lambda *_: None,
    ) -> None:
        self._queue = queue
        self._actor = actor
        self._wait = wait
        self._on_waiting = on_waiting

    def mark_completed(self, run: Run) -> str:
        """The graph came to its end."""
        return self._end(run, Status.COMPLETED)

    def mark_awaiting_checkpoint(self, run: Run, interrupts: Sequence[Mapping[str, Any]]) -> str:
        """The graph waits for people: `interrupts` are what it asks."""
        asked = save_created(run, interrupts)
        return self._end(run, Status.AWAITING_CHECKPOINT, interrupts=asked)

    def mark_failed(self, run: Run, error: str, *, timed_out: bool = False) -> str:
        """The graph raised, or took longer than it may."""
        shown = error if len(error) <= _ERROR_BYTES else f"{error[:_ERROR_BYTES]} ..."
        return self._end(run, Status.FAILED, error=shown, timed_out=timed_out)

    def mark_cancelled(self, run: Run) -> str:
        """It ended because that was asked for."""
        return self._end(run, Status.CANCELLED)

    def give_back(self, run: Run, *, retry_s: float = 0.0) -> str:
        """Somebody else may go on with it, from its last checkpoint, in `retry_s`."""
        return self._end(run, Status.PENDING, retry_s=retry_s)

    def _try(self, run: Run, status: Status, *, again: bool, **more: Any) -> str:
        try:
            return self._queue.end(run, status, actor=self._actor, **more)
        except LeaseLost:
            if again and self._is_recorded(run, status):
                return ENDED
            raise

    def _is_recorded(self, run: Run, status: Status) -> bool:
        """Whether an attempt whose answer was lost has done it."""
        try:
            found = self._queue.get(run.run_id)
        except RunNotFound:
            return status is Status.CANCELLED  # it was rolled back
        return found.fence == run.fence and found.status is status

    def _end(self, run: Run, status: Status, **more: Any) -> str:
        attempt = 0
        while True:
            try:
                return self._try(run, status, again=attempt > 0, **more)
            except DatabaseUnavailable as error:
                if attempt == 0:
                    self._on_waiting(run, error)
                pause = min(_RETRY.max_s, _RETRY.base_s * 2.0 ** min(attempt, 10))
                attempt += 1
                if not self._wait(pause):
                    raise
