"""Every statement of the reference of SQL runs as it stands, in order, and gives what is shown; so do those of the page
for analysts."""

from __future__ import annotations

import doctest
import io
import json
import re
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import get_args

from langchain_core.messages import AIMessage, HumanMessage

from support.analysts import Furnished
from support.savers import put
from surgetank import Surgetank
from surgetank.app.sql import OWNER, is_subscription
from surgetank.cli.sql import Format, Session
from surgetank.exceptions import InvalidRequest
from surgetank.streams.tables.sql import parsing
from surgetank.streams.tables.sql.statements import Action, ExecuteAs

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```sql\n(.*?)^```\n(?:\n?```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def shown(tank: Surgetank, text: str) -> str:
    """What `surgetank sql` writes; of a live query what it begins with."""
    if is_subscription(text):
        deadline = time.monotonic() + 20
        with tank.live(text) as query:
            while not (events := query.take()) and time.monotonic() < deadline:
                query.wait(1.0)
        return "".join(json.dumps(event.to_dict()) + "\n" for event in events)
    with redirect_stdout(io.StringIO()) as written, redirect_stderr(written):
        session = Session(tank.sql, OWNER, form=Format.TABLE, target=written, timing=False)
        session.run(text)
    return written.getvalue()


def test_every_statement_of_the_reference_gives_what_is_shown(tank: Surgetank) -> None:
    for user, words in (("ann", "green or black?"), ("bob", "any tea")):
        state = {"messages": [HumanMessage(words), AIMessage("green")], "cups": len(user)}
        put(tank.checkpointer(), f"chat-{user}", state, user_id=user)
    tank.emit_log("the kettle is on", thread_id="chat-ann")
    tank.log_system_error("kettle_failed", "no water", thread_id="chat-ann")
    text = (DOCS / "reference" / "sql.md").read_text(encoding="utf-8")
    blocks = BLOCK.findall(text)
    assert len(blocks) == text.count("```sql") > 10
    checker, seen = doctest.OutputChecker(), set[str]()
    for statements, expected in blocks:
        found = shown(tank, statements)
        if expected:
            assert checker.check_output(expected, found, FLAGS), f"{statements}gives\n{found}"
        else:
            assert "surgetank:" not in found, f"{statements}gives\n{found}"
        with suppress(InvalidRequest):  # one that shows how it is refused
            for each in parsing.parse(statements):
                action = each.action.action if isinstance(each.action, ExecuteAs) else each.action
                seen |= {type(each.action).__name__, type(action).__name__}
    every = {each.__name__ for each in get_args(Action)}
    assert seen == every, "each statement has an example"


def test_the_queries_of_the_page_for_analysts_run_as_one(furnished: Furnished) -> None:
    text = (DOCS / "how-to" / "analysts.md").read_text(encoding="utf-8")
    blocks = BLOCK.findall(text)
    assert blocks
    with furnished.connect(furnished.ada) as ada:
        for statements, _ in blocks:
            for statement in statements.split(";\n"):
                if statement.strip():
                    ada.execute(statement.encode()).fetchall()
