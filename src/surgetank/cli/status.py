"""`surgetank status`: how full, how far behind, what fails, and what to do."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from surgetank.app.rendering import size, stored_in
from surgetank.cli.output import (
    DatabaseUrl,
    Home,
    Json,
    engine,
    out,
    print_json,
    seconds,
    table,
    when,
)
from surgetank.notify.health import Level
from surgetank.notify.report import Status


def status(
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every two seconds until Ctrl-C.")
    ] = False,
) -> int:
    """Show buffer depth, lag, sinks with their breakers, failing threads, parked entries and the
    last jobs.

    Exit code 0 when all is well, 1 when something needs attention (a database that can't be
    reached, something that fails or is parked), 2 for a home that doesn't exist. An embedded
    database that doesn't run is not started.
    """
    with engine(home, database_url, start_database=False, must_exist=True) as tank:
        while True:
            picture = tank.status(ping=True)
            if watch and not json:
                out.clear()
            if json:
                print_json(picture.to_dict(), one_line=watch)
            else:
                show(picture)
            if not watch:
                return picture.health.exit_code
            time.sleep(2)


def show(picture: Status) -> None:
    """The status for a person."""
    buffer = picture.buffer
    out.print(f"buffer    {picture.buffer_path} (durability: {picture.durability})")
    out.print(
        f"          {buffer.entries} entries, {size(buffer.bytes)} of {size(buffer.max_bytes)} "
        f"wait;"
        f" lag {seconds(picture.lag_s)}; {stored_in(buffer)}",
    )
    for stream in buffer.streams:
        out.print(
            f"          {stream.stream}: {stream.entries} entries in {stream.partitions} threads, "
            f"oldest"
            f" {when(stream.oldest_at)}, {stream.failing} failing, {stream.parked} parked",
        )
    for sink in picture.sinks:
        state = sink.version if sink.reachable else f"not reachable: {sink.last_error}"
        # A closed breaker beside it would say that all is well: nothing was flushed since.
        known = sink.reachable or sink.breaker != "closed"
        breaker = f"; breaker {sink.breaker}" if known else ""
        out.print(f"sink      {sink.stream} -> {sink.address}: {state}{breaker}")
    if (fallback := picture.fallback) is not None:
        state = {True: "usable", False: f"not usable: {fallback.error}", None: "not used yet"}[
            fallback.reachable
        ]
        out.print(
            f"fallback  {', '.join(fallback.addresses)}: {state}; {fallback.entries} entries in "
            f"{fallback.files} files,"
            f" {size(fallback.bytes)}",
        )
    out.print(f"health    {picture.health.level.value}")
    for finding in picture.health.findings:
        if finding.level is not Level.OK and finding.part != "saving":
            out.print(f"{finding.level.value:9} {finding.part}: {finding.detail}")
    for notice in picture.notices:
        out.print(f"{notice.severity:9} {notice.message}")
        if notice.detail:
            out.print(f"          ({notice.detail})")
    for problem in picture.problems:
        out.print(f"problem   {problem}")
    if picture.jobs:
        out.print("last jobs")
        table(
            ("  id", "trigger", "status", "finished", "rows", "failed", "parked"),
            [
                (
                    f"  {j.id[:12]}",
                    j.trigger,
                    "warnings" if j.warnings else j.status.value,
                    when(j.finished_at),
                    j.result.rows_flushed,
                    j.result.partitions_failed,
                    j.result.entries_parked,
                )
                for j in picture.jobs
            ],
        )
