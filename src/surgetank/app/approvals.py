"""`tank.approvals`: what graphs ask people. `tank.workflows`: the chains of runs that they belong
to."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from surgetank.acting import acting_from
from surgetank.app.runs import Runs
from surgetank.database.pool import Database
from surgetank.exceptions import (
    DecisionRefused,
    InvalidTransition,
    RunNotFound,
    WorkflowNotFound,
)
from surgetank.workflows.approvals.decisions import changes, decide, difference
from surgetank.workflows.approvals.manager import EXPIRY, SQL, CheckpointManager
from surgetank.workflows.approvals.rows import UserCheckpoint, Workflow
from surgetank.workflows.runs import CancelAction, NewRun, Run
from surgetank.workflows.status import ENDED, Status

Escalate = Callable[[UserCheckpoint], None]


class Approvals:
    """Questions to people. Everything raises `DatabaseUnavailable`."""

    def __init__(
        self, database: Database, runs: Runs, escalate: Escalate, after_s: float | None
    ) -> None:
        self._manager = CheckpointManager(database, node=runs.node)
        self._runs = runs
        self._escalate = escalate
        self._after_s = after_s

    def __call__(self, *, after: int = 0, limit: int = 100, **wanted: Any) -> list[UserCheckpoint]:
        """Those that match, the oldest first: status, kind, assignee, role, step, thread_id,
        owner (with what is assigned to one of `roles`), expires_before. `after` is a
        `checkpoint_number`."""
        return self._manager.search(after=after, limit=limit, **wanted)

    def waiting(
        self, *, after: tuple[datetime | None, int] | None = None, limit: int = 100, **wanted: Any
    ) -> list[UserCheckpoint]:
        """Those that are open: what expires first, then what waits longest. `after` is `expires_at`
        and `checkpoint_number` of the last one of a page; `wanted`: owner (with `roles`),
        assistant_id, step, assignee."""
        return self._manager.waiting(after=after, limit=limit, **wanted)

    def closed(
        self, *, before: int | None = None, limit: int = 100, status: str | None = None,
        **wanted: Any,
    ) -> list[UserCheckpoint]:  # fmt: skip
        """Those that were decided, have expired or were closed otherwise, the newest first; before
        a `checkpoint_number`. `wanted` as for `waiting`."""
        return self._manager.closed(before=before, limit=limit, status=status, **wanted)

    def get(self, checkpoint_id: uuid.UUID) -> UserCheckpoint:
        """One. Raises `CheckpointNotFound`."""
        return self._manager.get(checkpoint_id)

    def resolve(
        self, checkpoint_id: uuid.UUID, action: str, *, actor: str, edited: Any = None,
        notes: str | None = None, response: Any = None, partial: bool = False,
    ) -> tuple[UserCheckpoint, Run | None]:  # fmt: skip
        """Decide one: `approve`, `edit`, `reject`, `respond` or `ignore`. Given back with the run
        by which the graph goes on; without one while others of its thread are open (unless
        `partial`), or a second person is needed.

        Raises `CheckpointNotFound`, `CheckpointAnswered`, `DecisionRefused`.
        """
        row = self._manager.get(checkpoint_id)
        run = self._manager.resolve(
            checkpoint_id, action, self._last(row), actor=actor, edited=edited, notes=notes,
            response=response, partial=partial,
        )  # fmt: skip
        if run is not None:
            self._runs.wake()
        return self._manager.get(checkpoint_id), run

    def check(
        self, row: UserCheckpoint, action: str, *, edited: Any = None, notes: str | None = None,
        response: Any = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """What a decision would change of what is offered, by JSON pointer. Writes nothing. Raises
        `DecisionRefused` for one that is not allowed."""
        found = decide(row.offer, action, edited=edited, notes=notes, response=response)
        return changes(row.offer, found) or []

    def difference(self, before: Any, after: Any) -> list[dict[str, Any]]:
        """What differs, by JSON pointer; at most 200 places."""
        return difference(before, after)

    def close(self, thread_id: str, outcome: str, *, actor: str) -> None:
        """Close what a thread asks: it was answered by writing into its state."""
        self._manager.close(thread_id, outcome, actor=actor)

    def assign(
        self, checkpoint_id: uuid.UUID, *, assignee: str | None, role: str | None, actor: str
    ) -> UserCheckpoint:
        """Say who shall answer. Raises `CheckpointNotFound`, `CheckpointAnswered`."""
        return self._manager.assign(checkpoint_id, assignee=assignee, role=role, actor=actor)

    def stats(
        self,
        *,
        owner: str | None = None,
        since_s: float = 30 * 86_400.0,
        thread_metadata: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """By assistant and step: outcomes, seconds until people decided, the share that was
        edited. Of threads whose metadata contain `thread_metadata`."""
        return self._manager.stats(owner=owner, since_s=since_s, thread_metadata=thread_metadata)

    def expire_due(self) -> int:
        """Deal with questions whose time is over: their default action is taken, or their workflow
        fails. How many there were. Those that wait too long are escalated."""
        due = self._manager.due()
        for row in due:
            if row.default_action is None or not self._take_default(row, row.default_action):
                self._manager.expire(row.checkpoint_id)
        if self._after_s is not None:
            for row in self._manager.escalate(self._after_s):
                self._escalate(row)
        return len(due)

    def _take_default(self, row: UserCheckpoint, action: str) -> bool:
        try:
            run = self._manager.resolve(
                row.checkpoint_id, action, self._last(row), actor=EXPIRY, is_expiry=True,
                notes="Nobody answered in time.",
            )  # fmt: skip
        except DecisionRefused:  # not offered
            return False
        if run is not None:
            self._runs.wake()
        return True

    def _last(self, row: UserCheckpoint) -> Run | None:
        try:
            return self._runs.get(row.run_id)
        except RunNotFound:
            return None


class Workflows:
    """Chains of runs. Everything raises `DatabaseUnavailable`."""

    def __init__(self, database: Database, runs: Runs) -> None:
        self._database = database
        self._runs = runs
        self._manager = CheckpointManager(database, node=runs.node)

    def __call__(
        self, *, status: Status | str | None = None, assistant_id: str | None = None,
        thread_id: str | None = None, owner: str | None = None, since: datetime | None = None,
        before: tuple[datetime, uuid.UUID] | None = None, limit: int = 100,
    ) -> list[Workflow]:  # fmt: skip
        """Workflows, newest first; `before` is creation and id of the last one of a page."""
        at, id_ = before if before is not None else (None, None)
        rows = self._rows(
            "workflows", status=Status(status).value if status is not None else None, since=since,
            assistant_id=assistant_id, thread_id=thread_id, owner=owner, limit=limit,
            before_at=at, before_id=id_,
        )  # fmt: skip
        return [Workflow.of(row) for row in rows]

    def get(self, workflow_id: uuid.UUID) -> Workflow:
        """One. Raises `WorkflowNotFound`."""
        rows = self._rows("workflow", workflow_id=workflow_id)
        if not rows:
            raise WorkflowNotFound(
                f"There is no workflow {workflow_id}.", remedy="list the workflows."
            )
        return Workflow.of(rows[0])

    def runs(self, workflow_id: uuid.UUID) -> list[Run]:
        """Its runs, in order."""
        return [Run.of(row) for row in self._rows("runs_of_workflow", workflow_id=workflow_id)]

    def approvals(self, workflow_id: uuid.UUID) -> list[UserCheckpoint]:
        """What it asked people, in order."""
        return self._manager.of_workflow(workflow_id)

    def cancel(self, workflow_id: uuid.UUID, *, actor: str) -> bool:
        """End it; True when it has ended by that, False when a worker must do so.

        Raises `WorkflowNotFound`, `InvalidTransition` when it ended before.
        """
        origin = acting_from.get() or self._runs.node
        (row,) = self._rows("cancel_waiting", workflow_id=workflow_id, actor=actor, origin=origin)
        if row["result"] == "cancelled":
            return True
        flow = self.get(workflow_id)
        if Status(flow.status) in ENDED:
            raise InvalidTransition(f"The workflow {workflow_id}", flow.status, "cancelled", [])
        ended = [
            self._runs.cancel(run.run_id, actor=actor, action=CancelAction.INTERRUPT)
            for run in self.runs(workflow_id)
            if run.status in (Status.PENDING, Status.RUNNING)
        ]
        return all(ended)

    def retry(self, workflow_id: uuid.UUID, *, actor: str) -> Run:
        """Go on with one that failed, from its last checkpoint, or from the start if it has none.

        Raises `WorkflowNotFound`, `InvalidTransition` for one that has not failed.
        """
        flow = self.get(workflow_id)
        runs = self.runs(workflow_id)
        if flow.status != Status.FAILED or not runs:
            raise InvalidTransition(f"The workflow {workflow_id}", flow.status, "pending", [])
        last = runs[-1]
        kwargs: Mapping[str, Any] = last.kwargs
        tried = [*(kwargs.get("goes_on") or ()), str(last.run_id)]
        new = NewRun(
            thread_id=flow.thread_id, assistant_id=last.assistant_id, graph_id=last.graph_id,
            owner=flow.owner, workflow_id=workflow_id, kwargs={**kwargs, "goes_on": tried},
            metadata=last.metadata, max_attempts=last.max_attempts, timeout_s=last.timeout_s,
            priority=last.priority, make_thread=False,
        )  # fmt: skip
        return self._runs.accept_again(new, actor=actor)

    def _rows(self, name: str, **arguments: Any) -> list[dict[str, Any]]:
        with (
            self._database.reading() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return cursor.execute(SQL[name], arguments).fetchall()
