"""Runs and questions in the terminal: a graph is run and followed, listed, cancelled, answered."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from support.asking import ask
from support.projects import HEAD, MakeProject, imports_undone, project
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.cli.app import app
from surgetank.workflows.runs import NewRun
from surgetank.workflows.status import Status

__all__ = ["imports_undone", "project"]

GRAPH = (
    HEAD
    + """
import asyncio
from langgraph.types import interrupt

def chatty(state):
    print("printed by the graph")
    return shout(state)

def broken(state):
    raise ValueError("no such luck")

def asking(state):
    return {"text": interrupt("may I?")}

def one(name, node):
    return StateGraph(State).add_node(name, node).add_edge(START, name).add_edge(name, END)

async def slow(state):
    await asyncio.sleep(60)

good, bad, asks, late = one("chatty", chatty), one("broken", broken), one("asking", asking), one("slow", slow)
"""
)


@pytest.fixture
def home(tank: Surgetank, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Surgetank:
    monkeypatch.setenv("SURGETANK_HOME", str(tank.settings.home))
    monkeypatch.setenv("SURGETANK_DATABASE_URL", database_url)
    return tank


@pytest.fixture
def config(project: MakeProject) -> str:
    names = ("good", "bad", "asks", "late")
    return str(project({"g.py": GRAPH}, {name: f"./g.py:{name}" for name in names}))


def surgetank(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_a_run_shows_its_nodes_and_prints_its_values(home: Surgetank, config: str) -> None:
    done = surgetank(
        "run", "good", "--config", config, "--input", '{"text": "hi"}', "--thread", "t"
    )
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {"text": "hi!"}
    assert "  chatty" in done.stderr
    assert "printed by the graph" in done.stderr
    (run,) = home.runs.of_thread("t")
    assert run.status is Status.COMPLETED


def test_a_run_that_fails_ends_with_1_and_says_why(home: Surgetank, config: str) -> None:
    done = surgetank("run", "bad", "--config", config, "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["status"]) == (1, "failed")
    assert "no such luck" in told["error"]


def test_a_run_that_asks_is_left_waiting_and_is_answered_from_the_inbox(
    home: Surgetank, config: str
) -> None:
    done = surgetank("run", "asks", "--config", config, "--thread", "t", "--json")
    assert (done.exit_code, json.loads(done.stdout)["status"]) == (3, "awaiting_checkpoint")
    (asked,) = json.loads(surgetank("inbox", "--json").stdout)
    assert (asked["thread_id"], asked["agent_outputs"]) == ("t", "may I?")
    assert asked["checkpoint_id"] in surgetank("inbox").stdout
    done = surgetank("respond", asked["checkpoint_id"][:8], "you may", "--actor", "eve", "--json")
    assert (done.exit_code, json.loads(done.stdout)["status"]) == (0, "responded")
    assert home.approvals.get(uuid.UUID(asked["checkpoint_id"])).resolved_by == "eve"
    assert surgetank("inbox").stdout == "Nobody is asked anything.\n"
    again = surgetank("respond", asked["checkpoint_id"], "no")
    assert again.exit_code != 0, "it is answered only once"


INBOX = {
    "action_request": {"action": "send", "args": {}},
    "config": {"allow_ignore": True, "allow_respond": True, "allow_edit": False, "allow_accept": False},
}  # fmt: skip


def test_a_question_is_for_somebody_and_may_be_ignored_where_it_allows_that(
    home: Surgetank,
) -> None:
    ignorable, free = ask(home, "t1", [INBOX]), ask(home, "t2", BATCH)
    home.approvals.assign(uuid.UUID(ignorable), assignee="eve", role=None, actor="op")
    home.approvals.assign(uuid.UUID(free), assignee=None, role="legal", actor="op")
    ids = [
        [row["checkpoint_id"] for row in json.loads(surgetank("inbox", "--json", *only).stdout)]
        for only in (["--assignee", "eve"], ["--role", "legal"], ["--assignee", "nobody"])
    ]
    assert ids == [[ignorable], [free], []]
    assert ", for eve" in surgetank("inbox", "--assignee", "eve").stdout
    assert surgetank("ignore", free).exit_code == 2
    done = surgetank("ignore", ignorable, "--actor", "eve", "--json")
    assert json.loads(done.stdout)["status"] == "ignored"


@pytest.mark.parametrize("input_", ["{", "@/nowhere/at/all"])
def test_an_input_that_is_no_json_is_refused_before_anything_is_stored(
    home: Surgetank, config: str, input_: str
) -> None:
    done = surgetank("run", "good", "--config", config, "--input", input_, "--thread", "t")
    assert done.exit_code == 2
    assert home.runs.of_thread("t") == []
    assert surgetank("run", "nobody", "--config", config).exit_code == 2


def test_runs_are_listed_shown_and_cancelled(home: Surgetank) -> None:
    run = home.runs.accept(NewRun(thread_id="t", assistant_id="agent"), actor="ada")
    (listed,) = json.loads(surgetank("runs", "list", "--json").stdout)
    assert (listed["run_id"], listed["status"]) == (str(run.run_id), "pending")
    assert surgetank("cancel", str(run.run_id)[:8], "--actor", "eve").exit_code == 0
    assert home.runs.get(run.run_id).status is Status.CANCELLED
    assert json.loads(surgetank("runs", "list", "--json").stdout) == []
    (of_thread,) = json.loads(surgetank("runs", "list", "--thread", "t", "--json").stdout)
    assert of_thread["status"] == "cancelled"
    shown = json.loads(surgetank("runs", "show", str(run.run_id), "--json").stdout)
    assert shown["audit"][-1]["actor"] == "eve"
    assert surgetank("cancel", str(run.run_id)).exit_code != 0
    assert surgetank("runs", "show", "ffff").exit_code == 2


BATCH = {
    "action_requests": [{"name": "send", "args": {"to": "ada"}}],
    "review_configs": [{"action_name": "send", "allowed_decisions": ["approve", "edit", "reject"]}],
}


def test_what_is_offered_is_edited_in_the_editor(
    home: Surgetank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    question = ask(home, "t", BATCH)
    monkeypatch.setenv("VISUAL", "true")  # an editor that changes nothing
    monkeypatch.setenv("EDITOR", "true")
    assert surgetank("edit", question, "--yes").exit_code == 1
    script = tmp_path / "editor"
    script.write_text('#!/bin/sh\nsed -i s/ada/bob/ "$1"\ntouch -d \'+1 hour\' "$1"\n')
    script.chmod(0o700)
    monkeypatch.setenv("VISUAL", str(script))
    monkeypatch.setenv("EDITOR", str(script))
    done = surgetank("edit", question, "--yes", "--actor", "eve")
    assert done.exit_code == 0, done.stderr
    assert "bob" in done.stdout
    row = home.approvals.get(uuid.UUID(question))
    assert (row.status, row.resolved_by) == ("edited", "eve")


def test_a_question_is_approved_or_rejected_once(home: Surgetank) -> None:
    first, second = ask(home, "a", BATCH), ask(home, "b", BATCH)
    assert surgetank("reject", second).exit_code == 2, "a graph is told why"
    assert surgetank("approve", first).exit_code == 0
    assert surgetank("reject", second, "--notes", "wrong one").exit_code == 0
    assert [home.approvals.get(uuid.UUID(q)).status for q in (first, second)] == [
        "approved",
        "rejected",
    ]
    assert surgetank("approve", second).exit_code != 0


def begun(config: str, graph: str, **streams: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "surgetank", "run", graph, "--config", config, "--thread", "t"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **streams,
    )  # fmt: skip


def is_in(tank: Surgetank, status: Status) -> bool:
    return [run.status for run in tank.runs.of_thread("t")] == [status]


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [(signal.SIGINT, 130, Status.CANCELLED), (signal.SIGTERM, 1, Status.PENDING)],
)
def test_ctrl_c_cancels_for_good_and_sigterm_gives_the_run_back(
    home: Surgetank, config: str, number: signal.Signals, code: int, status: Status
) -> None:
    process = begun(config, "late", stdin=subprocess.DEVNULL)
    wait_until(lambda: is_in(home, Status.RUNNING), "the run", 60)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert is_in(home, status)


@pytest.mark.parametrize("is_answered", [True, False])
def test_what_a_run_asks_is_answered_in_the_terminal_or_left_waiting_by_ctrl_c(
    home: Surgetank, config: str, is_answered: bool
) -> None:
    ours, theirs = pty.openpty()
    process = begun(config, "asks", stdin=theirs)
    wait_until(lambda: bool(home.approvals(status="pending")), "the question", 60)
    if is_answered:
        os.write(ours, b"respond\nyou may\n")
    else:
        assert process.stderr is not None
        said = ""
        while "Your decision" not in said:
            said += process.stderr.read(1)
        process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == (0 if is_answered else 3), errors
    if is_answered:
        assert json.loads(output) == {"text": "you may"}
    else:
        assert is_in(home, Status.AWAITING_CHECKPOINT)


@pytest.mark.parametrize("said", ["n\n", ""])
def test_an_edit_that_nobody_confirms_is_not_sent(
    home: Surgetank, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    question = ask(home, "t", BATCH)
    monkeypatch.setattr("surgetank.cli.inbox.edited", lambda _: [{"to": "bob"}])
    done = CliRunner().invoke(app, ["edit", question], input=said)
    assert done.exit_code == 1
    assert "Traceback" not in done.stderr
    assert home.approvals.get(uuid.UUID(question)).status == "pending"
