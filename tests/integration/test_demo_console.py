"""The end of the demo in a terminal: its console has a question that can be answered, and a conversation
that goes on."""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.waiting import wait_until
from surgetank.cli.demo_console import show_console, stays


def test_the_console_of_the_demo_shows_live_data_and_a_question_that_is_answered(
    make_tank: Any, tmp_path: Path
) -> None:
    tank = make_tank(flush_in_process=True, flush_age=0.3)
    named = {"graphs": {"mail": "surgetank.cli.demo_approval:mail"}, "dependencies": []}
    (tmp_path / "demo-langgraph.json").write_text(json.dumps(named))
    told: list[tuple[Any, str]] = []
    thread = threading.Thread(
        target=show_console,
        args=(tank, tmp_path),
        kwargs={"ready": lambda *each: told.append(each)},
    )
    thread.start()
    try:
        wait_until(lambda: told, "the console", 60)
        server, url = told[0]
        wait_until(lambda: tank.approvals(status="pending"), "the question", 60)
        with httpx.Client(timeout=60) as browser:
            assert "demo-question" in browser.get(f"{url}/inbox").text
            wait_until(
                lambda: "demo-live" in browser.get(f"{url}/threads").text, "the live one", 60
            )
            (question,) = tank.approvals(status="pending")
            page = browser.get(f"{url}/inbox/{question.checkpoint_id}").text
            assert "ada@example.com" in page
            assert re.search(r"send_mail", page)
        _, resumed = tank.approvals.resolve(question.checkpoint_id, "approve", actor="you")
        wait_until(lambda: tank.runs.get(resumed.run_id).status == "completed", "the mail", 60)
        server.should_exit = True
    finally:
        if told:
            told[0][0].should_exit = True
        thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("terminal", "json_", "leave", "stay"),
    [
        (True, False, False, True), (True, True, False, False), (True, False, True, False),
        (False, False, False, False),
    ],
)  # fmt: skip
def test_only_somebody_at_a_terminal_is_shown_the_console(
    monkeypatch: pytest.MonkeyPatch, *, terminal: bool, json_: bool, leave: bool, stay: bool
) -> None:
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    assert stays(json=json_, leave=leave) is stay
