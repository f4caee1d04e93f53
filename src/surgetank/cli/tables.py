"""`surgetank tables`, `import-table`, `export-table`: which tables there are, and rows from and into files."""

from __future__ import annotations

import json as json_
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from surgetank.app.caller_tables import default_text, where_refused
from surgetank.app.rendering import size
from surgetank.app.sql import OWNER
from surgetank.app.table_files import TableImport
from surgetank.app.tables import Kind, Table
from surgetank.cli.output import (
    DatabaseUrl,
    Home,
    Json,
    engine,
    err,
    exit_code,
    out,
    print_json,
    table,
)
from surgetank.exceptions import InvalidRequest, SurgetankError

if TYPE_CHECKING:
    from surgetank.app.caller_tables import BadRow, TableFigures

_LINE_EVERY_S = 2.0


class FileForm(StrEnum):
    """A form of files that are imported."""

    PARQUET = "parquet"
    CSV = "csv"
    NDJSON = "ndjson"


class TargetForm(StrEnum):
    """A form that tables are exported in."""

    PARQUET = "parquet"
    CSV = "csv"
    NDJSON = "ndjson"
    DELTA = "delta"


class OnBad(StrEnum):
    """What to do about a row that can't be stored."""

    REFUSE = "refuse"
    SKIP = "skip"


class OnConflict(StrEnum):
    """What to do about a PRIMARY KEY that is there."""

    REFUSE = "refuse"
    NOTHING = "nothing"
    UPDATE = "update"


Name = Annotated[str, typer.Argument(help="namespace.table, or a table of public.")]


def tables(
    name: Annotated[
        str | None,
        typer.Argument(help="Describe this one (namespace.table).", show_default=False),
    ] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """List tables of users' rows with what waits and what is in files, or describe one."""
    with engine(home, database_url) as tank:
        mine = tank.tables.for_caller(OWNER)
        if name is None:
            found = [(each, mine.figures(each)) for each in tank.tables.list()]
            if json:
                print_json({"tables": [_fields(each, figures) for each, figures in found]})
            else:
                _list(found)
            return
        one = tank.tables.describe(name)
        figures = mine.figures(one)
    if json:
        print_json(_fields(one, figures))
    else:
        _describe(one, figures)


def _list(found: list[tuple[Table, TableFigures | None]]) -> None:
    rows: list[list[Any]] = []
    for each, figures in found:
        assert figures is not None, "the owner sees them"
        rows.append([
            each.full_name, each.kind.value, len(each.columns), ", ".join(each.key) or "-",
            figures.waiting_changes, figures.cold_rows, figures.cold_files, size(figures.cold_bytes),
        ])  # fmt: skip
    if not rows:
        out.print("There are no tables: CREATE TABLE in `surgetank sql` makes one.")
        return
    table(["table", "kind", "columns", "key", "waiting", "rows in files", "files", "size"], rows)


def _describe(one: Table, figures: TableFigures | None) -> None:
    assert figures is not None, "the owner sees them"
    access = "" if one.by_user else f", access {one.access.value}"
    out.print(f"{one.full_name}  {one.kind.value}{access}, schema version {one.schema_version}")
    table(
        ["column", "type", "nullable", "default", "key"],
        [
            [c.name, c.type.sql, "yes" if c.nullable else "no", default_text(c), "key" if c.name in one.key else ""]
            for c in one.columns
        ],
    )  # fmt: skip
    rows = None if one.policy.rows is None else f"{one.policy.rows} changes"
    span = None if one.policy.interval_s is None else f"{one.policy.interval_s:g} s"
    own = [each for each in (rows, span) if each is not None]
    rest = ["when the settings say"] if len(own) < 2 else []
    out.print(f"flushed {' or '.join([*(f'after {each}' for each in own), *rest])}")
    if one.ttl_s is not None:
        out.print(f"rows go after {one.ttl_s:g} s")
    out.print(f"waiting: {figures.waiting_changes} changes, {size(figures.waiting_bytes)}")
    if figures.users_held:
        err.print(f"! {figures.users_held} users' last flush failed: see surgetank status")
    out.print(
        f"in files: {figures.cold_rows} rows, {figures.cold_files} files, {size(figures.cold_bytes)}"
    )
    if figures.stale:
        err.print("The database can't be reached: files are as they were known last.")


def _fields(one: Table, figures: TableFigures | None) -> dict[str, Any]:
    return {
        "table": one.full_name, "kind": one.kind.value, "primary_key": list(one.key),
        "access": None if one.by_user else one.access.value, "flush_rows": one.policy.rows,
        "flush_interval_s": one.policy.interval_s, "ttl_s": one.ttl_s, "schema_version": one.schema_version,
        "columns": [
            {"name": c.name, "type": c.type.sql, "nullable": c.nullable, "default": default_text(c)}
            for c in one.columns
        ],
        "figures": figures,
    }  # fmt: skip


def import_table(
    name: Name,
    file: Annotated[Path, typer.Argument(help="A file of rows.")],
    form: Annotated[
        FileForm | None,
        typer.Option("--format", help="By its name, if it is not said.", show_default=False),
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", help="Whose the rows are.", show_default=False)
    ] = None,
    user_column: Annotated[
        str | None,
        typer.Option(
            "--user-column",
            help="The column that says whose a row is (_user, if it is there).",
            show_default=False,
        ),
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Make the table for the file, if there is none.")
    ] = False,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key", help="With --create: a column of the PRIMARY KEY.", show_default=False
        ),
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="With --create: a SHARED table.")
    ] = False,
    on_bad: Annotated[
        OnBad,
        typer.Option(
            "--on-bad", help="At a row that can't be stored: store nothing, or leave it out."
        ),
    ] = OnBad.REFUSE,
    bad: Annotated[
        Path | None,
        typer.Option(
            "--bad", help="With --on-bad skip: list such rows in this file.", show_default=False
        ),
    ] = None,
    on_conflict: Annotated[
        OnConflict, typer.Option("--on-conflict", help="At a PRIMARY KEY that is there.")
    ] = OnConflict.REFUSE,
    again: Annotated[
        str,
        typer.Option(
            "--again",
            help="A word that makes it another import of the same file.",
            show_default=False,
        ),
    ] = "",
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> int:
    """Import rows of a Parquet, CSV or NDJSON file into a table, and flush it.

    The same command goes on with an import that was interrupted, and stores no row twice. A row that
    can't be stored is named by its index (from 0), column and reason. Exit code 0 when all is there,
    3 when rows were left out or are not flushed.
    """  # fmt: skip
    if bad is not None and on_bad is not OnBad.SKIP:
        raise InvalidRequest("--bad lists rows that are left out.", remedy="use --on-bad skip.")
    with engine(home, database_url) as tank, _bad_rows(bad) as write:
        importing = tank.tables.importing(
            name,
            file,
            form=None if form is None else cast("Any", form.value),
            user=user,
            user_column=user_column,
            create=create,
            kind=Kind.SHARED if shared else None,
            key=key or (),
            on_bad=cast("Any", on_bad.value),
            on_conflict=cast("Any", on_conflict.value),
            again=again,
            bad=write,
            progress=_progress("read", size),
        )
        with importing as run:
            try:
                run.run()
            except (SurgetankError, KeyboardInterrupt):
                _say(run.report, json=False, stopped=True)
                raise
        _say(run.report, json=json, stopped=False)
    job = run.report.job
    flushed = 0 if job is None else exit_code(job)
    return 3 if flushed or run.report.bad_rows else 0


