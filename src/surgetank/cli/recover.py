"""`surgetank recover`: what was spilled to the fallback location comes back and is flushed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import typer

from surgetank.app.rendering import size
from surgetank.buffer.spilling import Recovered
from surgetank.cli.output import (
    DatabaseUrl,
    Home,
    Json,
    engine,
    err,
    exit_code,
    out,
    print_job,
    print_json,
    table,
    when,
)
from surgetank.model import FlushJob
from surgetank.notify.report import to_plain_data
from surgetank.spilling.recovery import FileReport, FileState

_MEANING = {
    FileState.REFERRED: "in use by this buffer; a flush empties it",
    FileState.WRITING: "being written",
    FileState.DRAINED: "flushed; is deleted",
    FileState.UNKNOWN: "to be recovered",
    FileState.COPY: "a copy of a file that can't be read in its place; is read from here",
    FileState.FOREIGN: "of another buffer, which may live (if it is lost: --lost)",
    FileState.DAMAGED: "damaged; left as it is",
    FileState.RECOVERED: "recovered",
}


def recover(
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Folder or fsspec URL; default SURGETANK_FALLBACK_URL.",
            show_default=False,
        ),
    ] = None,
    lost: Annotated[
        list[str] | None,
        typer.Option(
            "--lost",
            help="Id of a buffer that is gone for good, whose files are recovered into this one; "
            "or 'all'. Only when no"
            " process uses that buffer any more.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look, verify and say.")] = False,
) -> int:
    """Recover spilled entries: take over the files that no buffer refers to any more, then flush
    everything that was spilled. Can be interrupted and repeated: each entry is recovered once.

    Exit code 0 when all is in the database, 3 when files were left (damaged, of other buffers), 1
    when it failed.
    """
    with engine(home, database_url, start_database=not dry_run) as tank:
        recovery = tank.recovery(from_, lost=lost or (), progress=_progress)
        reports = recovery.reports()
        job: FlushJob | None = None
        if not dry_run:
            reports = recovery.take_over(reports)
            job = tank.recovery.flush()
            tank.recovery.clean()
    _show(reports, job, json=json)
    if job is not None and not job.ok:
        return exit_code(job)
    left = any(report.state in (FileState.DAMAGED, FileState.FOREIGN) for report in reports)
    return 3 if left else 0


def _progress(number: int, of: int, name: str) -> None:
    err.print(f"{number}/{of} {name}")


def _show(reports: Sequence[FileReport], job: FlushJob | None, *, json: bool) -> None:
    total = sum((report.recovered for report in reports), Recovered())
    if json:
        # `buried` is the name that `deleted` had at first
        recovered = {**to_plain_data(total), "buried": total.deleted}
        print_json({"files": reports, "recovered": recovered, "job": job})
        return
    table(
        ("file", "entries", "size", "written", "by", "state"),
        [
            (
                r.name,
                r.entries,
                size(r.bytes),
                when(r.created_at),
                r.node,
                r.problem or _MEANING[r.state],
            )
            for r in reports
        ],
    )
    counts = Counter(report.state for report in reports)
    out.print(
        f"{len(reports)} files"
        + "".join(f", {count} {state.value}" for state, count in sorted(counts.items()))
        + (
            f"; {total.entries} entries recovered, {total.known} known already, {total.deleted} of "
            f"threads that were"
            " deleted meanwhile"
            if total != Recovered()
            else ""
        ),
    )
    if job is not None:
        print_job(job)
