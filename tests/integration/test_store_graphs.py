"""Graphs of a project use the store in their nodes, and the engine without LangGraph says so."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from support.projects import HEAD
from surgetank.exceptions import ConfigurationError, MissingExtra
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet

CODE = (
    HEAD
    + """
from langgraph.config import get_store
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore

def by_argument(state, *, store: BaseStore):
    store.put(("memories", "ada"), "argument", {"text": state["text"]})
    return {"text": store.get(("memories", "ada"), "argument").value["text"] + "1"}

def by_runtime(state, runtime: Runtime):
    runtime.store.put(("memories", "ada"), "runtime", {"text": state["text"]})
    return {"text": state["text"] + str(len(runtime.store.search(("memories",))))}

async def by_await(state, *, store: BaseStore):
    await store.aput(("memories", "ada"), "await", {"text": state["text"]})
    found = await store.asearch(("memories", "ada"), filter={"text": state["text"]})
    return {"text": state["text"] + found[0].key}

def by_config(state):
    get_store().put(("memories", "ada"), "config", {"text": state["text"]})
    return {"text": state["text"] + "."}

def build(*nodes):
    builder = StateGraph(State)
    for before, node in zip((START, *(n.__name__ for n in nodes)), nodes):
        builder.add_node(node.__name__, node)
        builder.add_edge(before, node.__name__)
    return builder

everything = build(by_argument, by_runtime, by_config, by_await)
plain = build(by_argument, by_runtime, by_config).compile()
"""
)


@pytest.fixture
def graphs(project, tank) -> GraphSet:
    path = project(
        {"storing.py": CODE},
        {"everything": "./storing.py:everything", "plain": "./storing.py:plain"},
    )
    return GraphSet(load(path), checkpointer=tank.checkpointer(), store=tank.store())


async def test_nodes_use_the_store_both_ways(graphs, tank):
    config: Any = {"configurable": {"thread_id": "t"}}
    async with graphs.open("everything", config) as graph:
        result = await graph.ainvoke({"text": "a"}, config)
    assert result == {"text": "a12.await"}
    found = {item.key for item in tank.store().search(("memories", "ada"))}
    assert found == {"argument", "runtime", "config", "await"}


async def test_nodes_use_it_where_the_graph_is_invoked_on_a_thread(graphs, tank):
    config: Any = {"configurable": {"thread_id": "t"}}
    async with graphs.open("plain", config) as graph:
        result = await asyncio.to_thread(graph.invoke, {"text": "a"}, config)
    assert result == {"text": "a12."}
    assert len(tank.store().search(("memories", "ada"))) == 3


EMBED = (
    HEAD
    + """
graph = builder_of("a")

def embed(texts):
    return [[float(text.count("a")), float(text.count("b"))] for text in texts]
"""
)


def test_the_store_of_a_project_is_as_its_langgraph_json_says(project, tank):
    store = {
        "index": {"embed": "./embedding.py:embed", "dims": 2, "fields": ["text"]},
        "ttl": {"default_ttl": 60, "refresh_on_read": False, "sweep_interval_minutes": 5},
    }
    path = project({"embedding.py": EMBED}, {"it": "./embedding.py:graph"}, store=store)
    tank.set_store_of(load(path))
    tank.store().put(("a",), "a", {"text": "aaa"})
    tank.store().put(("a",), "b", {"text": "bbb"})
    assert [item.key for item in tank.store().search((), query="banana")] == ["a", "b"]
    assert tank.store().ttl_config["default_ttl"] == 60


@pytest.mark.parametrize(
    "store",
    [
        {"index": {"embed": "./embedding.py:none", "dims": 2}}, {"index": {"embed": "./none.py:embed", "dims": 2}},
        {"index": {"embed": "../else.py:embed", "dims": 2}}, {"index": {"embed": "./embedding.py:embed"}},
        {"index": {"embed": "no-provider:model", "dims": 2}}, {"index": "openai"}, {"ttl": 5},
        {"ttl": {"default_ttl": -1}},
        {"ttl": {"default_ttl": "1h"}}, {"ttl": {"minutes": 5}},
        {"index": {"embed": "./embedding.py:embed", "dims": 2, "more": 1}},
    ],
)  # fmt: skip
def test_a_store_that_cannot_be_used_is_refused(project, tank, store):
    path = project({"embedding.py": EMBED}, {"it": "./embedding.py:graph"}, store=store)
    with pytest.raises(ConfigurationError) as caught:
        tank.set_store_of(load(path))
    assert caught.value.remedy


def test_without_langgraph_the_store_is_an_extra_and_the_engine_works(tank, monkeypatch):
    for name in [
        n for n in sys.modules if n.startswith(("langgraph", "surgetank.workflows.store."))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "langgraph", None)
    with pytest.raises(MissingExtra, match="surgetank\\[langgraph\\]"):
        tank.store()
    assert tank.erase_user("ada").state == "completed"
