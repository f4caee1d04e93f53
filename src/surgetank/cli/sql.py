"""`surgetank sql`: statements from the command line, a file, or typed one after the other with history and
completion."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from surgetank.app import rendering
from surgetank.app.sql import OWNER, SqlCaller, SqlOutcome, SqlResult, Statements
from surgetank.cli.output import DatabaseUrl, Home, echo_error, engine, err, out, table
from surgetank.encode.terminal import inline
from surgetank.exceptions import InvalidRequest, SurgetankError
from surgetank.private import make_file

_KEYWORDS = (
    "SELECT", "FROM", "WHERE", "GROUP BY", "ORDER BY", "LIMIT", "JOIN", "WITH", "HAVING", "COUNT", "DISTINCT",
    "NOT NULL",
)  # fmt: skip
_SHOWN_ROWS = 1000  # of a table for people
_HISTORY = 2000
_PROMPT, _MORE = "sql> ", "...> "
_HELP = "A statement ends with ; and a line break. \\timing turns times on and off, \\q ends."


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
    """Run SQL over what agents did: threads, logs, errors, runs, jobs (schema system).

    Without -c and -f statements are typed, with history and completion, or read from stdin. Several
    are separated by semicolons, and the first that fails ends it. Arrow and Parquet take one
    statement with rows, and need --output unless stdout is no terminal.
    """
    texts = _texts(command, file)
    if form in _BINARY and output is None and sys.stdout.isatty():
        raise InvalidRequest(
            f"{form.value} is not for a terminal.", remedy="name a file with --output."
        )
    caller = SqlCaller(user=as_user) if as_user is not None else OWNER
    with engine(home, database_url) as tank, _target(output, form) as target:
        session = Session(tank.sql, caller, form=form, target=target, timing=timing)
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
        self, runner: Statements, caller: SqlCaller, *, form: Format, target: IO[Any], timing: bool
    ) -> None:
        self._runner = runner
        self._caller = caller
        self._form = form
        self._target = target
        self.timing = timing

    def run(self, text: str) -> int:
        """Run statements; the exit code."""
        began = time.perf_counter()
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
            err.print(f"time: {1000 * (time.perf_counter() - began):.1f} ms")
        return self._failed(outcome, text)

    def names(self) -> Sequence[str]:
        """What can be completed."""
        with suppress(SurgetankError):  # the database is away: one types the whole name
            return self._runner.names(self._caller)
        return ()

    def _write(self, result: SqlResult) -> None:
        if result.rows is None:
            if self._form is Format.TABLE:
                rows = f", {result.affected} rows" if result.affected is not None else ""
                err.print(f"{result.kind}{rows}")
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
            line = text.count("\n", 0, outcome.position)
            err.print(f"in statement {outcome.failed}, line {line + 1}")
            err.print(f"  {(text.splitlines() or [''])[line]}")
        elif outcome.failed is not None and outcome.results:
            err.print(f"in statement {outcome.failed}; those before it were run")
        return outcome.error.exit_code


def _print_table(result: SqlResult, target: IO[Any]) -> None:
    assert result.rows is not None
    first = result.rows.slice(0, _SHOWN_ROWS)
    if target is not sys.stdout:
        rendering.write_csv(result.rows, result.types, target)
        return
    cells = [
        ["NULL" if value is None else rendering.shown(value) for value in row]
        for row in rendering.plain_rows(first, result.types)
    ]
    table([inline(name) for name in first.column_names], cells)
    more = result.rows.num_rows - first.num_rows
    out.print(f"({result.rows.num_rows} rows{f', {more} of them not shown' if more else ''})")


# -- typing


def typed(session: Session, history: Path, ask: Callable[[str], str] = input) -> int:
    """Statements that somebody types, until the end of input."""
    with _line_editing(history, session.names):
        err.print(_HELP)
        waiting = ""
        while True:
            try:
                line = ask(_MORE if waiting else _PROMPT)
            except EOFError:
                return 0
            except KeyboardInterrupt:
                waiting = ""
                err.print("")
                continue
            if not waiting and line.strip().startswith("\\"):
                if line.strip() in ("\\q", "\\quit"):
                    return 0
                _obey(line.strip(), session)
                continue
            waiting += line + "\n"
            if line.rstrip().endswith(";"):
                text, waiting = waiting, ""
                _run_typed(session, text)


def _run_typed(session: Session, text: str) -> None:
    try:
        session.run(text)
    except SurgetankError as error:
        echo_error(error)
    except KeyboardInterrupt:
        err.print("ended by Ctrl-C")


def _obey(command: str, session: Session) -> None:
    if command == "\\timing":
        session.timing = not session.timing
        err.print(f"timing is {'on' if session.timing else 'off'}")
    else:
        err.print(_HELP)


@contextmanager
def _line_editing(history: Path, names: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Arrow keys, completion with Tab, and a history that only its owner reads. Without the
    library that does it, plain lines."""
    try:
        import readline  # noqa: PLC0415 - not on all systems
    except ImportError:
        yield
        return
    with suppress(OSError):
        make_file(history)
        readline.read_history_file(history)
    readline.set_history_length(_HISTORY)
    readline.set_completer(Completer(names))
    readline.set_completer_delims(" \t\n,;()=<>+*/")
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    try:
        yield
    finally:
        readline.set_completer(None)
        with suppress(OSError):
            readline.write_history_file(history)


class Completer:
    """Words that begin with what was typed, in the case in which it was: readline asks for them one
    by one."""

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        self._names = names
        self._found: list[str] = []

    def __call__(self, typed_so_far: str, number: int) -> str | None:
        """The word of this number."""
        if number == 0:
            folded = typed_so_far.casefold()
            words = [*self._names(), *_KEYWORDS]
            found = [word for word in words if word.casefold().startswith(folded)]
            lower = typed_so_far.islower()
            self._found = [w.lower() if lower and w in _KEYWORDS else w for w in found]
        return self._found[number] if number < len(self._found) else None
