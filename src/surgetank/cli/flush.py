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
    err,
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
    matching: Annotated[
        str | None,
        typer.Option(help="Only threads and tables with this in their name.", show_default=False),
    ] = None,
    failing: Annotated[
        bool, typer.Option("--failing", help="Only what failed the last time.")
    ] = False,
) -> int:
    """Flush what waits, also what is not due yet, and say what became of it.

    With --matching or --failing a part of it, at most 1,000 threads and tables, those that wait
    longest: a job for each stream.

    Exit code 0 when everything is in the database, 3 with warnings, 1 when the job failed, or when
    not all that was accepted of the THREAD is in the database. What failed stays in the buffer.
    """
    if thread is not None and named not in (None, thread):
        raise InvalidRequest("Two threads are named.", remedy="name one, with or without --thread.")
    thread = thread if thread is not None else named
    if matching is not None or failing:
        if thread is not None:
            raise InvalidRequest(
                "A thread is named, and a filter.", remedy="leave out the one or the other."
            )
        return _flush_matching(home, database_url, stream, matching or "", failing, json)
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


def _flush_matching(
    home: Home, database_url: DatabaseUrl, stream: str | None, text: str, failing: bool, json: bool
) -> int:
    with engine(home, database_url, must_exist=True) as tank:
        jobs = tank.jobs.flush_matching(stream=stream, text=text, failing=failing)
    if json:
        print_json(jobs)
    elif not jobs:
        err.print("nothing of the kind waits")
    for job in jobs if not json else ():
        print_job(job)
    codes = {exit_code(job) for job in jobs}
    return 1 if 1 in codes else max(codes, default=0)