@contextmanager
def _bad_rows(path: Path | None) -> Iterator[Callable[[BadRow], None] | None]:
    if path is None:
        yield None
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(
            f"{path} can't be written: {error}.", remedy="name another."
        ) from error
    with file:

        def write(bad: BadRow) -> None:
            file.write(json_.dumps(_bad_fields(bad)) + "\n")

        yield write


def _bad_fields(bad: BadRow) -> dict[str, Any]:
    column = where_refused(bad.path)[1]
    return {"index": bad.index, "column": column, "reason": bad.reason, "remedy": bad.remedy}


def _say(report: TableImport, *, json: bool, stopped: bool) -> None:
    if json:
        fields: dict[str, Any] = {
            "table": report.table, "file": str(report.path), "format": report.form, "created": report.created,
            "rows": report.rows, "updated": report.updated, "ignored": report.ignored,
            "repeated": report.repeated, "bad_rows": report.bad_rows, "bad": [_bad_fields(b) for b in report.bad],
            "flushed": None if report.job is None else report.job.ok,
        }  # fmt: skip
        print_json(fields)
        return
    printer = err if stopped else out
    if report.created:
        printer.print(f"made the table {report.table}")
    if stopped and not (report.rows or report.updated or report.ignored or report.repeated):
        printer.print("stopped; no row was stored")
        return
    printer.print(
        f"{report.table}: {report.rows} rows new, {report.updated} updated, {report.ignored} there already,"
        f" {report.repeated} stored by an earlier import, {report.bad_rows} left out"
    )
    for bad in report.bad[:20]:
        err.print(f"  row {bad.index}, {where_refused(bad.path)[1] or 'as a row'}: {bad.reason}")
    if len(report.bad) > 20:
        err.print("  ... --bad FILE lists them")
    if stopped:
        printer.print("stopped; the same command goes on from here")
    elif report.job is not None and not report.job.ok:
        err.print(f"not flushed yet: {report.job.result.message or 'see surgetank jobs'}")


def export_table(
    name: Name,
    target: Annotated[Path, typer.Option("--to", help="The file; for delta a folder.")],
    form: Annotated[TargetForm, typer.Option("--format", help="What is written.")],
    user: Annotated[
        str | None, typer.Option("--user", help="Only rows of this user.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Export a table, as it is at one moment, to Parquet, CSV, NDJSON or a Delta table.

    What is written is there when it is complete. Rows of all users have a column _user.
    """
    with engine(home, database_url) as tank:
        done = tank.tables.export_to(
            name,
            target,
            form=form.value,
            user=user,
            replace=force,
            progress=_progress("exported", lambda rows: f"{rows:.0f} rows"),
        )
    if json:
        print_json(
            {**{n: getattr(done, n) for n in done.__dataclass_fields__}, "path": str(done.path)}
        )
        return
    out.print(f"{done.table}: {done.rows} rows, {size(done.bytes)} -> {done.path}")
    if done.stale:
        err.print("The database can't be reached: rows in files are as they were known last.")


def _progress(verb: str, shown: Callable[[float], str]) -> Callable[[int, int], None]:
    """Says on stderr how far it is: in one line on a terminal, else a line every other second."""
    terminal = sys.stderr.isatty()
    last = time.monotonic()

    def tell(at: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= (0.1 if terminal else _LINE_EVERY_S):
            last = now
            percent = 100 * at // max(1, of)
            err.print(
                f"{verb} {shown(at)} of {shown(of)}, {percent} %", end="\r" if terminal else "\n"
            )

    return tell
