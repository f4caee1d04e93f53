"""`surgetank sql`: statements from the command line, a file, or typed one after the other with history and
completion."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.cells import cell_len

from surgetank.app import rendering
from surgetank.app.live import LiveQueries
from surgetank.app.sql import (
    OWNER,
    SqlCaller,
    SqlOutcome,
    SqlResult,
    Statements,
    is_subscription,
)
from surgetank.cli.output import DatabaseUrl, Home, echo_error, engine, err, out, print_json, table
from surgetank.cli.sql_typing import typed
from surgetank.encode.terminal import inline
from surgetank.exceptions import InvalidRequest, SurgetankError

_SHOWN_ROWS = 1000  # of a table for people
_SHOWN_BEFORE = 60  # characters of a line before the place of an error
_NUMBERS = (
    "INT",
    "BIGINT",
    "DECIMAL",
    "DOUBLE",
    "FLOAT",
    "HUGEINT",
)  # what such types have in their names


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    NDJSON = "ndjson"
    ARROW = "arrow"
    PARQUET = "parquet"


_BINARY = (Format.ARROW, Format.PARQUET)


def sql(
    command: Annotated[
        list[str] | None,
        typer.Option(
            "-c", "--command", help="Run this and end (may be repeated).", show_default=False
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("-f", "--file", help="Run a file and end; - is stdin.", show_default=False),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How rows are written.")] = Format.TABLE,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write rows into this file.", show_default=False),
    ] = None,
    as_user: Annotated[
        str | None,
        typer.Option(
            "--as-user", help="With the rights and rows of this user only.", show_default=False
        ),
    ] = None,
    timing: Annotated[
        bool, typer.Option("--timing", help="Say how long each statement took.")
    ] = False,
    home: Home = None,
    database_url: DatabaseUrl = None,
) -> int:
    """Run SQL over tables, and over what agents did: threads, runs, errors (schema system).

    Without -c and -f statements are typed, with history and completion, or read from stdin. Several
    are separated by semicolons, and the first that fails ends it. Arrow and Parquet take one
    statement with rows, and need --output unless stdout is no terminal. SUBSCRIBE TO goes on until
    Ctrl-C, which ends a statement that is typed, and not the program.
    """
    texts = _texts(command, file)
    if form in _BINARY and output is None and sys.stdout.isatty():
        raise InvalidRequest(
            f"{form.value} is not for a terminal.", remedy="name a file with --output."
        )
    caller = SqlCaller(user=as_user) if as_user is not None else OWNER
    with engine(home, database_url) as tank, _target(output, form) as target:
        session = Session(tank.sql, caller, form=form, target=target, timing=timing, live=tank.live)
        if texts is not None:
            return next((code for text in texts if (code := session.run(text))), 0)
        return typed(session, tank.settings.home / "surgetank.sql-history")


def _texts(command: Sequence[str] | None, file: Path | None) -> list[str] | None:
    if command:
        return list(command)
    if file is None and sys.stdin.isatty():
        return None
    if file is None or str(file) == "-":
        return [sys.stdin.read()]
    try:
        return [file.read_text(encoding="utf-8")]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"{file} can't be read: {error}.", remedy="name a text file."
        ) from error


@contextmanager
def _target(output: Path | None, form: Format) -> Iterator[IO[Any]]:
    if output is None:
        yield sys.stdout.buffer if form in _BINARY else sys.stdout
        return
    binary = form in _BINARY
    try:
        opened = output.open("wb") if binary else output.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise InvalidRequest(
            f"{output} can't be written: {error}.", remedy="name another file."
        ) from error
    with opened:
        yield opened


class Session:
    """Runs texts, and writes what they give."""

    def __init__(
        self,
        runner: Statements,
        caller: SqlCaller,
        *,
        form: Format,
        target: IO[Any],
        timing: bool,
        live: LiveQueries | None = None,
    ) -> None:
        self._runner = runner
        self._caller = caller
        self._form = form
        self._target = target
        self._live = live
        self.timing = timing

    def run(self, text: str) -> int:
        """Run statements; the exit code."""
        if self._live is not None and is_subscription(text):
            with self._live.begin(text, self._caller) as query:
                for event in query:
                    print_json(event.to_dict(), one_line=True)
            return 0
        outcome = self._runner.run(text, self._caller)
        with_rows = [each for each in outcome.results if each.rows is not None]
        if self._form in _BINARY and len(with_rows) > 1:
            raise InvalidRequest(
                f"{self._form.value} has the rows of one statement, and {len(with_rows)} have some.",
                remedy="run them one by one.",
            )
        for result in outcome.results:
            self._write(result)
            if self.timing:
                err.print(f"time: {1000 * result.seconds:.1f} ms")
        return self._failed(outcome, text)

    def names(self) -> Sequence[str]:
        """What can be completed."""
        with suppress(SurgetankError):  # the database is away: one types the whole name
            return self._runner.names(self._caller)
        return ()

    def _write(self, result: SqlResult) -> None:
        if result.rows is None:
            if self._form is Format.TABLE:
                changed = f", {_rows(result.affected)}" if result.affected is not None else ""
                err.print(f"{result.kind}{changed}")
            return
        if self._form is Format.TABLE:
            _print_table(result, self._target)
        elif self._form in _BINARY:
            write = rendering.write_arrow if self._form is Format.ARROW else rendering.write_parquet
            write(result.rows, self._target)
        else:
            self._write_text(result)
        self._target.flush()
        if result.cut is not None:
            err.print(f"Cut at the limit of {result.cut}: there are more rows.")
        if result.stale:
            err.print("The database can't be reached: rows in files are as they were known last.")

    def _write_text(self, result: SqlResult) -> None:
        forms = {Format.CSV: rendering.write_csv, Format.JSON: rendering.write_json}
        write = forms.get(self._form, rendering.write_ndjson)
        if self._target is sys.stdout and sys.stdout.isatty():
            text = io.StringIO()  # nothing of it commands the terminal
            write(result.rows, result.types, text)
            out.block(text.getvalue().replace("\r\n", "\n").rstrip("\n"))
        else:
            write(result.rows, result.types, self._target)

    @staticmethod
    def _failed(outcome: SqlOutcome, text: str) -> int:
        if outcome.error is None:
            return 0
        echo_error(outcome.error)
        if outcome.position is not None:
            _show_where(text, outcome.position, outcome.failed)
        elif outcome.failed is not None and outcome.results:
            err.print(f"in statement {outcome.failed}; those before it were run")
        return outcome.error.exit_code


def _rows(count: int | None) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _show_where(text: str, position: int, statement: int | None) -> None:
    """The line of an error, with a mark under where it is."""
    begin = text.rfind("\n", 0, position) + 1
    line = text[begin:].partition("\n")[0]
    cut = max(0, position - begin - _SHOWN_BEFORE)
    before = inline(line[cut : position - begin].replace("\t", " "))
    after = inline(line[position - begin :].replace("\t", " ")[:_SHOWN_BEFORE])
    err.print(f"in statement {statement}, line {text.count(chr(10), 0, position) + 1}")
    err.print(f"  {before}{after}")
    err.print(f"  {' ' * cell_len(before)}^")


def _print_table(result: SqlResult, target: IO[Any]) -> None:
    assert result.rows is not None
    first = result.rows.slice(0, _SHOWN_ROWS)
    if target is not sys.stdout:
        rendering.write_csv(result.rows, result.types, target)
        return
    names = [inline(name) for name in first.column_names]
    cells = [
        ["NULL" if value is None else inline(rendering.shown(value)) for value in row]
        for row in rendering.plain_rows(first, result.types)
    ]
    widths = [max(map(cell_len, column)) for column in zip(names, *cells, strict=True)]
    width = sum(widths) + 2 * len(widths)
    if sys.stdout.isatty() and width > shutil.get_terminal_size().columns:
        _print_records(names, cells)
    else:
        numbers = [
            at for at, kind in enumerate(result.types) if any(each in kind for each in _NUMBERS)
        ]
        table(names, cells, right=numbers, width=width)
    more = result.rows.num_rows - first.num_rows
    out.print(f"({_rows(result.rows.num_rows)}{f', {more} of them not shown' if more else ''})")


def _print_records(names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Rows that are wider than the terminal: a line for each value."""
    wide = max(map(cell_len, names))
    for number, row in enumerate(cells, 1):
        out.print(f"-- {number} --", style="bold")
        for name, value in zip(names, row, strict=True):
            out.print(f"{name}{' ' * (wide - cell_len(name))}  {value}")
