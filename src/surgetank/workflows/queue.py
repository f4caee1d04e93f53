"""The queue of runs, which is the table of runs itself: one state, not two.

Each call is one round trip and one transaction (`0022_runs.sql`). Accepting is a commit; a claim
locks threads, so that of one thread only one run is under way, in the order of acceptance; whoever
lost a run can't write it any more, by its fence.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from surgetank.acting import acting_from
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.exceptions import (
    DatabaseUnavailable,
    InvalidTransition,
    LeaseLost,
    QuotaExceeded,
    RunNotFound,
    SurgetankError,
    ThreadBusy,
    ThreadNotFound,
)
from surgetank.workflows.lifetime import ThreadTtl
from surgetank.workflows.runs import CancelAction, NewRun, Run
from surgetank.workflows.status import RUN_TRANSITIONS, Status, check_transition
from surgetank.workflows.together import Together

SQL = queries("workflows/runs.sql")
_LEASE_S = 30.0
_ENDS = 100  # of one transaction: what a loop of a worker ends at once, and no lock is held long
ASKED = "asked"  # instead of the state of a thread
QUOTAS = ("runs_waiting_per_user", "runs_running_per_user", "runs_per_minute_per_user")
_STEPS = ("claim", "reap", "reap_in_contact")  # and what `_call` calls


class RunQueue:
    """Runs in PostgreSQL. Safe to use from several threads; any number of processes may share it.

    Everything raises `DatabaseUnavailable`. `lease_s` is how long a worker may be silent. `node`
    and `buffer_id` say in the audit where something was done, and where its data are. `changed` is
    called after each step of a run. `quotas` are limits of a user by their names in the settings.
    """

    def __init__(
        self,
        database: Database,
        *,
        lease_s: float = _LEASE_S,
        node: str = "",
        buffer_id: str | None = None,
        changed: Callable[[], None] = lambda: None,
        quotas: Mapping[str, int | None] | None = None,
        thread_ttl: ThreadTtl | None = None,
    ) -> None:
        self._database = database
        self.lease_s = lease_s
        self._here = {"node": node, "buffer": buffer_id}
        self._quotas = dumps_jsonb({name: most or None for name, most in (quotas or {}).items()})[0]
        self._changed = changed
        self._thread_ttl = thread_ttl
        self._ends = Together(self._end_all, _ENDS)

    # -- who asks for runs

    def accept(self, new: NewRun, *, actor: str) -> Run:
        """Accept a run: it is safe when this returns. One that is known already is returned.

        Raises `ThreadBusy` (strategy `reject`), `ThreadNotFound`, `QuotaExceeded`,
        `InvalidTransition` for a workflow that waits for nothing.
        """
        with self._accepting(new) as connection:
            run = self.accept_on(connection, new, actor=actor)
        self._changed()
        return run

    def accept_and_claim(self, new: NewRun, worker: str, *, actor: str) -> tuple[Run, Run | None]:
        """`accept`, and in the same commit the claim for a worker, where the run can begin at once:
        the run as it was accepted, and as it was claimed."""
        with self._accepting(new) as connection:
            row = self._accept(connection, new, actor=actor, worker=worker)
        self._changed()
        names = ("attempts", "fence", "until", "at")
        attempts, fence, until, at = (row.pop(f"claimed_{name}") for name in names)
        run = Run.of(row)
        if fence is None:
            return run, None
        return run, replace(
            run, status=Status.RUNNING, worker=worker, attempts=attempts, fence=fence, lease_until=until,
            started_at=at, updated_at=at,
        )  # fmt: skip

    def _accepting(self, new: NewRun) -> AbstractContextManager[Connection[Any]]:
        # one statement is a transaction of its own; a thread that gets its time to live takes two
        one = self._thread_ttl is None or new.temporary
        return self._database.reading() if one else self._database.asking()

    def accept_on(self, connection: Connection[Any], new: NewRun, *, actor: str) -> Run:
        """`accept` within a transaction of the caller's; a refusal leaves it whole."""
        return Run.of(self._accept(connection, new, actor=actor))

    def _accept(
        self, connection: Connection[Any], new: NewRun, *, actor: str, worker: str | None = None
    ) -> dict[str, Any]:
        arguments = {
            "run_id": new.run_id, "workflow_id": new.workflow_id, "thread_id": new.thread_id,
            "assistant_id": new.assistant_id, "graph_id": new.graph_id, "owner": new.owner,
            "strategy": new.strategy.value, "priority": new.priority,
            "after_s": new.after_s, "kwargs": _jsonb(new.kwargs),
            "metadata": _jsonb(new.metadata), "max_attempts": new.max_attempts,
            "timeout_s": new.timeout_s, "make_thread": new.make_thread,
            "temporary": new.temporary, "thread_metadata": _jsonb(new.thread_metadata),
            "actor": actor, "worker": worker, "node": self._here["node"], "lease_s": self.lease_s,
        }  # fmt: skip
        name = "accept" if worker is None else "accept_and_claim"
        with connection.cursor(row_factory=dict_row) as cursor:
            (row,) = cursor.execute(SQL[name], self._acting(arguments)).fetchall()
            if row["result"] == "accepted" and (ttl := self._thread_ttl) and not new.temporary:
                lives = {"ttl_minutes": ttl.minutes, "ttl_strategy": ttl.strategy}
                cursor.execute(SQL["give_ttl"], {"thread_id": new.thread_id, **lives})
        match row.pop("result"):
            case "accepted" | "known":
                return row
            case "missing" | "foreign":  # whose it is, is not said to others
                raise ThreadNotFound(
                    f"There is no thread {new.thread_id!r}.",
                    remedy="create it first, or let the run create it (if_not_exists).",
                )
            case "busy":
                raise ThreadBusy(
                    f"The thread {new.thread_id!r} has a run that is not over.",
                    remedy="wait for it or cancel it, or use another strategy than `reject`.",
                )
            case "state":
                raise InvalidTransition(
                    f"The workflow {new.workflow_id}", "not waiting", "pending", []
                )
            case refusal:
                raise QuotaExceeded(
                    str(refusal), remedy="wait until some have ended, or raise the quota."
                )

    def cancel(self, run_id: uuid.UUID, action: CancelAction, *, actor: str) -> bool:
        """Ask a run to end; True when it has ended by that, False when its worker must do so.

        Raises `RunNotFound`, `InvalidTransition` when it ended before.
        """
        (result,) = self._call("cancel", {"run_id": run_id, "action": action.value, "actor": actor})
        if result == "missing":
            raise _missing(run_id)
        if result == "ended":
            run = self.get(run_id)
            check_transition(run.status, Status.CANCELLED, RUN_TRANSITIONS, f"The run {run_id}")
        return bool(result == "cancelled")

    # -- who runs them

    def claim(
        self,
        worker: str,
        most: int,
        *,
        graphs: Collection[str] | None = None,
        most_of_assistant: int | None = None,
    ) -> list[Run]:
        """Take up to `most` due runs, each thread's next one, the most urgent first.

        Only runs of these `graphs` (none: of all), and not more of one assistant than
        `most_of_assistant` over all workers.
        """
        arguments = {
            "worker": worker, "most": most, "lease_s": self.lease_s,
            "graphs": list(graphs) if graphs is not None else None,
            "most_of_assistant": most_of_assistant,
        }  # fmt: skip
        return [Run.of(row) for row in self._rows("claim", arguments)]

    def held_by(self, worker: str, known: Collection[uuid.UUID]) -> list[Run]:
        """What a worker has, except for what is `known`."""
        arguments = {"worker": worker, "known": list(known)}
        return [Run.of(row) for row in self._rows("held_by", arguments)]

    def renew(self, runs: Sequence[Run]) -> dict[uuid.UUID, CancelAction | None]:
        """Keep runs; of each that is still held, what its end was asked for. Others are lost."""
        rows = self._rows(
            "renew",
            {
                "runs": [run.run_id for run in runs],
                "fences": [run.fence for run in runs],
                "lease_s": self.lease_s,
            },
        )
        return {
            row["run_id"]: CancelAction(row["cancel_action"]) if row["cancel_action"] else None
            for row in rows
        }

    def end(
        self,
        run: Run,
        status: Status,
        *,
        error: str | None = None,
        interrupts: Sequence[Mapping[str, Any]] = (),
        timed_out: bool = False,
        retry_s: float = 0.0,
        actor: str,
    ) -> str:
        """Record how a run ended, or give it back (`pending`, due in `retry_s`): the state of its
        thread now. Or `ASKED`, and nothing is recorded: somebody wants it cancelled, which is to be
        done. Raises `LeaseLost` when somebody else has it, or it ended before.
        """
        check_transition(Status.RUNNING, status, RUN_TRANSITIONS, f"The run {run.run_id}")
        return self._ends.call(
            self._acting(
                {
                    "run_id": run.run_id, "fence": run.fence, "status": status.value, "error": error,
                    "interrupts": Jsonb([dict(each) for each in interrupts], dumps=_dumps),
                    "timed_out": timed_out, "retry_s": retry_s, "actor": actor,
                    "thread_id": run.thread_id,
                }
            )
        )  # fmt: skip

    def _end_all(self, ends: Sequence[dict[str, Any]]) -> list[str | Exception]:
        """End these runs in one transaction; each alone where that was refused."""
        try:
            return self._end_together(ends)
        except DatabaseUnavailable:
            raise
        except SurgetankError:
            if len(ends) == 1:
                raise
            return [self._end_alone(each) for each in ends]

    def _end_alone(self, end: dict[str, Any]) -> str | Exception:
        try:
            return self._end_together([end])[0]
        except SurgetankError as error:
            return error

    def _end_together(self, ends: Sequence[dict[str, Any]]) -> list[str | Exception]:
        rests: dict[uuid.UUID, str] = {}
        plain = [each for each in ends if each["status"] == Status.COMPLETED.value]
        if len(plain) == 1:  # alone it is cheaper
            plain = []
        others = [each for each in ends if not plain or each["status"] != Status.COMPLETED.value]
        with self._database.reading() as connection:
            for (actor, origin, buffer), group in _by_who(plain).items():
                arguments = {
                    "runs": [each["run_id"] for each in group],
                    "fences": [each["fence"] for each in group],
                    "actor": actor, "origin": origin, "buffer": buffer,
                }  # fmt: skip
                rests.update(connection.execute(SQL["complete"], arguments).fetchall())
            if others:
                columns = {name: [each[name] for each in others] for name in others[0]}
                rests.update(connection.execute(SQL["end"], columns).fetchall())
            back = [each["run_id"] for each in others if each["status"] == Status.PENDING.value]
            if back:
                connection.execute(SQL["given_back"], {"runs": back})
        self._changed()
        return [
            rests.get(each["run_id"])
            or LeaseLost(
                f"The run {each['run_id']} is not this worker's any more.",
                remedy="nothing to do: whoever has it now records how it ends.",
            )
            for each in ends
        ]

    def reap(self, *, actor: str, most: int = 100) -> dict[uuid.UUID, Status]:
        """Deal with runs whose worker went silent: each is cancelled, pending again, or failed."""
        rows = self._rows("reap", {"most": most, "actor": actor})
        return {row["run_id"]: Status(row["ended"]) for row in rows}

    def reap_in_contact(
        self, since: datetime | None, last: datetime | None, gap: timedelta, *, actor: str, most: int = 100
    ) -> tuple[datetime, dict[uuid.UUID, Status]]:  # fmt: skip
        """`reap` for a caller that was in contact `since` then, for a lease at least, and `last` no
        longer ago than `gap`; else nothing. And the database's time."""
        arguments = {
            "since": since, "last": last, "gap": gap, "lease_s": self.lease_s, "most": most, "actor": actor,
        }  # fmt: skip
        rows = self._rows("reap_in_contact", arguments)
        ended = {row["run_id"]: Status(row["ended"]) for row in rows if row["run_id"] is not None}
        return rows[0]["at"], ended

    # -- who looks

    def get(self, run_id: uuid.UUID) -> Run:
        """One run. Raises `RunNotFound`."""
        rows = self._rows("get", {"run_id": run_id})
        if not rows:
            raise _missing(run_id)
        return Run.of(rows[0])

    def of_thread(
        self,
        thread_id: str,
        *,
        statuses: Collection[Status] | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Run]:
        """Runs of a thread, newest first."""
        names = [status.value for status in statuses] if statuses is not None else None
        arguments = {"thread_id": thread_id, "statuses": names, "limit": limit, "offset": offset}
        return [Run.of(row) for row in self._rows("of_thread", arguments)]

    def unfinished(
        self, thread_id: str | None = None, *, owner: str | None = None, limit: int = 1000
    ) -> list[Run]:
        """Runs that are not over, the oldest first, of one thread or owner or of all."""
        arguments = {"thread_id": thread_id, "owner": owner, "limit": limit}
        return [Run.of(row) for row in self._rows("unfinished", arguments)]

    def delete(self, run_id: uuid.UUID, *, actor: str) -> None:
        """Forget a run that has ended. Raises `RunNotFound`, `ThreadBusy` for one that has not."""
        if not self._rows("delete", {"run_id": run_id, "actor": actor}):
            run = self.get(run_id)
            raise ThreadBusy(f"The run {run_id} is {run.status}.", remedy="cancel it first.")

    def audit(self, workflow_id: uuid.UUID) -> list[dict[str, Any]]:
        """What was done with a workflow, by whom, in order."""
        return self._rows("audit_of_workflow", {"workflow_id": workflow_id})

    def counts(self) -> dict[Status, tuple[int, float]]:
        """How many runs are pending and running, and how long the oldest has been due."""
        rows = self._rows("counts", {})
        return {Status(r["status"]): (r["runs"], float(r["oldest_s"])) for r in rows}

    # -- the database

    def _call(self, name: str, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
        with self._database.reading() as connection:
            row = connection.execute(SQL[name], self._acting(arguments)).fetchone()
        assert row is not None
        self._changed()
        return tuple(row)

    def _rows(self, name: str, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        with (
            self._database.reading() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            rows = cursor.execute(SQL[name], self._acting(arguments)).fetchall()
        if rows and name in _STEPS:
            self._changed()
        return rows

    def _acting(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """With where it is done."""
        origin = acting_from.get() or self._here["node"]
        return {
            **arguments,
            "origin": origin,
            "buffer": self._here["buffer"],
            "quotas": self._quotas.decode(),
        }


def _by_who(ends: Iterable[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for each in ends:
        groups.setdefault((each["actor"], each["origin"], each["buffer"]), []).append(each)
    return groups


def _missing(run_id: uuid.UUID) -> RunNotFound:
    return RunNotFound(f"There is no run {run_id}.", remedy="list the runs of the thread.")


def _dumps(value: object) -> bytes:
    return dumps_jsonb(value)[0]


def _jsonb(value: Mapping[str, Any]) -> Jsonb:
    return Jsonb(dict(value), dumps=_dumps)
