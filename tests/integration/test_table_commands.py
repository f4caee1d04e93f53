"""`surgetank tables`, `import-table`, `export-table`, `export-user`: what they print, and how they end."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from surgetank import Surgetank
from surgetank.cli.app import app
from surgetank.exceptions import Conflict, EntryRejected


@pytest.fixture
def run(tank: Surgetank, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SURGETANK_HOME", str(tank.settings.home))
    monkeypatch.setenv("SURGETANK_DATABASE_URL", database_url)

    def invoke(*command: str, code: int = 0) -> Any:
        done = CliRunner().invoke(app, list(command))
        assert done.exit_code == code, done.output
        return done

    return invoke


def test_a_file_becomes_a_table_and_a_table_a_file(run: Any, tmp_path: Path) -> None:
    assert "There are no tables" in run("tables").stdout
    file = tmp_path / "notes.csv"
    file.write_text("who,id,text\nann,1,tea\nbob,2,\n")
    made = run(
        "import-table", "app.notes", str(file), "--create", "--key", "id", "--user-column", "who"
    )
    assert "made the table app.notes" in made.stdout
    assert "2 rows new" in made.stdout
    again = json.loads(
        run("import-table", "app.notes", str(file), "--user-column", "who", "--json").stdout
    )
    assert (again["rows"], again["repeated"], again["flushed"]) == (0, 2, True)
    listed = json.loads(run("tables", "--json").stdout)["tables"]
    assert (listed[0]["table"], listed[0]["figures"]["cold_rows"]) == ("app.notes", 2)
    assert "app.notes" in run("tables").stdout
    shown = run("tables", "app.notes").stdout
    assert "BIGINT" in shown
    assert "in files: 2 rows, 1 files" in shown
    out = tmp_path / "out.ndjson"
    assert (
        "2 rows" in run("export-table", "app.notes", "--format", "ndjson", "--to", str(out)).stdout
    )
    assert len(out.read_text().splitlines()) == 2
    run("export-table", "app.notes", "--format", "ndjson", "--to", str(out), code=2)
    done = run(
        "export-table",
        "app.notes",
        "--format",
        "csv",
        "--to",
        str(out),
        "--user",
        "ann",
        "--force",
        "--json",
    )
    assert json.loads(done.stdout)["rows"] == 1
    assert out.read_bytes() == b"_user,id,text\r\nann,1,tea\r\n"
    run("export-table", "app.nothing", "--format", "csv", "--to", str(out), code=2)
    run("export-user", "ann", "--to", str(tmp_path / "ann.zip"))
    with zipfile.ZipFile(tmp_path / "ann.zip") as archive:
        assert {"manifest.json", "tables/app.notes.parquet"} <= set(archive.namelist())
    run("export-user", "nobody", "--to", str(tmp_path / "nobody.zip"), code=2)


def test_bad_rows_are_said_and_listed(run: Any, tank: Surgetank, tmp_path: Path) -> None:
    tank.sql("CREATE TABLE notes (id BIGINT PRIMARY KEY)")
    file, bad = tmp_path / "rows.jsonl", tmp_path / "bad"
    file.write_text('{"id": 1}\n{"id": "x"}\nnonsense\n{"id": 4}\n')
    command = ["import-table", "notes", str(file), "--user", "ann"]
    refused = run(*command, code=EntryRejected.exit_code)
    assert "$[1].id" in refused.stderr
    assert "no row was stored" in refused.stderr
    run("import-table", "none", str(file), "--create", "--key", "nope", code=2)
    assert "made" not in run("tables").output
    run(*command, "--bad", str(bad), code=2)
    done = run(*command, "--on-bad", "skip", "--bad", str(bad), code=3)
    assert "2 rows new" in done.stdout
    assert "row 1, id" in done.stderr
    listed = [json.loads(line) for line in bad.read_text().splitlines()]
    assert [(each["index"], each["column"]) for each in listed] == [(1, "id"), (2, None)]
    file.write_text('{"id": 1}\n')
    assert "Row 0" in run(*command, code=Conflict.exit_code).stderr
    assert run(*command, "--on-conflict", "nothing").exit_code == 0
