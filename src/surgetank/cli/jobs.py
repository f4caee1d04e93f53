"""`surgetank jobs`: what the flushes did."""

from __future__ import annotations

from typing import Annotated

import typer

from surgetank.cli.output import (
    DatabaseUrl,
    Home,
    Json,
    coded,
    engine,
    exit_code,
    out,
    print_job,
    print_json,
    table,
    when,
)
from surgetank.model import JobStatus

app = typer.Typer(help="List, show and retry flush jobs.", no_args_is_help=True)
JobId = Annotated[str, typer.Argument(help="The job's id, or the beginning of it.")]


@app.command("list")
@coded
def list_(
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    status: Annotated[
        JobStatus | None, typer.Option(help="Only those.", show_default=False)
    ] = None,
) -> None:
    """List flush jobs, newest first."""
    with engine(home, database_url, start_database=False, must_exist=True) as tank:
        jobs = tank.jobs(limit=limit, status=status.value if status else None)
    if json:
        print_json(jobs)
        return
    table(
        (
            "id",
            "stream",
            "trigger",
            "status",
            "finished",
            "entries",
            "rows",
            "failed",
            "parked",
            "replaced",
        ),
        [
            (
                j.id[:12],
                j.stream,
                j.trigger,
                "warnings" if j.warnings else j.status.value,
                when(j.finished_at),
                j.result.entries_flushed,
                j.result.rows_flushed,
                j.result.partitions_failed,
                j.result.entries_parked,
                j.result.values_replaced,
            )
            for j in jobs
        ],
    )


@app.command()
@coded
def show(
    job_id: JobId, home: Home = None, database_url: DatabaseUrl = None, json: Json = False
) -> None:
    """Show one job with its errors, stack traces and what was replaced in projections."""
    with engine(home, database_url, start_database=False, must_exist=True) as tank:
        job = tank.jobs.get(job_id)
    if json:
        print_json(job)
        return
    print_job(job)
    for replaced in job.result.replacements or ():
        out.print(f"  replaced {replaced['path']}: {replaced['reason']} ({replaced['original']})")
    for error in job.result.errors or ():
        out.print()
        out.print(
            f"{error['stream']}/{error['partition']} ({error['kind']}, SQLSTATE "
            f"{error['sqlstate']})"
        )
        out.block(error["stack_trace"])


@app.command()
@coded
def retry(
    job_id: JobId,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    failed_only: Annotated[
        bool, typer.Option("--failed-only", help="Only the threads and tables that failed in it.")
    ] = False,
) -> int:
    """Flush again what a job was about, without waiting for the next attempt."""
    with engine(home, database_url, must_exist=True) as tank:
        job = tank.jobs.retry(job_id, failed_only=failed_only)
    if json:
        print_json(job)
    else:
        print_job(job)
    return exit_code(job)
