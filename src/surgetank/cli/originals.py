"""`surgetank originals`: what projections for SQL replaced, as it was (debug mode)."""

from __future__ import annotations

from typing import Annotated

import typer

from surgetank.cli.output import DatabaseUrl, Home, Json, engine, err, print_json, table, when


def originals(
    thread: Annotated[
        str | None, typer.Argument(help="Only this thread.", show_default=False)
    ] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 100,
) -> None:
    """Show values as they were before a projection for SQL replaced them (NaN, NUL and the like).

    They are kept only in debug mode (SURGETANK_DEBUG_ORIGINALS=true) and expire. The saved state
    keeps every value as it is, with or without debug mode.
    """
    with engine(home, database_url, start_database=False, must_exist=True) as tank:
        if thread is not None:
            tank.threads.require(thread)
        found = tank.events.originals(thread_id=thread, limit=limit)
        debugging = tank.settings.debug_originals
    if json:
        print_json(found)
        return
    table(
        ("when", "stream", "thread", "path", "reason", "original"),
        [(when(o.at), o.stream, o.partition, o.path, o.reason, o.original) for o in found],
    )
    if not found and not debugging:
        err.print(
            "Nothing is kept: debug mode is off (SURGETANK_DEBUG_ORIGINALS=true turns it on)."
        )
