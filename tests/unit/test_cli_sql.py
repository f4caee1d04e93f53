"""`surgetank sql`: what is typed, how rows are written, how a failure is shown. Over a runner of plain functions."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest

from surgetank.app.sql import SqlCaller, SqlOutcome, SqlResult
from surgetank.cli.sql import Format, Session
from surgetank.cli.sql_typing import Completer, typed
from surgetank.exceptions import InvalidRequest

ME = SqlCaller(user="me", trusted=True)
NASTY = "\x1b[2Jx"


class Fake:
    """Answers each statement with a table, but BAD with an error."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def run(self, text: str, caller: SqlCaller, **_: Any) -> SqlOutcome:
        self.texts.append(text)
        results: list[SqlResult] = []
        for number, statement in enumerate(text.split(";"), 1):
            if "BAD" in statement:
                error = InvalidRequest("bad", remedy="better")
                return SqlOutcome(
                    results=tuple(results), error=error, failed=number, position=text.index("BAD")
                )
            rows = pa.table({"n": [1, None], "t": [NASTY, ""]})
            if "SELECT" in statement:
                results.append(
                    SqlResult(number=number, kind="SELECT", rows=rows, types=("BIGINT", "VARCHAR"))
                )
            elif statement.strip():
                results.append(SqlResult(number=number, kind="INSERT", affected=3))
        return SqlOutcome(results=tuple(results))

    def names(self, caller: SqlCaller) -> Sequence[str]:
        return ["app.notes", "note"]


def run(form: Format, text: str, *, timing: bool = False) -> tuple[int, Any]:
    target: Any = io.BytesIO() if form in (Format.ARROW, Format.PARQUET) else io.StringIO()
    code = Session(cast("Any", Fake()), ME, form=form, target=target, timing=timing).run(text)
    return code, target.getvalue()


def test_rows_are_written_in_every_format():
    assert json.loads(run(Format.JSON, "SELECT")[1]) == [{"n": 1, "t": NASTY}, {"n": None, "t": ""}]
    assert run(Format.NDJSON, "SELECT")[1].count("\n") == 2
    assert run(Format.CSV, "SELECT")[1] == f'n,t\r\n1,{NASTY}\r\n,""\r\n'
    assert pa.ipc.open_stream(run(Format.ARROW, "SELECT")[1]).read_all().num_rows == 2
    assert run(Format.PARQUET, "SELECT")[1].startswith(b"PAR1")


def test_a_table_on_a_terminal_commands_nothing(capsys):
    Session(cast("Any", Fake()), ME, form=Format.TABLE, target=sys.stdout, timing=False).run(
        "SELECT; INSERT"
    )
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out
    assert "NULL" in shown.out
    assert "(2 rows)" in shown.out
    assert "INSERT, 3 rows" in shown.err


def test_a_file_has_the_rows_of_one_statement():
    with pytest.raises(InvalidRequest, match="rows of one statement"):
        run(Format.PARQUET, "SELECT; SELECT")


def test_a_failure_names_its_statement_and_line_and_those_before_it_are_shown(capsys):
    code, written = run(Format.CSV, "SELECT 1;\nSELECT\nBAD", timing=True)
    assert code == InvalidRequest.exit_code
    assert written.count("\r\n") == 3
    shown = capsys.readouterr().err
    assert "in statement 2, line 3" in shown
    assert "way out: better" in shown
    assert "time:" in shown


def test_statements_are_typed_over_several_lines(tmp_path: Path, capsys):
    fake = Fake()
    session = Session(cast("Any", fake), ME, form=Format.CSV, target=io.StringIO(), timing=False)
    lines = iter(["\\timing", "SELECT", "1;", "BAD;", "\\help", "", "INSERT;", "\\q", "never;"])
    assert typed(session, tmp_path / "history", lambda _: next(lines)) == 0
    assert fake.texts == ["SELECT\n1;\n", "BAD;\n", "INSERT;\n"]
    assert session.timing
    assert (tmp_path / "history").stat().st_mode & 0o077 == 0
    assert "bad" in capsys.readouterr().err


def test_the_end_of_input_ends_it_and_ctrl_c_forgets_what_was_typed(tmp_path: Path):
    fake = Fake()
    lines: list[Any] = ["SELECT", KeyboardInterrupt(), "INSERT;", EOFError()]

    def ask(_: str) -> str:
        line = lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    session = Session(cast("Any", fake), ME, form=Format.CSV, target=io.StringIO(), timing=False)
    assert typed(session, tmp_path / "history", ask) == 0
    assert fake.texts == ["INSERT;\n"]


def test_names_and_keywords_are_completed_in_the_case_that_was_begun():
    complete = Completer(lambda: ["app.notes", "Note"])
    assert [complete("no", 0), complete("no", 1), complete("no", 2)] == ["Note", "not null", None]
    assert complete("SEL", 0) == "SELECT"
    assert complete("app.", 0) == "app.notes"
