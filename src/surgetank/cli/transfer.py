"""`surgetank import` and `surgetank export`: moving in from LangGraph's own savers, and out
again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from surgetank.app.rendering import size
from surgetank.app.transfers import Transfer
from surgetank.cli.output import (
    DatabaseUrl,
    Home,
    Json,
    echo_error,
    engine,
    err,
    out,
    print_json,
)
from surgetank.exceptions import (
    ConfigurationError,
    DatabaseRefused,
    InvalidRequest,
    SurgetankError,
)
from surgetank.streams.checkpoints.transfer.report import Report

_LINE_EVERY_S = 2.0


class OnError(StrEnum):
    """What to do about a checkpoint that can't be moved."""

    STOP = "stop"
    SKIP = "skip"


Threads = Annotated[
    list[str] | None,
    typer.Option("--thread", help="Only this thread (may be repeated).", show_default=False),
]
OnErrorOption = Annotated[
    OnError,
    typer.Option(
        "--on-error", help="At a checkpoint that can't be moved: stop, or list it and go on."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace threads that are in both.")]


def import_(
    source: Annotated[
        str,
        typer.Option(
            "--from", help="postgresql:// URL, sqlite:///path, or the path of a SQLite file."
        ),
    ],
    thread: Threads = None,
    on_error: OnErrorOption = OnError.STOP,
    dry_run: DryRun = False,
    force: Force = False,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> int:
    """Import threads from LangGraph's PostgresSaver or SqliteSaver, and verify each of their
    values.

    Ids, parents, versions, metadata and pending writes stay as they are; the source is only read.
    An interrupted import is continued by the same command. Exit code 0 when all is here, 3 when
    checkpoints were skipped, 1 when it stopped.
    """
    # Not open yet: an address that can't be used is found before a home is made.
    with (
        engine(home, database_url, opened=False) as tank,
        tank.transfers.importing(
            source,
            threads=thread or (),
            on_error=on_error.value,
            dry_run=dry_run,
            replace=force,
            progress=_progress(),
        ) as transfer,
    ):
        return _moved(transfer, json=json)


def export(
    target: Annotated[
        str,
        typer.Option(
            "--to", help="postgresql:// URL, sqlite:///path, or the path of a SQLite file."
        ),
    ],
    thread: Threads = None,
    on_error: OnErrorOption = OnError.STOP,
    dry_run: DryRun = False,
    force: Force = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Add to a target that has threads already.")
    ] = False,
    lossy: Annotated[
        bool,
        typer.Option(
            "--lossy", help="Export what LangGraph's serializer alters (tuples ...), and list it."
        ),
    ] = False,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> int:
    """Export threads to LangGraph's PostgresSaver or SqliteSaver, and verify each of their values.

    A target that isn't empty is refused without --merge or --force. An interrupted export is
    continued by the same command. Exit code 0 when all is there, 3 when something was skipped or
    altered, 1 when it stopped.
    """
    with (
        engine(home, database_url, opened=False) as tank,
        tank.transfers.exporting(
            target,
            merge=merge,
            lossy=lossy,
            threads=thread or (),
            on_error=on_error.value,
            dry_run=dry_run,
            replace=force,
            progress=_progress(),
        ) as transfer,
    ):
        return _moved(transfer, json=json)


def _progress() -> Callable[[Report, int, int], None]:
    """Says on stderr how far a move is: in place on a terminal, else a line every other second."""
    terminal = sys.stderr.isatty()
    last = time.monotonic()

    def tell(report: Report, at: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < (0.1 if terminal else _LINE_EVERY_S):
            return
        last = now
        line = (
            f"{report.kind}: {at} of {of} threads, {report.checkpoints} checkpoints, "
            f"{report.writes} writes,"
            f" {size(report.bytes)}, {report.skipped_count} skipped, {report.seconds:.0f} s"
        )
        err.print(line, end="\r" if terminal else "\n")

    return tell


def _moved(transfer: Transfer, *, json: bool) -> int:
    """Run the move and print its report, also when it stopped."""
    report = transfer.report
    try:
        transfer.run()
    except (ConfigurationError, InvalidRequest, DatabaseRefused):
        raise
    except SurgetankError as error:
        _print(report, json=json, stopped=error)
        if not json:
            raise
        echo_error(error)
        return 1
    _print(report, json=json, stopped=None)
    return 3 if report.skipped_count or report.altered else 0


def _print(report: Report, *, json: bool, stopped: SurgetankError | None) -> None:
    if json:
        problem = (
            {"type": type(stopped).__name__, "what": stopped.what, "remedy": stopped.remedy}
            if stopped
            else None
        )
        print_json({**_fields(report), "stopped": stopped is not None, "error": problem})
        return
    verb = (
        {"import": "imported", "export": "exported"}[report.kind]
        if not report.dry_run
        else "would be moved"
    )
    out.print(f"{report.source} -> {report.target}{' (continued)' if report.resumed else ''}")
    out.print(
        f"  {report.checkpoints} checkpoints and {report.writes} writes of {report.threads} "
        f"threads {verb},"
        f" {size(report.bytes)}; {report.already_there} were there already,"
        f" {report.threads_done_before} threads done before; {report.verified} checkpoints "
        f"verified",
    )
    if report.orphan_writes:
        out.print(f"  {report.orphan_writes} writes belong to no checkpoint and were left behind")
    for skipped in report.skipped:
        at = f"{skipped['thread']} {skipped['namespace']} {skipped['checkpoint']}".replace(
            "  ", " "
        )
        out.print(f"  skipped {at}: {skipped['reason']}")
    for altered in report.altered:
        out.print(f"  altered {altered}")
    if stopped is not None:
        out.print("  stopped; the same command goes on from here")


def _fields(report: Report) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__dataclass_fields__}
