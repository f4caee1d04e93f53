"""Every Python block of the documentation runs as it stands, page by page, against a real
database."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.commands import run_module

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What a page takes as given: the reader's own graph, order and thread.
GIVEN = """
import logging, operator
from typing import Annotated, TypedDict
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt
import surgetank
from surgetank import Surgetank
class _State(TypedDict):
    messages: Annotated[list, add_messages]
builder = StateGraph(_State)
builder.add_node("answer", lambda s: {"messages": [("assistant", "hi")]})
builder.add_edge(START, "answer")
builder.add_edge("answer", END)
class PaymentError(Exception): pass
class order: id = 7
def charge(order): raise PaymentError("refused")
"""
ENGINE = """
_engine = Surgetank().open()
_thread = surgetank.working_for("t")
_thread.__enter__()
"""
AFTER = {
    "docs/how-to/logs-and-events.md": """
search({"query": "boats"})
assert [line.message for line in _engine.logs("t")][:1] == ["searching"]
assert _engine.errors.find().errors[0].error_type == "payment_failed"
_engine.close()
""",
    "docs/how-to/runs.md": """
async def _ends(tank, run):
    graph = builder.compile(checkpointer=tank.checkpointer())
    worker, stop = tank.runs.worker({"agent": graph}), asyncio.Event()
    working = asyncio.create_task(worker.work(stop))
    while (found := tank.runs.get(run.run_id)).status in ("pending", "running"):
        await asyncio.sleep(0.1)
    stop.set()
    await working
    return found
builder = StateGraph(_State)
builder.add_node("ask", lambda s: {"messages": [("assistant", interrupt("really?"))]})
builder.add_edge(START, "ask")
builder.add_edge("ask", END)
_first = asyncio.run(serve(_engine, builder.compile(checkpointer=_engine.checkpointer())))
assert _first.status == "awaiting_checkpoint"
_second = asyncio.run(_ends(_engine, answer(_engine, _first)))
assert _second.status == "completed"
assert [row["actor"] for row in _engine.runs.audit(_first.workflow_id)][0] == "ada"
_engine.close()
""",
}
OWN_TEST = {"docs/how-to/fastapi.md"}  # test_fastapi_recipe.py


def pages() -> dict[str, str]:
    found = {}
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        blocks = BLOCK.findall(path.read_text(encoding="utf-8"))
        if blocks:
            found[str(path.relative_to(ROOT))] = "\n".join(blocks)
    return found


@pytest.mark.parametrize("page", sorted(pages().keys() - OWN_TEST))
def test_its_python_runs(page: str, database_url: str, tmp_path: Path) -> None:
    own = AFTER.get(page, "")
    code = pages()[page].replace("postgresql://user:password@host/database", database_url)
    (tmp_path / "page.py").write_text(GIVEN + (ENGINE if own else "") + code + own)
    done = run_module(
        "support.script", tmp_path / "page.py",
        SURGETANK_HOME=str(tmp_path / "home"), SURGETANK_DATABASE_URL=database_url,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_pages_with_a_test_of_their_own_have_python() -> None:
    assert pages().keys() >= OWN_TEST
    assert AFTER.keys() <= pages().keys()
