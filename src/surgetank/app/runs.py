"""`tank.runs`: graphs that are run by workers, each run accepted, claimed and ended in the database."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from surgetank.database.pool import Database
from surgetank.exceptions import MissingExtra
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import CancelAction, NewRun, Run
from surgetank.workflows.status import Status

if TYPE_CHECKING:
    from surgetank.workflows.worker import Graph, RunWorker


class Runs:
    """Runs of this database. Everything raises `DatabaseUnavailable`."""

    def __init__(
        self,
        database: Database,
        *,
        node: str,
        owner_key: str,
        tell: Callable[[BaseException, str], None],
    ) -> None:
        self._queue = RunQueue(database)
        self._node = node
        self._owner_key = owner_key
        self._tell = tell

    def accept(self, new: NewRun, *, actor: str) -> Run:
        """Accept a run for a worker: it is safe when this returns. One that is known is returned.

        Raises `ThreadBusy` (strategy `reject`), `ThreadNotFound`, `InvalidTransition`.
        """
        return self._queue.accept(new, actor=actor)

    def get(self, run_id: uuid.UUID) -> Run:
        """One run. Raises `RunNotFound`."""
        return self._queue.get(run_id)

    def of_thread(
        self, thread_id: str, *, status: Status | None = None, limit: int = 100, offset: int = 0
    ) -> list[Run]:
        """Runs of a thread, newest first."""
        return self._queue.of_thread(thread_id, status=status, limit=limit, offset=offset)

    def cancel(
        self, run_id: uuid.UUID, *, actor: str, action: CancelAction = CancelAction.INTERRUPT
    ) -> bool:
        """Ask a run to end; True when it has ended by that, False when its worker must do so.

        Raises `RunNotFound`, `InvalidTransition` when it ended before.
        """
        return self._queue.cancel(run_id, action, actor=actor)

    def reap(self) -> dict[uuid.UUID, Status]:
        """Deal with runs whose worker went silent: each is cancelled, pending again, or failed."""
        return self._queue.reap(actor=self._node)

    def audit(self, workflow_id: uuid.UUID) -> list[dict[str, Any]]:
        """What was done with a workflow, by whom, in order."""
        return self._queue.audit(workflow_id)

    def counts(self) -> dict[Status, tuple[int, float]]:
        """How many runs are pending and running, and for how many seconds the oldest is due."""
        return self._queue.counts()

    def worker(self, graphs: Mapping[str, Graph], *, most: int = 10) -> RunWorker:
        """A worker of runs for the current event loop: `await worker.work(stop)`.

        `graphs` maps the name of an assistant to its compiled graph, with our checkpointer. Raises
        `MissingExtra` without langgraph.
        """
        try:
            from surgetank.workflows.worker import RunWorker  # noqa: PLC0415 - needs the extra
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("surgetank"):
                raise
            raise MissingExtra("langgraph", "langgraph", "A worker of runs") from error
        return RunWorker(
            self._queue,
            graphs,
            name=f"{self._node}/{uuid.uuid4().hex[:8]}",
            most=most,
            owner_key=self._owner_key,
            tell=self._tell,
        )
