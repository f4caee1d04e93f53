"""Repair of a thread that is stuck: what holds it, and letting go of it. For operators.

What is recorded of a thread is compared with what its newest checkpoint asks. All is done while the
thread's row is locked, so that no run begins meanwhile; done twice it does nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from surgetank.acting import acting_from
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode.jsontext import dumps
from surgetank.exceptions import ThreadBusy
from surgetank.workflows.approvals.offers import offer_of
from surgetank.workflows.threads import not_there

if TYPE_CHECKING:
    from langgraph.checkpoint.base import CheckpointTuple

    from surgetank.streams.checkpoints.saver import SurgetankSaver

SQL = queries("workflows/repair.sql")
_ASKS, _ANSWERS = "__interrupt__", "__resume__"
_REPAIRED = "repaired_run"  # in the metadata of a state that is clean of what this run had left


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that holds a thread: what it is, and what is done about it."""

    kind: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Repair:
    """What holds a thread, and whether it was let go."""

    thread_id: str
    status: str
    findings: tuple[Finding, ...]
    done: bool


@dataclass(frozen=True, slots=True)
class _Known:
    """What is recorded of a thread, and what its state asks."""

    thread: Mapping[str, Any]
    unfinished: Sequence[Mapping[str, Any]]
    newest: Mapping[str, Any] | None
    open: frozenset[str]
    held: frozenset[str]
    waiting: bool
    tip: CheckpointTuple | None
    asked: Mapping[str, Mapping[str, Any]]

    @property
    def alive(self) -> bool:
        """Whether a run is not over and can go on by itself."""
        return any(not run["silent"] for run in self.unfinished)

    @property
    def refused(self) -> bool:
        """Whether the newest run failed, and an answer is in the state, which it brought or tried
        again; or was, and the repair was cut off before that was recorded."""
        if self.tip is None or self.newest is None or self.newest["status"] != "failed":
            return False
        cleaned = self.tip.metadata.get(_REPAIRED) == str(self.newest["run_id"])
        if cleaned and self.thread["status"] == "error":
            return True
        found = {name for _, name, _ in self.tip.pending_writes or ()}
        brought = "resume" in (self.newest["kwargs"].get("command") or {})
        return _ANSWERS in found or (brought and _ASKS in found)


