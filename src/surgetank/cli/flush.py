"""`surgetank flush`: drain the buffer now."""

from __future__ import annotations

from typing import Annotated

import typer

from surgetank.cli.output import (
    DatabaseUrl,
    Home,
    Json,
    echo_error,
    engine,
    exit_code,
    print_job,
    print_json,
)
from surgetank.exceptions import InvalidRequest, NotSaved
from surgetank.notify.report import to_plain_data


def flush(
    thread: Annotated[
        str | None, typer.Argument(help="Only this thread.", show_default=False)
    ] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    stream: Annotated[
        str | None, typer.Option(help="Only this stream; all by default.", show_default=False)
    ] = None,
    named: Annotated[
        str | None, typer.Option("--thread", help="The same as THREAD.", show_default=False)
    ] = None,
) -> int:
    """Flush what waits, also what is not due yet, and say what became of it.

    Exit code 0 when everything is in the database, 3 with warnings, 1 when the job failed, or when
    not all that was accepted of the THREAD is in the database. What failed stays in the buffer.
    """
    if thread is not None and named not in (None, thread):
        raise InvalidRequest("Two threads are named.", remedy="name one, with or without --thread.")
    thread = thread if thread is not None else named
    missing: NotSaved | None = None
    with engine(home, database_url, must_exist=True) as tank:
        if thread is not None:
            tank.threads.require(thread)
        job = tank.flush(stream, thread)
        if thread is not None and stream is None:
            try:
                tank.wait_saved(thread, timeout=0)
            except NotSaved as error:
                missing = error
    if json:
        shown = {"what": missing.what, "remedy": missing.remedy} if missing is not None else None
        print_json({**to_plain_data(job), "not_saved": shown} if thread is not None else job)
    else:
        print_job(job)
        if missing is not None:
            echo_error(missing)
    return 1 if missing is not None else exit_code(job)
