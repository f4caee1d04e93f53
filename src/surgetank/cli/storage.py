"""`surgetank storage`: who uses the space, how it grows, and what pruning would free."""

from __future__ import annotations

from typing import Annotated

import typer

from surgetank.app.rendering import size, stored_in
from surgetank.cli.output import (
    DatabaseUrl,
    Home,
    Json,
    engine,
    err,
    out,
    print_json,
    table,
    when,
)
from surgetank.streams.checkpoints.retention.storage import (
    NEWEST_FORMAT,
    StorageReport,
    ThreadUsage,
    Usage,
)

_NAMES = {
    "checkpoints": "checkpoints",
    "whole": "values, whole",
    "patches": "values, patches",
    "writes": "writes",
}


def storage(
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    thread: Annotated[
        str | None, typer.Option(help="Only this thread.", show_default=False)
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, help="How many threads and channels, largest first.")
    ] = 10,
    raise_format: Annotated[
        bool,
        typer.Option(
            "--raise-format",
            help="First let rows be written as only this version reads them (after an upgrade).",
        ),
    ] = False,
) -> int:
    """Show bytes by kind, channel and thread, how the largest threads grow, and what pruning would
    free.

    Threads are counted exactly; the totals of very large tables are estimated from a sample, which
    is then said. What pruning frees is always an estimate. Exit code 1 when the database can't be
    reached: then only the buffer is shown.
    """
    with engine(home, database_url, must_exist=True) as tank:
        if raise_format:
            tank.raise_storage_format()
        if thread is not None:
            tank.threads.require(thread)
        report = tank.storage(thread=thread, top=top)
    if json:
        print_json(report)
    else:
        show(report)
    return 1 if report.problem else 0


def show(report: StorageReport) -> None:
    """The report for a person."""
    hot = report.hot
    out.print(
        f"hot buffer  {hot.entries} entries, {size(hot.bytes)} wait; {stored_in(hot)}",
    )
    for name, entries, waiting in hot.threads:
        out.print(f"            {name}: {entries} entries, {size(waiting)}")
    if report.problem:
        err.print(f"database    not reachable: {report.problem}")
        if report.remedy:
            err.print(f"way out: {report.remedy}")
        return
    on_disk = sum(t.bytes for t in report.tables)
    out.print(f"database    {report.database}: {size(on_disk)} on disk with indexes and free space")
    if report.format is not None and report.format < NEWEST_FORMAT:
        out.print(
            f"            format {report.format}, which the version before reads, too; when none "
            f"of its processes runs "
            "any more: surgetank storage --raise-format",
        )
    if report.estimated:
        out.print(f"            by kind and channel: estimated from {report.share:.1%} of the rows")
    table(
        ("kind", "rows", "bytes", "decoded"),
        [(_NAMES[u.kind], u.rows, size(u.bytes), _decoded(u)) for u in report.kinds],
    )
    if report.channels:
        out.print()
        table(
            ("channel", "kind", "rows", "bytes", "decoded"),
            [
                (u.channel, _NAMES[u.kind], u.rows, size(u.bytes), _decoded(u))
                for u in report.channels
            ],
        )
    _show_threads(report.threads)
    for p in report.retention:
        state = "under way" if p.under_way else f"finished {when(p.finished_at)}"
        out.print(
            f"retention   pass of {when(p.started_at)} {state}: {p.checkpoints_deleted} "
            f"checkpoints of"
            f" {p.threads_pruned} threads deleted, {p.threads_seen} threads looked at",
        )


def _decoded(usage: Usage) -> str:
    return size(usage.raw_bytes) if usage.kind in ("whole", "patches") else ""


def _show_threads(threads: tuple[ThreadUsage, ...]) -> None:
    if not threads:
        return
    out.print()
    table(
        (
            "thread",
            "bytes",
            "hot",
            "checkpoints",
            "each",
            "first tenth",
            "last tenth",
            "in 7 days",
            "to latest frees",
        ),
        [
            (
                t.thread_id,
                size(t.bytes),
                size(t.hot_bytes),
                t.checkpoints,
                size(t.bytes_per_checkpoint),
                *(
                    (
                        size(t.growth[0].bytes_per_checkpoint),
                        size(t.growth[-1].bytes_per_checkpoint),
                    )
                    if t.growth
                    else ("", "")
                ),
                f"+{size(t.last_week_bytes)}" if t.last_week_bytes is not None else "",
                f"about {size(t.to_latest.freed_bytes)}" if t.to_latest else "",
            )
            for t in threads
        ],
    )
    latest = sum(t.to_latest.freed_bytes for t in threads if t.to_latest)
    out.print(
        f"Pruned to their latest checkpoints, these threads would free about {size(latest)} "
        f"(estimate)."
    )
    if any(t.to_limits for t in threads):
        limited = sum(t.to_limits.freed_bytes for t in threads if t.to_limits)
        out.print(f"By the limits in the settings, about {size(limited)} (estimate).")
