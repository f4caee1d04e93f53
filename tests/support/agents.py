"""A project with a support agent, for the console's tests and pictures: it talks as it thinks, has a subgraph, asks
a person, and fails when it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from surgetank import Surgetank
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet

PROJECT = """
import time
from typing import Annotated, Literal, TypedDict
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt

class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    order: str
    amount: float
    tone: Literal["kind", "short"]
    fail: bool
    ask: bool
    pause: float

def read_order(state):
    time.sleep(state.get("pause") or 0)
    return {"amount": 39.9, "messages": [AIMessage("", tool_calls=[
        {"name": "find_order", "args": {"order": state.get("order", "4821")}, "id": "c1"}])]}

def check(state):
    if state.get("fail"):
        raise RuntimeError("<b>the payment service</b> refused the order")
    return {"amount": state["amount"]}

def reply(state):
    words = "Dear Ada, we are sorry. Your money is on its way."
    model = GenericFakeChatModel(messages=iter([AIMessage(words)]))
    said = None
    for piece in model.stream(state["messages"]):
        said = piece if said is None else said + piece
        time.sleep((state.get("pause") or 0) / 4)
    return {"messages": [AIMessage(said.content, id=said.id)]}

def approve(state):
    return {"tone": "kind"} if not state.get("ask") else {"order": interrupt("Refund 39.90 EUR?")}

inner = StateGraph(State)
inner.add_node("look_up", lambda state: {"order": state.get("order", "4821")})
inner.add_node("check", check)
inner.add_edge(START, "look_up")
inner.add_edge("look_up", "check")

builder = StateGraph(State)
builder.add_node("read_order", read_order)
builder.add_node("payment", inner.compile())
builder.add_node("approve", approve)
builder.add_node("reply", reply)
builder.add_edge(START, "read_order")
builder.add_edge("read_order", "payment")
builder.add_edge("payment", "approve")
builder.add_edge("approve", "reply")
graph = builder.compile()
"""


@contextmanager
def agents(tank: Surgetank, folder: Path) -> Iterator[GraphSet]:
    """The graphs of the project, with a worker for their runs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "support_agent.py").write_text(PROJECT, encoding="utf-8")
    config = folder / "langgraph.json"
    config.write_text(
        '{"dependencies": ["."], "graphs": {"support": {"path": "./support_agent.py:graph", '
        '"description": "Answers people who write about their orders."}}}',
        encoding="utf-8",
    )
    graphs = GraphSet(load(config), checkpointer=tank.checkpointer())
    worker = tank.runs.service(graphs)
    worker.start()
    try:
        yield graphs
    finally:
        assert worker.stop(20.0)


def run_on(client: Any, thread: str, given: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Run it on a thread, to its end; the run as clients see it."""
    asked = {"assistant_id": "support", "input": given, "if_not_exists": "create", **more}
    client.post(f"/threads/{thread}/runs/wait", json=asked).raise_for_status()
    runs: list[dict[str, Any]] = client.get(f"/threads/{thread}/runs").json()
    return runs[0]
