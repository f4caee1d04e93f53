"""`CheckpointManager`: the only writer of user checkpoints, and the one resolver of all doors.

An answer is validated, then committed together with the run that carries it: the queue delivers it,
however often workers are killed. Of two people who answer at once one wins.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from surgetank.acting import acting_from
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode import limits
from surgetank.encode.jsontext import dumps
from surgetank.exceptions import (
    CheckpointAnswered,
    CheckpointNotFound,
    DecisionRefused,
    QuotaExceeded,
)
from surgetank.workflows.approvals.decisions import Decision, changes, decide, judge
from surgetank.workflows.approvals.offers import offer_of
from surgetank.workflows.approvals.rows import OPEN, UserCheckpoint
from surgetank.workflows.runs import NewRun, Run

SQL = queries("workflows/approvals/approvals.sql")
_NEWEST = 2**63 - 1  # after every question
EXPIRY = "expiry"  # the actor of what nobody answered
_END = "__end__"


def save_created(run: Run, interrupts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is recorded when a graph asks: each interrupt with what it offers. Written with the end
    of the run (`open_checkpoints`)."""
    terms = run.metadata.get("approval")
    known = terms if isinstance(terms, Mapping) else None
    return [
        {**each, "offer": offer_of(each.get("value"), each.get("response_schema"), known).stored()}
        for each in interrupts
    ]