class ThreadRepair:
    """Everything raises `DatabaseUnavailable`, `ColdStateUnavailable`, `MissingExtra`."""

    def __init__(self, database: Database, saver: Callable[[], SurgetankSaver]) -> None:
        self._database = database
        self._saver = saver

    def __call__(
        self, thread_id: str, *, actor: str, dry_run: bool = True, forget: bool = False
    ) -> Repair:
        """What holds a thread; without `dry_run` it is let go of. `forget`: what it asks is given
        up too, with what its unfinished step has done, though nothing is wrong with it.

        Raises `ThreadNotFound`, and `ThreadBusy` for `forget` while a run is under way.
        """
        saver = self._saver()
        with self._database.asking() as connection:
            known = self._read(connection, saver, thread_id)
            if forget and known.alive:
                raise ThreadBusy(
                    f"The thread {thread_id!r} has a run that is not over.",
                    remedy="cancel the run, and repair the thread when it has ended.",
                )
            findings = _findings(known, forget=forget)
            if findings and not dry_run:
                self._act(connection, saver, known, {f.kind for f in findings}, actor=actor)
                known = self._read(connection, saver, thread_id)
            status = known.thread["status"]
        return Repair(thread_id, status, findings, done=bool(findings) and not dry_run)

    def _read(self, connection: Connection[Any], saver: SurgetankSaver, thread_id: str) -> _Known:
        named = {"thread_id": thread_id}
        with connection.cursor(row_factory=dict_row) as cursor:
            thread = cursor.execute(SQL["lock"], named).fetchone()
            if thread is None:
                raise not_there(thread_id)
            found = {
                name: cursor.execute(SQL[name], named).fetchall()
                for name in ("unfinished", "newest", "open", "held", "waiting")
            }
        tip = saver.get_tuple({"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}})
        return _Known(
            thread=thread,
            unfinished=found["unfinished"],
            newest=found["newest"][0] if found["newest"] else None,
            open=frozenset(row["interrupt_id"] for row in found["open"]),
            held=frozenset(row["interrupt_id"] for row in found["held"]),
            waiting=bool(found["waiting"]),
            tip=tip,
            asked=_asked(tip, thread["interrupts"]),
        )

    def _act(
        self, connection: Connection[Any], saver: SurgetankSaver, known: _Known, kinds: set[str],
        *, actor: str,
    ) -> None:  # fmt: skip
        thread_id = known.thread["thread_id"]
        named: dict[str, Any] = {
            "thread_id": thread_id, "actor": actor, "origin": acting_from.get(),
        }  # fmt: skip
        for run in known.unfinished:
            if run["silent"]:
                connection.execute(SQL["end_silent"], {**named, **_end_of(run)})
        if "worker_silent" not in kinds:  # else its end has set the thread right
            _let_go(connection, saver, known, kinds, named)
        connection.execute(SQL["note"], {**named, "detail": Jsonb({"found": sorted(kinds)})})


def _let_go(
    connection: Connection[Any], saver: SurgetankSaver, known: _Known, kinds: set[str],
    named: Mapping[str, Any],
) -> None:  # fmt: skip
    asked = dict(known.asked)
    if kinds & {"answer_refused", "forgotten"}:
        asked = {}
        if (
            known.tip is not None and known.tip.pending_writes
        ):  # else it was, by one that was cut off
            _write_clean(saver, known.tip, known.newest)
    over = not known.unfinished  # what a run asks is recorded when it ends
    if over:
        connection.execute(SQL["close_some"], {**named, "but": list(asked)})
        if "question_lost" in kinds and known.newest is not None:
            offers = [
                {**each, "offer": offer_of(each["value"], each.get("response_schema")).stored()}
                for each in asked.values()
            ]
            again = {"asked": Jsonb(offers, dumps=dumps), "run_id": known.newest["run_id"]}
            connection.execute(SQL["open_again"], {**named, **again})
        if kinds & {"nothing_asked", "forgotten"}:
            connection.execute(SQL["end_waiting"], named)
    failed = known.thread["status"] == "error" and not kinds & {"answer_refused", "forgotten"}
    interrupts = list(asked.values()) if over else known.thread["interrupts"]
    rest = {"interrupts": Jsonb(interrupts, dumps=dumps), "failed": failed}
    connection.execute(SQL["rest"], {**named, **rest})


def _findings(known: _Known, *, forget: bool) -> tuple[Finding, ...]:
    """What holds a thread. Pure."""
    found = [
        Finding(
            "worker_silent",
            f"The worker of run {run['run_id']} went silent.",
            "The run is given to another worker while it has attempts left, else it fails.",
        )
        for run in known.unfinished
        if run["silent"]
    ]
    thread, asked = known.thread, known.asked
    running = {run["run_id"] for run in known.unfinished if run["status"] == "running"}
    if thread["running_run"] is not None and thread["running_run"] not in running:
        found.append(
            Finding("run_lost", f"It waits for run {thread['running_run']}, which does not run.",
                    "The thread takes runs again.")
        )  # fmt: skip
    if known.unfinished:
        return tuple(found)
    if thread["status"] == "busy":
        found.append(
            Finding("not_busy", "It is called busy, and has no run that is not over.",
                    "Its status is what its runs and workflows say.")
        )  # fmt: skip
    if forget:
        if known.open or known.waiting or asked:
            found.append(
                Finding("forgotten", "It asks people, and that shall be given up.",
                        "Its questions are closed, its workflow is cancelled, and its state keeps "
                        "nothing of its unfinished step; the next run begins that step again.")
            )  # fmt: skip
        return tuple(found)
    if known.refused:
        found.append(
            Finding("answer_refused", "A run failed with an answer that is part of the state.",
                    "The state keeps nothing of that step: the next run begins it again, and "
                    "asks again.")
        )  # fmt: skip
        return tuple(found)
    ghosts = known.open - set(asked)
    if ghosts:
        found.append(
            Finding("question_not_asked", f"{len(ghosts)} open questions are not asked by its state.",
                    "They are closed.")
        )  # fmt: skip
        if known.waiting and not asked:
            found.append(
                Finding("nothing_asked", "Its workflow waits for an answer to nothing.",
                        "The workflow is cancelled.")
            )  # fmt: skip
    lost = set(asked) - known.open - known.held
    if known.waiting and known.newest is not None and lost:
        found.append(
            Finding("question_lost", f"Its state asks {len(lost)} questions that nobody can answer.",
                    "They are asked again, in the inbox.")
        )  # fmt: skip
    return tuple(found)


def _asked(
    tip: CheckpointTuple | None, recorded: Sequence[Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """What a state asks, by interrupt: of tasks that have done nothing else."""
    known = {str(each.get("id")): each for each in recorded}
    writes = list(tip.pending_writes or ()) if tip is not None else []
    ended = {task for task, name, _ in writes if name not in (_ASKS, _ANSWERS, "__error__")}
    asked: dict[str, Mapping[str, Any]] = {}
    for task, name, value in writes:
        if name != _ASKS or task in ended:
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            id_ = str(getattr(each, "id", ""))
            row = {"id": id_, "value": getattr(each, "value", None), "task_id": task, "node": None}
            asked[id_] = known.get(id_) or row
    return asked


def _end_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """How a run ends whose worker went silent."""
    left = run["attempts"] < run["max_attempts"]
    ended = "pending" if left else "failed"
    if run["cancel_action"] is not None:
        ended = "pending" if run["cancel_action"] == "rollback" else "cancelled"
    error = f"The worker {run['worker']} went silent at attempt {run['attempts']}."
    return {
        "run_id": run["run_id"], "fence": run["fence"], "ended": ended,
        "error": error if ended == "failed" else None,
    }  # fmt: skip


def _write_clean(
    saver: SurgetankSaver, tip: CheckpointTuple, newest: Mapping[str, Any] | None
) -> None:
    """The newest state once more, without what its unfinished step wrote."""
    from langgraph.checkpoint.base import copy_checkpoint  # noqa: PLC0415 - needs the extra
    from langgraph.checkpoint.base.id import uuid6  # noqa: PLC0415

    step = int(tip.metadata.get("step", 0)) + 1
    checkpoint = copy_checkpoint(tip.checkpoint)
    checkpoint["id"] = str(uuid6(clock_seq=step))
    checkpoint["ts"] = datetime.now(UTC).isoformat()
    metadata: Any = {k: v for k, v in tip.metadata.items() if k not in ("run_id", "writes")}
    metadata |= {"source": "update", "step": step}
    if newest is not None:
        metadata[_REPAIRED] = str(newest["run_id"])
    saver.put(tip.config, checkpoint, metadata, {})
