"""`surgetank flush`: drain the buffer now."""

from __future__ import annotations

from typing import Annotated

import typer

from surgetank.cli.output import DatabaseUrl, Home, Json, engine, exit_code, print_job, print_json


def flush(
    thread: Annotated[str | None, typer.Argument(help="Only this thread.", show_default=False)] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    stream: Annotated[str, typer.Option(help="Which stream.")] = "checkpoints",
) -> int:
    """Flush what waits, also what is not due yet, and say what became of it.

    Exit code 0 when everything is in the database, 3 with warnings, 1 when the job failed. What failed stays in
    the buffer.
    """
    with engine(home, database_url) as tank:
        job = tank.flush(stream, thread)
    if json:
        print_json(job)
    else:
        print_job(job)
    return exit_code(job)
