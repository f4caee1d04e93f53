"""LangGraph projects in a folder of the test's own, and what importing them changes undone."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HEAD = """
from contextlib import asynccontextmanager, contextmanager
from typing import TypedDict
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

class State(TypedDict):
    text: str

def shout(state):
    return {"text": state["text"] + "!"}

def builder_of(*names, schema=State):
    builder = StateGraph(schema)
    for before, name in zip((START, *names), names):
        builder.add_node(name, shout)
        builder.add_edge(before, name)
    builder.add_edge(names[-1], END)
    return builder
"""
MakeProject = Callable[..., Path]


@pytest.fixture
def imports_undone(tmp_path: Path) -> Iterator[None]:
    """Import paths, environment and modules are afterwards as they were."""
    modules, paths, environment = set(sys.modules), list(sys.path), dict(os.environ)
    yield
    added = [path for path in sys.path if path not in paths]
    sys.path[:] = paths
    os.environ.clear()
    os.environ.update(environment)
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith((str(tmp_path), *added)):
            del sys.modules[name]


@pytest.fixture
def project(tmp_path: Path, imports_undone: None) -> MakeProject:
    """Writes a project's files and its `langgraph.json`, whose path it gives."""

    def make(files: dict[str, str], graphs: dict[str, Any], **keys: Any) -> Path:
        found = tmp_path / "project" / "langgraph.json"
        for name, text in files.items():
            path = found.parent / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        found.parent.mkdir(exist_ok=True)
        found.write_text(json.dumps({"dependencies": ["."], "graphs": graphs, **keys}))
        return found

    return make
