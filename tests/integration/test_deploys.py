"""State classes that change between deploys, through the saver: what the user and the thread's log
get."""
# No `from __future__ import annotations` here: LangGraph could not resolve the names of classes
# inside a function.

import sys
import types
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from support.savers import config, put
from surgetank import StateCorrupt
from surgetank.streams.checkpoints.serde import types as serde_types

NAME = "state_classes_of_the_saver"
ALLOWED = [(NAME, "M"), (NAME, "Gone")]
HEAD = "from pydantic import BaseModel\nfrom typing import Any\n"


@pytest.fixture
def deploy(monkeypatch):
    """Puts a module with this source in the place of the one before."""

    def deployed(source: str) -> Any:
        made = types.ModuleType(NAME)
        monkeypatch.setitem(sys.modules, NAME, made)
        exec(HEAD + source, made.__dict__)
        return made

    return deployed


@pytest.mark.parametrize("cold", [False, True])
def test_a_changed_class_is_told_once_in_the_log_of_each_thread_that_has_it(tank, deploy, cold):
    module = deploy("class M(BaseModel):\n    a: int\nclass Gone(BaseModel):\n    b: int")
    saver = tank.checkpointer().with_allowlist(ALLOWED)
    for thread in ("t1", "t2"):
        for step in range(3):
            put(saver, thread, {"m": module.M(a=1), "g": [module.Gone(b=2)] * 3}, step=step)
    if cold:
        assert tank.flush().ok
    deploy("class M(BaseModel):\n    a: int\n    c: str")
    for thread in ("t1", "t2"):
        for _ in range(2):
            found = list(saver.list(config(thread)))
            assert len(found) == 3
            values = found[0].checkpoint["channel_values"]
            assert (values["m"].a, values["m"].c, values["g"]) == (1, None, [{"b": 2}] * 3)
        lines = tank.logs(thread).lines
        assert [line.level for line in lines] == ["warning", "warning"]
        text = " ".join(line.message for line in lines)
        assert f"{NAME}.M: it requires 'c' now" in text
        assert f"{NAME}.Gone: it can't be imported" in text


def test_nothing_is_told_of_classes_that_are_what_they_were(tank, deploy):
    module = deploy("class M(BaseModel):\n    a: int")
    saver = tank.checkpointer().with_allowlist(ALLOWED)
    put(saver, "t", {"m": module.M(a=1)})
    assert saver.get_tuple(config("t")).checkpoint["channel_values"]["m"] == module.M(a=1)
    assert not tank.logs("t").lines


@pytest.mark.parametrize("cold", [False, True])
def test_what_cannot_be_read_names_thread_and_channel_and_the_way_out(tank, cold):
    saver = tank.checkpointer()
    c = put(saver, "t", {"good": 1, "bad": 2 + 3j})
    saver.put_writes(c, [("written", 4 + 5j)], "task")
    if cold:
        assert tank.flush().ok

    def broken(code: int, data: bytes, decode: Any) -> Any:
        raise RuntimeError("the class says no")

    saver.serde._registry.put_together = broken
    with pytest.raises(StateCorrupt, match=r"'t', channel 'bad'.*the class says no") as raised:
        saver.get_tuple(c)
    assert (raised.value.thread_id, raised.value.channel) == ("t", "bad")
    assert raised.value.remedy
    with pytest.raises(StateCorrupt, match="'bad'"):
        list(saver.list(config("t")))


def _graph(saver: Any, schema: Any, kind: Any) -> Any:
    def node(state: Any) -> dict[str, Any]:
        return {"item": kind(x=state.item.x + 1), "seen": [*state.seen, type(state.item).__name__]}

    builder = StateGraph(schema)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder.compile(checkpointer=saver)


def _local_schema() -> Any:
    class Local(BaseModel):
        x: int

    class State(BaseModel):
        item: Local
        seen: list[str] = []

    return State, Local


@pytest.mark.parametrize("cold", [False, True])
def test_a_graph_whose_classes_are_made_inside_a_function_goes_on_in_another_process(tank, cold):
    saver, peer = tank.checkpointer(), InMemorySaver()
    results = []
    for checkpointer in (saver, peer):
        for turn in range(3):
            schema, kind = _local_schema()  # as each process makes them anew
            serde_types._unfindable.clear()
            graph = _graph(checkpointer, schema, kind)
            given = {"item": kind(x=1)} if turn == 0 else {"seen": ["again"]}
            found = graph.invoke(given, config("t"))
            if cold and checkpointer is saver:
                assert tank.flush().ok
        results.append((found["item"].x, found["seen"]))
    assert results[0] == results[1] == (4, ["again", "Local"])
    assert "another process" in tank.logs("t").lines[0].message
