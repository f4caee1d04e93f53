"""`surgetank import` and `surgetank export`: moving in from LangGraph's own savers, and out
again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from surgetank.app.known import require_threads
from surgetank.app.surgetank import Surgetank
from surgetank.cli.output import (
    DatabaseUrl,
    Home,
    Json,
    echo_error,
    engine,
    err,
    out,
    print_json,
    size,
)
from surgetank.exceptions import (
    ConfigurationError,
    DatabaseRefused,
    InvalidRequest,
    MissingExtra,
    SurgetankError,
)

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
    transfer, official = _modules()
    wishes = transfer.Wishes(thread or (), on_error.value, dry_run, force, _progress())
    tables = official.open_official(source)
    try:
        with engine(home, database_url) as tank:
            ours = _ours(tank)
            with _journal(tank, "import", source) as journal:
                mover = transfer.Importer(
                    tables, ours, tank.parts.database.address, wishes, journal
                )
                return _moved(mover.report, mover.run, json=json)
    finally:
        tables.close()


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
    transfer, _ = _modules()
    from surgetank.streams.checkpoints.transfer.official_target import OfficialTarget  # noqa: PLC0415 - needs the extra

    wishes = transfer.Wishes(thread or (), on_error.value, dry_run, force, _progress())
    with engine(home, database_url) as tank:
        require_threads(tank.parts, *wishes.threads)
        ours = _ours(tank)
        opened = OfficialTarget(target, lossy=lossy, dry_run=dry_run)
        try:
            with _journal(tank, "export", target) as journal:
                mover = transfer.Exporter(
                    ours, opened, tank.parts.database.address, wishes, journal
                )
                return _moved(mover.report, lambda: mover.run(merge=merge), json=json)
        finally:
            opened.close()


def _modules() -> tuple[Any, Any]:
    """The modules that need langgraph. Raises `MissingExtra`."""
    try:
        from surgetank.streams.checkpoints.transfer import official, transfer  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("surgetank"):
            raise
        raise MissingExtra("langgraph", "langgraph", "Importing and exporting") from error
    return transfer, official


def _ours(tank: Surgetank) -> Any:
    from surgetank.streams.checkpoints.cold.reader import ColdReader  # noqa: PLC0415 - needs the extra
    from surgetank.streams.checkpoints.transfer.moving import OurStore  # noqa: PLC0415 - needs the extra

    tank.parts.database.prepare()
    return OurStore(
        tank.parts.buffer, ColdReader(tank.parts.database), lambda: tank.flush(trigger="import")
    )


def _journal(tank: Surgetank, kind: str, other: str) -> Any:
    from surgetank.streams.checkpoints.transfer.journal import Journal  # noqa: PLC0415 - needs the extra

    embedded = tank.settings.database_url is None
    return Journal(
        tank.settings.home / "transfers",
        kind,
        "embedded" if embedded else tank.parts.database.address,
        other,
    )


def _progress() -> Callable[[Any, int, int], None]:
    """Says on stderr how far a move is: in place on a terminal, else a line every other second."""
    terminal = sys.stderr.isatty()
    last = time.monotonic()

    def tell(report: Any, at: int, of: int) -> None:
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


def _moved(report: Any, move: Callable[[], Any], *, json: bool) -> int:
    """Run the move and print its report, also when it stopped."""
    try:
        move()
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


def _print(report: Any, *, json: bool, stopped: SurgetankError | None) -> None:
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


def _fields(report: Any) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__dataclass_fields__}
