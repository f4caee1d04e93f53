"""`surgetank runs` and `surgetank cancel`: which runs there are, and ending one for good."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import typer

from surgetank.app.surgetank import Surgetank
from surgetank.cli.output import (
    DatabaseUrl,
    Home,
    Json,
    engine,
    out,
    print_json,
    table,
    this_user,
    when,
)
from surgetank.cli.output import coded as _coded
from surgetank.exceptions import InvalidRequest, RunNotFound
from surgetank.workflows.runs import CancelAction, Run
from surgetank.workflows.status import Status

app = typer.Typer(help="List and show runs of graphs.", no_args_is_help=True)
RunId = Annotated[str, typer.Argument(help="The run's id; of one that is not over its beginning.")]
Actor = Annotated[
    str,
    typer.Option("--actor", help="Who does it.", default_factory=this_user, show_default="you"),
]


@app.command("list")
@_coded
def list_(
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    thread: Annotated[
        str | None, typer.Option(help="All runs of this thread, newest first.", show_default=False)
    ] = None,
    status: Annotated[Status | None, typer.Option(help="Only those.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
) -> None:
    """List runs that are not over, the oldest first; with --thread all runs of a thread.

    For example: `surgetank runs list --thread chat-7 --status failed`
    """
    if thread is None and status not in (None, Status.PENDING, Status.RUNNING):
        raise InvalidRequest(
            f"Without a thread only runs that are not over are listed, and no {status} ones.",
            remedy="name one with --thread.",
        )
    with engine(home, database_url, must_exist=True) as tank:
        if thread is not None:
            statuses = None if status is None else [status]
            found = tank.runs.of_thread(thread, statuses=statuses, limit=limit)
        else:
            all_ = tank.runs.unfinished(limit=1000)
            found = [run for run in all_ if status in (None, run.status)][:limit]
    if json:
        print_json([plain(run) for run in found])
        return
    table(
        ("run", "thread", "graph", "status", "attempts", "created", "error"),
        [
            (r.run_id, r.thread_id, r.graph, r.status.value, r.attempts,
             when(r.created_at.timestamp()), (r.error or "")[:80])
            for r in found
        ],
    )  # fmt: skip


@app.command()
@_coded
def show(
    run_id: RunId, home: Home = None, database_url: DatabaseUrl = None, json: Json = False
) -> None:
    """Show one run and what was done with its workflow, by whom."""
    with engine(home, database_url, must_exist=True) as tank:
        run = tank.runs.get(full_id(tank, run_id))
        audit = tank.runs.audit(run.workflow_id)
    if json:
        print_json({**plain(run), "audit": [_texts(row) for row in audit]})
        return
    for name, value in plain(run).items():
        if value not in (None, {}, []):
            out.print(f"{name:<20}{value}")
    for row in audit:
        out.print(f"  {when(row['at'].timestamp())}  {row['actor']}: {row['action']}")


def cancel(
    run_id: RunId,
    actor: Actor,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Also delete the run and the steps it made.")
    ] = False,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """End a run. The request is stored: a worker that is away obeys it when it is back.

    For example: `surgetank cancel 0b61c1e2 --rollback`
    """
    action = CancelAction.ROLLBACK if rollback else CancelAction.INTERRUPT
    with engine(home, database_url, must_exist=True) as tank:
        found = full_id(tank, run_id)
        ended = tank.runs.cancel(found, actor=actor, action=action)
    if json:
        print_json({"run_id": str(found), "ended": ended})
        return
    out.print(f"run {found} " + ("is cancelled" if ended else "is asked to end by its worker"))


def full_id(tank: Surgetank, beginning: str) -> uuid.UUID:
    """The id that begins so, of a run that is not over, or an id. Raises `RunNotFound`."""
    try:
        return uuid.UUID(beginning)
    except ValueError:
        alike = [r.run_id for r in tank.runs.unfinished() if str(r.run_id).startswith(beginning)]
    if len(alike) != 1 or not beginning:
        raise RunNotFound(
            f"{len(alike)} runs that are not over begin with {beginning!r}.",
            remedy="give the whole id; `surgetank runs list` shows it.",
        )
    return alike[0]


def plain(run: Run) -> dict[str, Any]:
    """A run for people and scripts."""
    names = (
        "run_id", "workflow_id", "thread_id", "graph", "assistant_id", "status", "error",
        "multitask_strategy", "attempts", "max_attempts", "worker", "timed_out", "owner",
        "metadata", "created_at", "started_at", "ended_at",
    )  # fmt: skip
    return _texts({name: getattr(run, name) for name in names})


def _texts(row: dict[str, Any]) -> dict[str, Any]:
    kept = (bool, int, float, str, dict, list)
    return {k: v if v is None or isinstance(v, kept) else str(v) for k, v in row.items()}
