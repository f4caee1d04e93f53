"""What a graph consists of and takes: pure functions of a compiled graph.

A graph can be one of which that can't be said (a state of classes without a JSON schema): the
answer is None then, never an error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_type_hints, is_typeddict

from langgraph.channels.base import BaseChannel
from langgraph.pregel import Pregel
from pydantic import create_model

Graph = Pregel[Any, Any, Any, Any]
_T = TypeVar("_T")


def nodes_of(graph: Graph) -> tuple[str, ...]:
    """The names of the nodes, in the order in which they were added."""
    return tuple(name for name in graph.nodes if not name.startswith("__"))


def schemas_of(graph: Graph) -> dict[str, dict[str, Any] | None]:
    """JSON schemas by the names that `GET /assistants/{id}/schemas` gives them.

    `config_schema` is that of `configurable`, which is the context of the graph.
    """
    builder = getattr(graph, "builder", None)
    context = _schema(graph, "Context", graph.get_context_jsonschema, graph.context_schema)
    taken = getattr(builder, "input_schema", None)
    given = getattr(builder, "output_schema", None)
    return {
        "input_schema": _schema(graph, "Input", graph.get_input_jsonschema, taken),
        "output_schema": _schema(graph, "Output", graph.get_output_jsonschema, given),
        "state_schema": _if_it_can(lambda: _state_schema(graph)),
        "config_schema": context,
        "context_schema": context,
    }


def drawing_of(graph: Graph, *, xray: int | bool = False) -> dict[str, Any] | None:
    """Nodes and edges as `GET /assistants/{id}/graph` gives them. With `xray` subgraphs are drawn
    too; a number says how deep."""
    return _if_it_can(lambda: graph.get_graph(xray=xray).to_json())


def structure_hash(graph: Graph) -> str:
    """A hash of nodes and edges, subgraphs included: the same in every process, and another one
    when a run that began with the old structure might not be able to go on."""
    drawing = drawing_of(graph, xray=True)
    if drawing is None:
        structure: Any = sorted((name, sorted(node.triggers)) for name, node in graph.nodes.items())
    else:
        edges = [
            (edge["source"], edge["target"], edge.get("conditional", False))
            for edge in drawing["edges"]
        ]
        structure = [sorted(node["id"] for node in drawing["nodes"]), sorted(edges)]
    return hashlib.sha256(json.dumps(structure).encode()).hexdigest()[:32]


def _state_schema(graph: Graph) -> dict[str, Any]:
    types = {
        name: channel.UpdateType
        for name in graph.stream_channels_list
        if isinstance(channel := graph.channels[name], BaseChannel)
    }
    return _of_fields(graph.get_name("State"), types)


def _schema(
    graph: Graph, name: str, ask: Callable[[], dict[str, Any] | None], declared: Any
) -> dict[str, Any] | None:
    """What the graph says; where pydantic refuses the form of a class, what its fields say. Before
    Python 3.12 it refuses each `typing.TypedDict`."""
    said = _if_it_can(ask)
    if said is not None or not is_typeddict(declared):
        return said
    return _if_it_can(lambda: _of_fields(graph.get_name(name), get_type_hints(declared)))


def _of_fields(name: str, types: Mapping[str, Any]) -> dict[str, Any]:
    fields: Any = {field: (kind, None) for field, kind in types.items()}
    schema: dict[str, Any] = create_model(name, **fields).model_json_schema()
    return schema


def _if_it_can(ask: Callable[[], _T]) -> _T | None:
    try:
        return ask()
    except Exception:  # noqa: BLE001 - it is the graph's own classes that say no, with any error
        return None