class CheckpointManager:
    """User checkpoints in PostgreSQL. Everything raises `DatabaseUnavailable`.

    `node` says in the audit where something was done that nobody asked for from elsewhere.
    """

    def __init__(self, database: Database, *, node: str = "") -> None:
        self._node = node
        self._database = database

    # -- answering

    def resolve(
        self, checkpoint_id: uuid.UUID, action: str, last: Run | None, *, actor: str,
        edited: Any = None, notes: str | None = None, response: Any = None, partial: bool = False,
        is_expiry: bool = False,
    ) -> Run | None:  # fmt: skip
        """Answer one question. The graph goes on when no other of its thread is open (or
        `partial`): the run that does so, like `last`, is returned; None while others are open.

        Raises `CheckpointNotFound`, `CheckpointAnswered`, `DecisionRefused`.
        """
        row = self.get(checkpoint_id)
        decision = decide(row.offer, action, edited=edited, notes=notes, response=response)
        new = _like(last, row)
        answers = [_answer(row, decision)]
        return self.save_resolution(new, answers, actor=actor, partial=partial, is_expiry=is_expiry)

    def accept(self, new: NewRun, *, actor: str) -> Run | None:
        """Accept a run whose command answers what its thread asks. None: it answers nothing that is
        known here, and is accepted as any other.

        Raises `CheckpointNotFound`, `CheckpointAnswered`, `DecisionRefused`.
        """
        command = new.kwargs.get("command") or {}
        if "resume" not in command and not _ends(command):
            return None
        rows = self.of_thread(new.thread_id)
        waiting = [row for row in rows if row.status == OPEN]
        if "resume" not in command:
            if not waiting:
                return None
            return self.save_resolution(new, [], actor=actor, close_as="ignored", if_held=True)
        if not rows:  # asked by a program that doesn't record it
            return None
        given = _by_interrupt(command["resume"], rows, waiting)
        if new.kwargs.get("strict_resume") and (
            left := [r for r in waiting if r.interrupt_id not in given]
        ):
            raise DecisionRefused(
                f"The answer leaves {len(left)} questions open.",
                remedy=f"answer {', '.join(r.interrupt_id for r in left)} too, or without strict_resume.",
            )
        answers = [
            _answer(row, judge(row.offer, given[row.interrupt_id]))
            for row in waiting
            if row.interrupt_id in given
        ]
        close = "ignored" if _ends(command) else None
        return self.save_resolution(new, answers, actor=actor, close_as=close, if_held=True)

    def save_resolution(
        self, new: NewRun, answers: Sequence[Mapping[str, Any]], *, actor: str,
        close_as: str | None = None, partial: bool = False, if_held: bool = False,
        is_expiry: bool = False,
    ) -> Run | None:  # fmt: skip
        """Commit answers, with the run that carries them once all are there. With `if_held` a run
        is accepted in any case: one that ends at once, asking still."""
        (row,) = self._rows(
            "answer",
            thread_id=new.thread_id, answers=Jsonb(list(answers), dumps=dumps), close_as=close_as,
            partial=partial, if_held=if_held, is_expiry=is_expiry, run_id=new.run_id,
            assistant_id=new.assistant_id, graph_id=new.graph_id, owner=new.owner,
            kwargs=Jsonb(dict(new.kwargs), dumps=dumps), metadata=Jsonb(dict(new.metadata), dumps=dumps),
            max_attempts=new.max_attempts, timeout_s=new.timeout_s, priority=new.priority, actor=actor,
        )  # fmt: skip
        detail = row.pop("detail")
        match row.pop("result"):
            case "accepted" | "known":
                return Run.of(row)
            case "held" | "second":
                return None
            case "missing":
                raise _missing(detail)
            case "expired":
                raise CheckpointAnswered(
                    "The time to answer this is over.", remedy="see what became of its workflow."
                )
            case "answered":
                raise CheckpointAnswered(
                    f"This was decided before: {detail}.",
                    remedy="see the user checkpoint for the decision.",
                )
            case "same_person":
                raise CheckpointAnswered(
                    "You have approved this; a second person has to.", remedy="ask somebody else."
                )
            case refusal:
                raise QuotaExceeded(
                    str(refusal), remedy="wait until some have ended, or raise the quota."
                )

    def close(self, thread_id: str, outcome: str, *, actor: str) -> None:
        """Close what a thread asks, for it was answered by writing into its state."""
        self._rows("close", thread_id=thread_id, why=outcome, actor=actor)

    def assign(
        self, checkpoint_id: uuid.UUID, *, assignee: str | None, role: str | None, actor: str
    ) -> UserCheckpoint:
        """Say who shall answer. Raises `CheckpointNotFound`, `CheckpointAnswered`, `EntryRejected`
        for what can't be a name."""
        limits.check_names("approvals", [("$.assignee", assignee or ""), ("$.role", role or "")])
        done = self._rows(
            "assign", checkpoint_id=checkpoint_id, assignee=assignee, role=role, actor=actor
        )
        row = self.get(checkpoint_id)
        if not done:
            raise CheckpointAnswered(
                f"This was decided before: {row.status}.", remedy="nothing is left to assign."
            )
        return row

    # -- what nobody answers

    def due(self) -> list[UserCheckpoint]:
        """Questions whose time is over."""
        return [UserCheckpoint.of(row) for row in self._rows("due")]

    def expire(self, checkpoint_id: uuid.UUID) -> bool:
        """Close one whose time is over, without an answer: its workflow fails."""
        (row,) = self._rows("expire", checkpoint_id=checkpoint_id, actor=EXPIRY)
        return bool(row["expired"])

    def escalate(self, after_s: float) -> list[UserCheckpoint]:
        """Questions that wait longer than so many seconds; each is given once."""
        return [UserCheckpoint.of(row) for row in self._rows("escalate", after_s=after_s)]

    # -- looking

    def get(self, checkpoint_id: uuid.UUID) -> UserCheckpoint:
        """One. Raises `CheckpointNotFound`."""
        rows = self._rows("get", checkpoint_id=checkpoint_id)
        if not rows:
            raise _missing(checkpoint_id)
        return UserCheckpoint.of(rows[0])

    def of_thread(self, thread_id: str) -> list[UserCheckpoint]:
        """What a thread asks and asked, the newest 1000, in order."""
        return [UserCheckpoint.of(row) for row in self._rows("of_thread", thread_id=thread_id)]

    def of_workflow(self, workflow_id: uuid.UUID) -> list[UserCheckpoint]:
        """What a workflow asked, in order."""
        return [
            UserCheckpoint.of(row) for row in self._rows("of_workflow", workflow_id=workflow_id)
        ]

    def search(self, *, after: int = 0, limit: int = 100, **wanted: Any) -> list[UserCheckpoint]:
        """Those that match, the oldest first. `wanted`: status, kind, assignee, role, step,
        thread_id, owner (or what is assigned to them, or to one of `roles`), expires_before."""
        names = (
            "status", "kind", "assignee", "role", "step", "thread_id", "owner", "expires_before",
        )  # fmt: skip
        given = {name: wanted.get(name) for name in names}
        given["roles"] = list(wanted.get("roles") or ())
        return [
            UserCheckpoint.of(r) for r in self._rows("search", after=after, limit=limit, **given)
        ]

    def waiting(
        self, *, after: tuple[datetime | None, int] | None = None, limit: int = 100, **wanted: Any
    ) -> list[UserCheckpoint]:
        """Those that are open: what expires first, then what waits longest. `after` is `expires_at`
        and `checkpoint_number` of the last one of a page; `wanted`: owner (with `roles`),
        assistant_id, step, assignee."""
        at, number = after if after is not None else (None, None)
        rows = self._rows("waiting", after_at=at, after=number, limit=limit, **_inbox(wanted))
        return [UserCheckpoint.of(row) for row in rows]

    def closed(
        self, *, before: int | None = None, limit: int = 100, status: str | None = None,
        **wanted: Any,
    ) -> list[UserCheckpoint]:  # fmt: skip
        """Those that were decided, have expired or were closed otherwise, the newest first; before
        a `checkpoint_number`. `wanted` as for `waiting`."""
        given = _inbox(wanted)
        name = "closed_of" if given["owner"] is not None else "closed"
        name = "closed_assigned" if given["assignee"] is not None else name
        last = before if before is not None else _NEWEST
        rows = self._rows(name, before=last, limit=limit, status=status, **given)
        return [UserCheckpoint.of(row) for row in rows]

    def stats(
        self,
        *,
        owner: str | None = None,
        since_s: float = 30 * 86_400.0,
        thread_metadata: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """By assistant and step: how many were asked, with which outcomes, how long people took in
        seconds (median, 95th percentile), and which share was edited. Of threads whose metadata
        contain `thread_metadata`."""
        wanted = Jsonb(dict(thread_metadata), dumps=dumps) if thread_metadata else None
        rows = self._rows("stats", owner=owner, since_s=since_s, metadata=wanted)
        for row in rows:
            decided = sum(
                row[name] for name in ("approved", "edited", "rejected", "responded", "ignored")
            )
            row["share_edited"] = row["edited"] / decided if decided else None
        return rows

    def _rows(self, name: str, **arguments: Any) -> list[dict[str, Any]]:
        arguments["origin"] = acting_from.get() or self._node
        with (
            self._database.reading() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return cursor.execute(SQL[name], arguments).fetchall()


def _inbox(wanted: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: wanted.get(name) for name in ("owner", "assistant_id", "step", "assignee")}
    return {**given, "roles": list(wanted.get("roles") or ())}


def _missing(checkpoint_id: object) -> CheckpointNotFound:
    return CheckpointNotFound(
        f"There is no user checkpoint {checkpoint_id}.", remedy="list those that wait."
    )


def _ends(command: Mapping[str, Any]) -> bool:
    return command.get("goto") in (_END, [_END])


def _by_interrupt(
    resume: Any, rows: Sequence[UserCheckpoint], waiting: Sequence[UserCheckpoint]
) -> dict[str, Any]:
    """Answers by interrupt. Raises `CheckpointNotFound`, `CheckpointAnswered`,
    `DecisionRefused`."""
    known = {row.interrupt_id: row for row in rows}
    is_map = isinstance(resume, Mapping) and resume and all(_is_interrupt_id(key) for key in resume)
    if is_map:
        for id_ in resume:
            row = known.get(id_)
            if row is None:
                raise _missing(id_)
            if row.status != OPEN:
                raise CheckpointAnswered(
                    f"This was decided before: {row.status} by {row.resolved_by or 'nobody known'}.",
                    remedy="load the thread anew.",
                )
        return dict(resume)
    if len(waiting) == 1:
        return {waiting[0].interrupt_id: resume}
    if not waiting:
        raise CheckpointAnswered(
            "The thread waits for no answer.", remedy="load the thread anew; send input instead."
        )
    ids = ", ".join(row.interrupt_id for row in waiting)
    raise DecisionRefused(
        f"The thread asks {len(waiting)} questions, and the answer doesn't say which it is for.",
        remedy=f"send a map from interrupt id to answer: {ids}.",
    )


def _is_interrupt_id(key: Any) -> bool:
    return isinstance(key, str) and len(key) == 32 and all(c in "0123456789abcdef" for c in key)


def _answer(row: UserCheckpoint, decision: Decision) -> dict[str, Any]:
    return {
        "checkpoint_id": str(row.checkpoint_id), "outcome": decision.outcome,
        "resume": decision.resume, "edited": decision.edited, "notes": decision.notes,
        "diff": changes(row.offer, decision),
    }  # fmt: skip


def _like(last: Run | None, row: UserCheckpoint) -> NewRun:
    """The run that carries an answer: as the one that asked, without its input."""
    kwargs = dict(last.kwargs) if last is not None else {}
    for name in ("input", "command", "checkpoint", "checkpoint_id", "held"):
        kwargs.pop(name, None)
    new = NewRun(
        thread_id=row.thread_id, assistant_id=row.assistant_id, owner=row.owner, kwargs=kwargs
    )
    if last is None:
        return new
    return replace(
        new, graph_id=last.graph_id, metadata=last.metadata, max_attempts=last.max_attempts,
        timeout_s=last.timeout_s, priority=last.priority,
    )  # fmt: skip
