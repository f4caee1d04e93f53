"""Every command over a home whose names and texts try to command the terminal: nothing of it is
obeyed or markup."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
import typer
from typer.testing import CliRunner

from support.asking import ask
from support.savers import put
from surgetank import Surgetank
from surgetank.cli.app import app
from surgetank.encode.terminal import block, inline
from surgetank.server.access.roles import Role
from surgetank.server.access.tokens import TokenStore
from surgetank.server.http.outage import PatientDatabase
from surgetank.workflows.runs import NewRun

NASTY = "\x1b[2J\x1b]0;owned\x07\r\x08\x9b31m\u202eevil\u2066\u200b[red]x[/red][link=http://x]y[/link]:smile:"
NASTY += "\nforged line"
THREAD = f"t{NASTY}"


@pytest.fixture
def hostile(
    tank: Surgetank, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> dict[str, str]:
    """A home full of it: threads, owners, logs, events, errors, jobs, a parked entry, alerts,
    tokens."""
    saver = tank.checkpointer()
    first = put(
        saver, THREAD, {f"channel{NASTY}": NASTY}, user_id=f"ada{NASTY}", note=f"a\u0000{NASTY}"
    )
    tank.flush()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "ALTER TABLE surgetank.checkpoints ADD CONSTRAINT "
            + psycopg.sql.Identifier(f"c{NASTY}"[:40]).as_string(connection)
            + " CHECK (metadata ->> 'step' <> '1')"
        )
        connection.execute("INSERT INTO surgetank.analysts VALUES ('reader', false, false)")
        connection.execute(
            "INSERT INTO surgetank.analyst_users VALUES ('reader', %s)", (f"ada{NASTY}",)
        )
    put(saver, THREAD, {"x": 2}, parent=first, step=1)
    tank.emit_log(f"line{NASTY}", thread_id=THREAD, logger=f"l{NASTY}", field=NASTY)
    tank.broadcast_run_event("odd", thread_id=THREAD, message=NASTY)
    error = tank.log_system_error(
        "odd" + NASTY, f"message{NASTY}", thread_id=THREAD, severity="critical", stack_trace=f"Traceback\n  {NASTY}",
        context={f"key{NASTY}": NASTY},
    )  # fmt: skip
    job = tank.flush()
    tank.flush()
    tank.errors.act(error, "snooze", f"actor{NASTY}", notes=NASTY, until=4e9)
    made = TokenStore(PatientDatabase(tank.parts.database)).create(
        "ada", Role.VIEWER, by=f"by{NASTY}"
    )[0]
    (tmp_path / "langgraph.json").write_text(
        json.dumps({"graphs": {f"g{NASTY}": f"./g{NASTY}.py:g", "h": f"nobody{NASTY}:h"}})
    )
    (tmp_path / "rows.csv").write_text(f'n,s\n1,"{NASTY}"\nx{NASTY[:9]},"{NASTY}"\n')
    tank.sql("CREATE TABLE notes (n BIGINT, s TEXT DEFAULT '" + NASTY + "')")
    monkeypatch.setenv("SURGETANK_HOME", str(tank.settings.home))
    monkeypatch.setenv("SURGETANK_DATABASE_URL", database_url)
    monkeypatch.setenv("SURGETANK_NODE", f"node{NASTY}")
    question = ask(tank, f"q{NASTY}", f"asked{NASTY}")
    run = tank.runs.accept(
        NewRun(thread_id=THREAD, assistant_id=f"g{NASTY}", metadata={NASTY: NASTY}), actor=NASTY
    )
    return {
        "thread": THREAD, "job": job.id, "error": error, "token": made.id, "run": str(run.run_id),
        "question": question,
    }  # fmt: skip


# What each command is run with. A command that is not here fails the test; None: said why.
COMMANDS: dict[str, list[str] | None] = {
    "status": [], "storage": [], "metrics": None, "doctor": [], "migrate": [], "originals": [], "flush": [],
    "tail": ["--no-follow", "-n", "1000"], "prune": ["--threads", "{thread}", "--strategy", "keep_latest", "--dry-run"],
    "import": ["--help"], "export": ["sqlite:///{folder}/export.db", "--dry-run"], "recover": [],
    "jobs list": [], "jobs show": ["{job}"], "jobs retry": ["{job}"],
    "parked list": [], "parked show": ["1"], "parked retry": ["1"],
    "parked discard": ["1", "--yes"], "parked export": ["{folder}/parked"],
    "analyst add": ["--all", NASTY], "analyst list": [], "analyst remove": [NASTY],
    "analyst refresh": [], "workers": [],
    "move-buffer": ["--from", "sqlite:///{folder}/nowhere.db", "--to", "sqlite:///{folder}/new.db"],
    "tables": ["public.notes"],
    "import-table": ["public.notes", "{folder}/rows.csv", "--on-bad", "skip", "--user", NASTY],
    "export-table": ["public.notes", "--format", "csv", "--to", "{folder}/rows"],
    "export-user": [f"ada{NASTY}", "--to", "{folder}/user.zip"],
    "sql": ["-c", "SELECT * FROM system.threads; SELECT * FROM system.system_errors; SELECT * FROM system.jobs"],
    "audit list": [], "audit export": [], "audit verify": [],
    "errors list": ["--full"], "errors show": ["{error}"], "errors resolve": ["{error}", "--notes", NASTY],
    "errors reopen": ["{error}"], "errors snooze": ["{error}"], "errors delete": ["{error}"],
    "errors delete-resolved": ["--yes", "--text", NASTY], "errors stats": [],
    "errors trends": [], "errors threads": ["--at-least", "1"],
    "alerts test": [], "alerts list": [], "alerts log": [],
    "token create": ["--user", "eve", "--role", "viewer"], "token list": [], "token revoke": ["{token}"],
    "repair": ["{thread}"],
    "erase-user": ["--yes", f"nobody{NASTY}"],
    "adopt": ["--yes"], "config": [], "graphs": ["--config", "{folder}/langgraph.json"],
    "runs list": ["--thread", "{thread}"], "runs show": ["{run}"], "cancel": ["{run}"],
    "inbox": [], "approve": [NASTY], "reject": [NASTY, "--notes", NASTY], "edit": [NASTY],
    "respond": ["{question}", NASTY], "ignore": [NASTY], "run": [f"g{NASTY}", "--config", "{folder}/langgraph.json"],
    "demo": None,  # its texts are its own
    # what they say goes through the same printer, and the log through `SafeFormatter`
    "serve": None, "worker": None, "dev": None,
}  # fmt: skip


def commands(group: Any = None, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def obeyed(text: str) -> list[str]:
    """What a terminal would obey in it, and what markup has eaten."""
    return sorted(
        {
            f"U+{ord(character):04X}"
            for character in text
            if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Cs")
            and character not in "\n\t"
        }
    )


def test_the_list_names_every_command() -> None:
    assert {name for name, _ in commands()} == set(COMMANDS)


def test_no_command_lets_stored_text_command_the_terminal(
    hostile: dict[str, str], tmp_path: Path
) -> None:
    wrong, shown, for_people = [], "", ""
    for name, command in commands():
        arguments = COMMANDS[name]
        if arguments is None:
            continue
        given = [a.format(**hostile, folder=tmp_path) if "{" in a else a for a in arguments]
        has_json = any("--json" in parameter.opts for parameter in command.params)
        for extra in [[], ["--json"]] if has_json else [[]]:
            done = CliRunner().invoke(app, [*name.split(), *given, *extra])
            text = done.stdout + done.stderr
            if found := obeyed(text):
                wrong.append(f"{name} {extra}: {found}")
            if (
                "\nforged line" in text
                and not extra
                and "show" not in name
                and name != "errors list"
            ):
                wrong.append(f"{name}: a line is forged")
            shown += text
            for_people += "" if extra else text
    assert wrong == []
    assert shown.count("[red]x[/red]") > 10, "markup is shown as it is"
    assert for_people.count("[red]x[/red]") > 5, "not in JSON only"
    assert "\\x1b[2J" in shown
    assert "\\u202eevil" in shown
    assert ":smile:" in shown


def test_json_gives_the_texts_as_they_are(hostile: dict[str, str]) -> None:
    done = CliRunner().invoke(app, ["errors", "show", hostile["error"], "--json"])
    assert json.loads(done.stdout)["thread_id"] == THREAD


def test_a_bug_s_traceback_is_not_obeyed_either(
    hostile: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(NASTY)

    monkeypatch.setattr(Surgetank, "status", broken)
    done = CliRunner().invoke(app, ["status"])
    assert done.exit_code == 1
    assert "RuntimeError" in done.stderr
    assert obeyed(done.stderr) == []


@pytest.mark.parametrize("escape", [inline, block])
def test_whatever_a_terminal_obeys_is_escaped_and_languages_stay(escape: Any) -> None:
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    left = {
        c for c in escape(everything) if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs")
    }
    assert left == {"\u200c", "\u200d"} | ({"\n", "\t"} if escape is block else set())
    for text in ("naïve 日本語 العربية नमस्ते", "👩‍🚀 می‌خواهم", "C:\\x1b is text"):
        assert escape(text) == text
    assert re.fullmatch(r"a\\x00\\ud800\\u202eb", escape("a\x00\ud800\u202eb"))
