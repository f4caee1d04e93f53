"""`surgetank audit`: who did what, and whether the audit is what it was."""

from __future__ import annotations

import json as jsonlib
import re
import sys
import time
from typing import Annotated

import typer

from surgetank.cli.output import (
    DatabaseUrl,
    Home,
    Json,
    coded,
    engine,
    out,
    print_json,
    span,
    table,
    when,
)
from surgetank.workflows.audit import AuditFilter, plain

app = typer.Typer(help="List, export and verify the audit.", no_args_is_help=True)
Since = Annotated[
    str | None, typer.Option("--since", help="Only the last 90s, 30m, 12h, 7d.", show_default=False)
]


@app.command("list")
@coded
def list_(
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    thread: Annotated[
        str | None, typer.Option(help="Only of this thread.", show_default=False)
    ] = None,
    actor: Annotated[
        str | None, typer.Option(help="Only what they did.", show_default=False)
    ] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
) -> None:
    """List who did what, newest first."""
    wanted = AuditFilter(
        thread=thread, actor=actor, since=time.time() - span(since) if since else None
    )
    with engine(home, database_url, must_exist=True) as tank:
        rows = tank.audit.list(wanted, limit=limit)
    if json:
        print_json([plain(row) for row in rows])
        return
    table(
        ("at", "actor", "origin", "action", "thread", "run"),
        [
            (
                when(row["at"].timestamp()),
                row["actor"] or "(erased)",
                row["origin"] or "",
                row["action"],
                row["thread_id"] or "",
                str(row["run_id"] or "")[:8],
            )
            for row in rows
        ],
    )


@app.command()
@coded
def export(home: Home = None, database_url: DatabaseUrl = None, since: Since = None) -> None:
    """Write the audit to stdout as JSON lines, oldest first."""
    with engine(home, database_url, must_exist=True) as tank:
        start = time.time() - span(since) if since else None
        for line in tank.audit.export(since=start):
            sys.stdout.buffer.write(_escaped(line).encode() + b"\n")
        sys.stdout.flush()


def _escaped(line: str) -> str:
    """The same JSON in ASCII: a terminal obeys nothing in it."""
    return re.sub(
        r"[^\x00-\x7e]",
        lambda found: jsonlib.dumps(found[0])[1:-1] if found[0] != "\x7f" else "\\u007f",
        line,
    )


@app.command()
@coded
def verify(
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    seal: Annotated[
        str | None,
        typer.Option(help="A seal of an earlier verification, NUMBER:HASH.", show_default=False),
    ] = None,
) -> int:
    """Look at every row of the audit: exit code 1 when one is not what it was."""
    with engine(home, database_url, must_exist=True) as tank:
        found = tank.audit.verify(seal=seal)
    if json:
        print_json(found.to_dict())
        return 0 if found.sound else 1
    since = f", from {when(found.since)} on" if found.since is not None else ""
    out.print(f"{found.rows} rows of {found.threads} threads{since}.")
    if found.seal is not None:
        out.print(f"The newest seal: {found.seal}:{found.seal_hash}")
    if found.broken is None:
        out.print("Sound.")
        return 0
    broken = found.broken
    where = f" (thread {broken.thread_id or broken.thread}, row {broken.nth})" if broken.nth else ""
    out.print(f"Broken: {broken.what}{where}.")
    return 1
