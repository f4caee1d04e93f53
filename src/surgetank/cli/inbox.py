"""`surgetank inbox`, `approve`, `reject`, `edit`, `respond`, `ignore`: what graphs ask people, answered in the
terminal. Answers take the same way as those of every other client."""

from __future__ import annotations

import difflib
import json as jsonlib
import uuid
from typing import Annotated, Any

import click
import typer

from surgetank.app.surgetank import Surgetank
from surgetank.cli.output import DatabaseUrl, Home, Json, engine, err, out, print_json, when
from surgetank.cli.runs import Actor
from surgetank.exceptions import CheckpointNotFound, DecisionRefused, InvalidRequest
from surgetank.workflows.approvals.rows import OPEN, UserCheckpoint

CheckpointId = Annotated[str, typer.Argument(help="The question's id, or the beginning of it.")]
Notes = Annotated[str | None, typer.Option("--notes", help="Why.", show_default=False)]


def inbox(
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    thread: Annotated[
        str | None, typer.Option(help="Only of this thread.", show_default=False)
    ] = None,
    assignee: Annotated[
        str | None, typer.Option(help="Only what this user shall answer.", show_default=False)
    ] = None,
    role: Annotated[
        str | None, typer.Option(help="Only what this role shall answer.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, the oldest first.")] = 20,
) -> None:
    """List what graphs ask people and nobody has answered.

    Answer with `surgetank approve`, `reject`, `edit`, `respond` or `ignore` and the beginning of
    the id.
    """
    with engine(home, database_url, must_exist=True) as tank:
        found = tank.approvals(
            status=OPEN, thread_id=thread, assignee=assignee, role=role, limit=limit
        )
    if json:
        print_json([plain(row) for row in found])
        return
    if not found:
        out.print("Nobody is asked anything.")
    for row in found:
        show(row)


