"""`surgetank errors`: what went wrong, with stack traces, also while the database is down, and what
was done then."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from surgetank.cli.output import (
    By,
    DatabaseUrl,
    Home,
    Json,
    coded,
    err,
    out,
    print_json,
    reading_engine,
    span,
    table,
    when,
)
from surgetank.events.types import Severity
from surgetank.exceptions import InvalidRequest
from surgetank.streams.errors.answers import ErrorFilter, ErrorPage
from surgetank.streams.errors.groups import ErrorGroup

app = typer.Typer(
    help="List, look at, resolve, reopen, snooze and delete system errors.",
    invoke_without_command=True,
)
ErrorId = Annotated[str, typer.Argument(help="The error's id, or the beginning of it.")]
_SHOWN = 12  # lines of a stack trace in the list
_MOST_DELETED = 100_000


@app.callback()
def errors(context: typer.Context) -> None:
    """List, look at, resolve, reopen, snooze and delete system errors. Alone: the unresolved ones,
    newest first."""
    if context.invoked_subcommand is None:
        context.invoke(list_)


@app.command("list")
@coded
def list_(
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    error_type: Annotated[
        str | None, typer.Option("--type", help="Only this type.", show_default=False)
    ] = None,
    severity: Annotated[
        Severity | None, typer.Option(help="Only this severity.", show_default=False)
    ] = None,
    thread: Annotated[
        str | None, typer.Option(help="Only errors of this thread.", show_default=False)
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only seen in the last 90s, 30m, 12h, 7d.", show_default=False),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Only with this text in the message.", show_default=False)
    ] = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="The resolved ones.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Resolved and unresolved ones.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many, newest first.")] = 20,
    full: Annotated[bool, typer.Option("--full", help="Whole stack traces.")] = False,
) -> int:
    """List errors with their stack traces, newest first.

    Exit code 1 when one is unresolved and critical, 3 when the database could not be asked for
    older ones.
    """
    wanted = ErrorFilter(
        error_type=error_type,
        severity=severity.value if severity else None,
        thread_id=thread,
        resolved=None if all_ else resolved,
        since=time.time() - span(since) if since else None,
        until=None,
        text=text,
    )
    with reading_engine(home, database_url) as tank:
        if thread is not None:
            tank.threads.require(thread)
        page = tank.errors.find(wanted, limit=limit)
    if json:
        print_json(
            {
                "count": len(page.errors),
                "errors": [g.to_dict() for g in page.errors],
                "problem": page.problem,
            }
        )
    else:
        _print_page(page, full=full)
    if any(g.severity is Severity.CRITICAL and not g.resolved for g in page.errors):
        return 1
    return 3 if page.problem is not None else 0


def _print_page(page: ErrorPage, *, full: bool) -> None:
    if page.problem is not None:
        err.print(f"Only errors in the buffer are shown: {page.problem}")
    if not page.errors:
        out.print(
            "No errors."
            if page.problem is None
            else "No errors in the buffer; the database can't be asked."
        )
    for group in page.errors:
        _print_head(group)
        lines = group.stack_trace.rstrip().splitlines()
        if not full and len(lines) > _SHOWN:
            left_out = len(lines) - _SHOWN
            lines = [lines[0], f"  ... {left_out} lines; `--full` shows them", *lines[1 - _SHOWN :]]
        for line in lines:
            out.print(f"    {line}")


def _print_head(group: ErrorGroup) -> None:
    state = f"resolved by {group.resolved_by}" if group.resolved else "unresolved"
    state += f", came back {group.regressions} times" if group.regressions else ""
    state += f", snoozed until {when(group.snoozed_until)}" if group.snoozed_until else ""
    out.print(
        f"{group.id[:8]}  {group.severity.value:8}  {group.error_type}  {group.occurrences} times,"
        f" last {when(group.last_seen)}  ({state})",
    )
    out.print(f"  {group.error_message}")


@app.command()
@coded
def show(
    error_id: ErrorId, home: Home = None, database_url: DatabaseUrl = None, json: Json = False
) -> None:
    """Show one error whole: stack trace, context, threads, and what was done about it."""
    with reading_engine(home, database_url) as tank:
        detail = tank.errors.detail(_full_id(tank.errors.find(limit=500), error_id))
    if json:
        print_json(
            {
                **detail.group.to_dict(),
                "threads": detail.threads,
                "audit": detail.audit,
                "problem": detail.problem,
            }
        )
        return
    _print_head(detail.group)
    for name, value in detail.group.error_context.items():
        out.print(f"  {name}: {value}")
    if detail.group.previous_resolution:
        out.print(f"  resolved before: {dict(detail.group.previous_resolution)}")
    out.block(detail.group.stack_trace)
    table(
        ("thread", "times", "first", "last"),
        [
            (t["thread_id"], t["occurrences"], when(t["first"]), when(t["last"]))
            for t in detail.threads[:20]
        ],
    )
    for row in detail.audit:
        out.print(f"  {when(row['at'])}  {row['actor']}: {row['action']}  {row['notes']}")


def _full_id(page: ErrorPage, beginning: str) -> str:
    alike = [group.id for group in page.errors if group.id.startswith(beginning)]
    return alike[0] if len(alike) == 1 and beginning else beginning


def _act(
    error_id: str, kind: str, by: str, home: Home, database_url: DatabaseUrl, json: bool, notes: str = "",
    until: float | None = None,
) -> None:  # fmt: skip
    with reading_engine(home, database_url) as tank:
        group = tank.errors.act(
            _full_id(tank.errors.find(limit=500), error_id), kind, by, notes=notes, until=until
        )
        tank.flush("system_errors", group.fingerprint)
    if json:
        print_json(group.to_dict(full=False))
    else:
        _print_head(group)


# Each command below names all its options itself: that is how typer reads them.
Notes = Annotated[str, typer.Option("--notes", help="What was found out and done.")]


@app.command()
@coded
def resolve(
    error_id: ErrorId,
    by: By,
    notes: Notes = "",
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Mark an error as resolved. If it comes back, it is reopened as regressed."""
    _act(error_id, "resolve", by, home, database_url, json, notes)


