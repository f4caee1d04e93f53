"""`surgetank export-user`: all data of a user as one archive."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from surgetank.app.rendering import size
from surgetank.cli.output import DatabaseUrl, Home, Json, engine, err, out, print_json

_LINE_EVERY_S = 2.0


def export_user(
    user: Annotated[str, typer.Argument(help="The user, as threads and tokens name it.")],
    target: Annotated[Path, typer.Option("--to", help="The archive (ZIP).")],
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> int:
    """Export all data of a user as one archive: what erase-user removes.

    Threads with checkpoints, logs, runs, approvals, store items and errors as lines of JSON, rows of
    tables as Parquet, and a manifest with counts and digests. What waits is flushed first. Exit code
    3 when that failed, so that something is missing.
    """
    with engine(home, database_url) as tank:
        done = tank.transfers.export_user(user, target, replace=force, progress=_progress())
    if json:
        print_json(done.to_dict())
    else:
        out.print(f"{done.threads} threads, {done.rows} rows -> {done.path}")
        for member in done.members:
            out.print(f"  {member.name}: {member.rows}, {size(member.bytes)}")
        for what in done.not_included:
            out.print(f"not included: {what}")
    return 0 if done.flushed else 3


def _progress() -> Callable[[str, int], None]:
    """Says on stderr how far it is."""
    terminal = sys.stderr.isatty()
    last = time.monotonic()

    def tell(member: str, rows: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= (0.1 if terminal else _LINE_EVERY_S):
            last = now
            err.print(f"{member}: {rows}", end="\r" if terminal else "\n")

    return tell
