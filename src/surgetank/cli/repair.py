"""`surgetank repair`: what holds a thread that is stuck, and letting go of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from surgetank.cli.output import DatabaseUrl, Home, Json, engine, out, print_json
from surgetank.cli.runs import Actor


def repair(
    thread: Annotated[str, typer.Argument(help="The thread's id.")],
    actor: Actor,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it nothing is done.")] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Also give up what the thread asks people.")
    ] = False,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> int:
    """Show what holds a thread that is stuck, and let go of it with --yes.

    For example: `surgetank repair chat-7 --yes`. Exit code 1 when something holds it still.
    """
    with engine(home, database_url, must_exist=True) as tank:
        found = tank.threads.repair(thread, actor=actor, dry_run=not yes, forget=forget)
    if json:
        print_json(asdict(found))
    else:
        for finding in found.findings:
            out.print(f"{finding.kind}: {finding.what} {finding.remedy}")
        if not found.findings:
            out.print(f"Nothing holds the thread {thread}; its status is {found.status}.")
        elif found.done:
            out.print(f"Done; the status of the thread {thread} is {found.status}.")
        else:
            out.print("Nothing was done; run it again with --yes.")
    return 1 if found.findings and not found.done else 0