def approve(
    checkpoint_id: CheckpointId,
    actor: Actor,
    notes: Notes = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Approve what a graph asks; the graph goes on.

    For example: `surgetank approve 0b61c1e2 --notes "checked the address"`
    """
    with engine(home, database_url, must_exist=True) as tank:
        answer(tank, find(tank, checkpoint_id), "approve", actor, json, notes=notes)


def reject(
    checkpoint_id: CheckpointId,
    actor: Actor,
    notes: Annotated[str, typer.Option("--notes", help="Why: the graph is told.")],
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Reject what a graph asks; it is told why.

    For example: `surgetank reject 0b61c1e2 --notes "wrong customer"`
    """
    with engine(home, database_url, must_exist=True) as tank:
        answer(tank, find(tank, checkpoint_id), "reject", actor, json, notes=notes)


def respond(
    checkpoint_id: CheckpointId,
    text: Annotated[str, typer.Argument(help="The answer.")],
    actor: Actor,
    notes: Notes = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Answer what a graph asks with a text.

    For example: `surgetank respond 0b61c1e2 "use the other address"`
    """
    with engine(home, database_url, must_exist=True) as tank:
        row = find(tank, checkpoint_id)
        answer(tank, row, "respond", actor, json, notes=notes, response=text)


def ignore(
    checkpoint_id: CheckpointId,
    actor: Actor,
    notes: Notes = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Ignore what a graph asks, where it allows that; the graph goes on without an answer.

    For example: `surgetank ignore 0b61c1e2 --notes "a duplicate"`
    """
    with engine(home, database_url, must_exist=True) as tank:
        answer(tank, find(tank, checkpoint_id), "ignore", actor, json, notes=notes)


def edit(
    checkpoint_id: CheckpointId,
    actor: Actor,
    notes: Notes = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask before it is sent.")] = False,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> int:
    """Change what a graph offers in $EDITOR, look at the difference, and send it.

    For example: `EDITOR=nano surgetank edit 0b61c1e2`. Exit code 1 when nothing was changed or sent.
    """
    with engine(home, database_url, must_exist=True) as tank:
        row = find(tank, checkpoint_id)
        if "edit" not in row.offer.allowed:
            raise DecisionRefused(
                f"The question {row.checkpoint_id} can't be edited.",
                remedy=f"decide one of {', '.join(row.offer.allowed)}.",
            )
        changed = edited(row.editable_content)
        if changed is None:
            if json:
                print_json({"checkpoint_id": str(row.checkpoint_id), "status": row.status})
            else:
                out.print("Nothing was changed, so nothing is sent.")
            return 1
        if not json:
            out.block(difference(row.editable_content, changed))
        if not yes and not _confirmed():
            err.print("Nothing is sent.")
            return 1
        answer(tank, row, "edit", actor, json, notes=notes, edited=changed)
    return 0


def _confirmed() -> bool:
    try:
        return typer.confirm("Send it?", err=True)
    except typer.Abort:  # Ctrl-C, or nobody is there
        return False


def find(tank: Surgetank, beginning: str) -> UserCheckpoint:
    """The question whose id begins so. Raises `CheckpointNotFound`."""
    try:
        return tank.approvals.get(uuid.UUID(beginning))
    except ValueError:
        rows = tank.approvals(status=OPEN, limit=1000)
    alike = [row for row in rows if beginning and str(row.checkpoint_id).startswith(beginning)]
    if len(alike) != 1:
        raise CheckpointNotFound(
            f"{len(alike)} open questions begin with {beginning!r}.",
            remedy="`surgetank inbox` lists them.",
        )
    return alike[0]


def answer(
    tank: Surgetank, row: UserCheckpoint, action: str, actor: str, json: bool, **more: Any
) -> None:
    """Decide, and say what became of it."""
    after, run = tank.approvals.resolve(row.checkpoint_id, action, actor=actor, **more)
    if json:
        print_json({**plain(after), "goes_on_as": str(run.run_id) if run else None})
    elif run is not None:
        out.print(f"{after.status}; the graph goes on as run {run.run_id}")
    elif after.status == OPEN:
        out.print(f"noted; {after.approvals_needed} people must agree")
    else:
        out.print(
            f"{after.status}; the graph goes on when the thread's other questions are answered"
        )


def edited(content: Any) -> Any:
    """What a person made of it in $EDITOR; None when nothing was changed. Raises
    `InvalidRequest`."""
    try:
        text = click.edit(_text(content) + "\n", extension=".json")
    except click.ClickException as error:
        raise InvalidRequest(
            f"The editor could not be used: {error.message}", remedy="set EDITOR to one."
        ) from error
    if text is None:
        return None
    try:
        value = jsonlib.loads(text)
    except ValueError as error:
        raise InvalidRequest(
            f"What was written is no JSON: {error}", remedy="edit it again; nothing was sent."
        ) from None
    return None if value == content else value


def difference(before: Any, after: Any) -> str:
    """Lines that were taken away and added."""
    lines = difflib.unified_diff(
        _text(before).splitlines(), _text(after).splitlines(), "offered", "edited", lineterm=""
    )
    return "\n".join(lines)


def show(row: UserCheckpoint) -> None:
    """One question for a person."""
    step = f", step {row.step_name}" if row.step_name else ""
    asked = when(row.created_at.timestamp())
    shall = row.assignee or row.assigned_role
    whom = f", for {shall}" if shall else ""
    out.print(
        f"{row.checkpoint_id}  thread {row.thread_id}{step}  ({row.kind}), asked {asked}{whom}"
    )
    if row.instructions:
        out.print(f"  {row.instructions}")
    content = row.actions or row.agent_outputs
    out.block("\n".join(f"    {line}" for line in _text(content).splitlines()[:40]))
    out.print(f"  may be decided: {', '.join(row.offer.allowed)}")


def plain(row: UserCheckpoint) -> dict[str, Any]:
    """A question for scripts."""
    names = (
        "checkpoint_id", "checkpoint_number", "thread_id", "workflow_id", "run_id", "step_name",
        "kind", "status", "instructions", "agent_outputs", "actions", "editable_content",
        "assignee", "assigned_role", "user_edited_content", "user_notes", "resolved_by",
        "created_at", "expires_at", "resolved_at",
    )  # fmt: skip
    texts = ("checkpoint_id", "workflow_id", "run_id", "created_at", "expires_at", "resolved_at")
    shown = {name: getattr(row, name) for name in names}
    shown |= {name: str(shown[name]) for name in texts if shown[name] is not None}
    return {**shown, "allowed": list(row.offer.allowed)}


def _text(value: Any) -> str:
    return jsonlib.dumps(value, indent=2, ensure_ascii=False, sort_keys=False)