@app.command()
@coded
def reopen(
    error_id: ErrorId,
    by: By,
    notes: Notes = "",
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Open a resolved error again."""
    _act(error_id, "reopen", by, home, database_url, json, notes)


@app.command()
@coded
def snooze(
    error_id: ErrorId,
    by: By,
    for_: Annotated[str, typer.Option("--for", help="How long: 90s, 30m, 12h, 7d.")] = "24h",
    notes: Notes = "",
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Send no alerts for an error for some time."""
    _act(error_id, "snooze", by, home, database_url, json, notes, time.time() + span(for_))


@app.command()
@coded
def delete(
    error_id: ErrorId,
    by: By,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Delete a resolved error. What was done about it stays in the audit table."""
    _act(error_id, "delete", by, home, database_url, json)


@app.command("delete-resolved")
@coded
def delete_resolved(
    by: By,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    error_type: Annotated[
        str | None, typer.Option("--type", help="Only this type.", show_default=False)
    ] = None,
    severity: Annotated[
        Severity | None, typer.Option(help="Only this severity.", show_default=False)
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Only with this text in the message.", show_default=False)
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(help="Only not seen in the last 90s, 30m, 12h, 7d.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it nothing is done.")] = False,
) -> None:
    """Delete the resolved errors that match. What was done about them stays in the audit table."""
    if not yes:
        raise InvalidRequest(
            "This deletes every resolved error that matches, for ever.", remedy="run it again with --yes."
        )  # fmt: skip
    wanted = ErrorFilter(
        error_type=error_type, severity=severity.value if severity else None, text=text,
        until=time.time() - span(older_than) if older_than else None,
    )  # fmt: skip
    with reading_engine(home, database_url) as tank:
        count = tank.errors.delete_resolved(wanted, by, most=_MOST_DELETED)
        tank.flush("system_errors")
    if json:
        print_json({"deleted": count})
    else:
        out.print(f"deleted {count}")


@app.command()
@coded
def stats(home: Home = None, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Count errors by type and severity."""
    with reading_engine(home, database_url) as tank:
        counts, problem = tank.errors.counts()
    if json:
        print_json({"counts": counts, "problem": problem})
        return
    if problem is not None:
        err.print(f"Only errors in the buffer are counted: {problem}")
    table(
        ("type", "severity", "errors", "occurrences", "unresolved"),
        [
            (c["error_type"], c["severity"], c["groups"], c["occurrences"], c["unresolved"])
            for c in counts
        ],
    )


@app.command()
@coded
def trends(
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    since: Annotated[str, typer.Option(help="How far back: 12h, 7d.")] = "24h",
    bucket: Annotated[str, typer.Option(help="hour or day.")] = "hour",
) -> None:
    """Count occurrences by hour or day."""
    if bucket not in ("hour", "day"):
        raise InvalidRequest(f"There is no bucket {bucket!r}.", remedy="use hour or day.")
    with reading_engine(home, database_url) as tank:
        rows, problem = tank.errors.trends(since=time.time() - span(since), bucket=bucket)
    if json:
        print_json({"trends": rows, "problem": problem})
        return
    if problem is not None:
        err.print(f"Only errors in the buffer are counted: {problem}")
    table(
        (bucket, "type", "severity", "occurrences"),
        [(when(r["at"]), r["error_type"], r["severity"], r["occurrences"]) for r in rows],
    )


@app.command()
@coded
def threads(
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    at_least: Annotated[int, typer.Option(min=1, help="How many errors at least.")] = 2,
) -> None:
    """List threads with several unresolved errors."""
    with reading_engine(home, database_url) as tank:
        rows = tank.errors.troubled_threads(at_least=at_least)
    if json:
        print_json(rows)
        return
    table(
        ("thread", "errors", "occurrences", "last"),
        [(r["thread_id"], r["errors"], r["occurrences"], when(r["last"])) for r in rows],
    )
