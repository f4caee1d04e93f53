"""Assistants: the graphs of this server, each with its default assistant. Anybody who is signed in
may read them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from surgetank.server.agent.requests import graph_named
from surgetank.server.agent.wire import json_response
from surgetank.server.dependencies import CurrentCaller, Deps, signed_in
from surgetank.server.http.problems import Problem, documented, not_found
from surgetank.server.schemas.agent import (
    AssistantAnswer,
    AssistantPart,
    AssistantSearch,
    GraphAnswer,
    SchemasAnswer,
)
from surgetank.server.services import Services
from surgetank.workflows.graphs.config import assistant_id

router = APIRouter(
    prefix="/assistants",
    tags=["assistants"],
    dependencies=signed_in(),
    responses=documented(401, 404, 422, 429, 503),
)
AssistantId = Annotated[
    str,
    Path(
        min_length=1,
        max_length=2048,
        pattern=r"^[^\x00]+$",
        description="An id, or a graph's name.",
    ),
]


def _all(services: Services) -> list[dict[str, Any]]:
    """The default assistant of each graph; as old as the file that names it was at the start."""
    graphs = services.graphs
    if graphs is None:
        return []
    at = datetime.fromtimestamp(services.graphs_at, UTC).isoformat()
    described = {name: source.description for name, source in graphs.config.graphs.items()}
    return [
        {
            "assistant_id": str(assistant_id(name)), "graph_id": name, "name": name,
            "description": described.get(name), "config": {}, "context": {}, "version": 1,
            "metadata": {"created_by": "system"}, "created_at": at, "updated_at": at,
        }
        for name in graphs.names
    ]  # fmt: skip


def _graph(services: Services, named: str) -> str:
    """The graph of an assistant. Raises `Problem` 404."""
    try:
        return graph_named(services, named)[1]
    except Problem as problem:
        raise not_found("assistant", named, remedy=problem.remedy) from problem


def _found(services: Services, body: AssistantSearch) -> list[dict[str, Any]]:
    return [
        each
        for each in _all(services)
        if body.graph_id in (None, each["graph_id"])
        and (body.name is None or body.name.lower() in each["name"].lower())
        and _holds(each["metadata"], body.metadata or {})
    ]


def _holds(value: Any, part: Any) -> bool:
    """Whether JSON contains other JSON, as PostgreSQL's `@>` has it for objects."""
    if isinstance(part, Mapping):
        return isinstance(value, Mapping) and all(
            name in value and _holds(value[name], wanted) for name, wanted in part.items()
        )
    return bool(value == part)


@router.post("/search", response_model=list[AssistantPart])
def search(body: AssistantSearch, services: Deps, _: CurrentCaller) -> Response:
    """Assistants by graph, name or metadata."""
    found = _found(services, body)
    if body.sort_by is not None:
        found.sort(key=lambda a: str(a[body.sort_by or ""]), reverse=body.sort_order == "desc")
    page = found[body.offset : body.offset + body.limit]
    if body.select is not None:
        page = [{n: each[n] for n in body.select if n in each} for each in page]
    more = len(found) > body.offset + body.limit
    return json_response(
        page, headers={"X-Pagination-Next": str(body.offset + body.limit)} if more else {}
    )


@router.post("/count", response_model=int)
def count(body: AssistantSearch, services: Deps, _: CurrentCaller) -> int:
    """How many there are."""
    return len(_found(services, body))


@router.get("/{assistant}", response_model=AssistantAnswer)
def one(assistant: AssistantId, services: Deps, _: CurrentCaller) -> Response:
    """One assistant, by its id or the name of its graph."""
    graph = _graph(services, assistant)
    return json_response(next(each for each in _all(services) if each["graph_id"] == graph))


@router.get("/{assistant}/schemas", response_model=SchemasAnswer)
async def schemas(assistant: AssistantId, services: Deps, _: CurrentCaller) -> Response:
    """JSON schemas of what the graph takes, keeps and gives. One that can't be said is null."""
    from surgetank.workflows.graphs.shape import schemas_of  # noqa: PLC0415 - needs the extra

    name = _graph(services, assistant)
    assert services.graphs is not None
    async with services.graphs.open(name, access="assistants.read") as graph:
        return json_response({"graph_id": name, **schemas_of(graph)})


@router.get("/{assistant}/graph", response_model=GraphAnswer)
async def drawing(
    assistant: AssistantId,
    services: Deps,
    _: CurrentCaller,
    xray: Annotated[
        str, Query(max_length=10, description="With subgraphs: true, or how deep.")
    ] = "false",
) -> Response:
    """Nodes and edges of the graph."""
    from surgetank.workflows.graphs.shape import drawing_of  # noqa: PLC0415 - needs the extra

    name = _graph(services, assistant)
    assert services.graphs is not None
    deep = int(xray) if xray.isdecimal() else xray.lower() == "true"
    async with services.graphs.open(name, access="assistants.read") as graph:
        drawn = drawing_of(graph, xray=deep)
    if drawn is None:
        raise not_found(
            "drawing of the graph", name, remedy="see whether its classes have schemas."
        )
    return json_response(drawn)


@router.get("/{assistant}/subgraphs", response_model=dict[str, SchemasAnswer])
async def subgraphs(
    assistant: AssistantId,
    services: Deps,
    _: CurrentCaller,
    recurse: Annotated[bool, Query(description="Those of subgraphs as well.")] = False,
) -> Response:
    """The schemas of subgraphs, by their namespace."""
    return await _subgraphs(services, assistant, None, recurse=recurse)


@router.get("/{assistant}/subgraphs/{namespace}", response_model=dict[str, SchemasAnswer])
async def subgraphs_of(
    assistant: AssistantId,
    namespace: str,
    services: Deps,
    _: CurrentCaller,
    recurse: Annotated[bool, Query(description="Those of subgraphs as well.")] = False,
) -> Response:
    """The schemas of the subgraphs in a namespace."""
    return await _subgraphs(services, assistant, namespace, recurse=recurse)


async def _subgraphs(
    services: Services, assistant: str, namespace: str | None, *, recurse: bool
) -> Response:
    from surgetank.workflows.graphs.shape import schemas_of  # noqa: PLC0415 - needs the extra

    name = _graph(services, assistant)
    assert services.graphs is not None
    async with services.graphs.open(name, access="assistants.read") as graph:
        found = [pair async for pair in graph.aget_subgraphs(namespace=namespace, recurse=recurse)]
        return json_response(
            {path: {"graph_id": name, **schemas_of(inner)} for path, inner in found}  # type: ignore[arg-type]
        )
