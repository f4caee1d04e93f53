"""Assistants: the default one of each graph, which anybody who is signed in may read, and those that
clients made, which are their own."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from surgetank.exceptions import Conflict
from surgetank.server.access.authorizing import AskedRoute, allowed_on
from surgetank.server.access.narrowing import both, contains
from surgetank.server.access.roles import Caller
from surgetank.server.agent.assistants import (
    assistant_json,
    defaults,
    looked_up,
    made_by_clients,
    may_use,
)
from surgetank.server.agent.requests import uuid_of, whose
from surgetank.server.agent.threads import delete_thread_of
from surgetank.server.agent.wire import json_response
from surgetank.server.dependencies import CurrentCaller, Deps, signed_in
from surgetank.server.http.problems import documented, not_found
from surgetank.server.schemas.assistants import (
    AssistantAnswer,
    AssistantCreate,
    AssistantPart,
    AssistantPatch,
    AssistantSearch,
    GraphAnswer,
    SchemasAnswer,
    VersionChoice,
    VersionsSearch,
)
from surgetank.server.services import Services
from surgetank.workflows.assistants import Assistant, AssistantFilter
from surgetank.workflows.threads import ThreadFilter

router = APIRouter(
    route_class=AskedRoute,
    prefix="/assistants",
    tags=["assistants"],
    dependencies=signed_in(),
    responses=documented(401, 403, 404, 409, 422, 429, 503),
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


def _found(
    services: Services, body: AssistantSearch, metadata: Mapping[str, Any]
) -> list[Assistant]:
    """The default ones that are wanted."""
    return [
        each
        for each in defaults(services)
        if body.graph_id in (None, each.graph_id)
        and (body.name is None or body.name.lower() in each.name.lower())
        and contains(each.metadata, metadata)
    ]


def _wanted(who: Caller, body: AssistantSearch, metadata: Mapping[str, Any]) -> AssistantFilter:
    return AssistantFilter(
        owner=whose(who), graph_id=body.graph_id, name=body.name, metadata=metadata
    )


@router.post("", response_model=AssistantAnswer)
def create(body: AssistantCreate, services: Deps, who: CurrentCaller) -> Response:
    """Make an assistant, which is the caller's: a graph with what it is given in each run."""
    graph = looked_up(services, who, body.graph_id, filtered=False).graph_id
    id_ = uuid_of(body.assistant_id, "assistant_id") if body.assistant_id is not None else None
    if id_ is not None and any(id_ == each.assistant_id for each in defaults(services)):
        raise _taken(id_)
    try:
        made = services.tank.assistants.create(
            graph, owner=who.user, actor=who.user, assistant_id=id_, name=body.name,
            description=body.description, config=body.config, context=body.context,
            metadata=body.metadata,
        )  # fmt: skip
    except Conflict:
        assert id_ is not None
        there = services.tank.assistants.find(id_)
        if body.if_exists != "do_nothing" or there is None or not may_use(who, there):
            raise
        made = there
    return json_response(assistant_json(made))


def _taken(id_: uuid.UUID) -> Conflict:
    return Conflict(f"The assistant {id_} is there already.", remedy="use another id.")


@router.post("/search", response_model=list[AssistantPart])
def search(body: AssistantSearch, services: Deps, who: CurrentCaller) -> Response:
    """Assistants by graph, name or metadata: those of graphs, and those that were made."""
    end = body.offset + body.limit
    metadata = both(body.metadata, who.filters.get("assistants"))
    if metadata is None:
        return json_response([])
    found = _found(services, body, metadata)
    descending = body.sort_order == "desc" if body.sort_by is not None else True
    found += services.tank.assistants.search(
        _wanted(who, body, metadata), sort_by=body.sort_by or "created_at", ascending=not descending, limit=end + 1
    )  # fmt: skip
    if body.sort_by is not None:
        found.sort(key=partial(_sort_key, body.sort_by), reverse=descending)
    page = [assistant_json(each) for each in found[body.offset : end]]
    if body.select is not None:
        page = [{n: each[n] for n in body.select if n in each} for each in page]
    return json_response(page, headers={"X-Pagination-Next": str(end)} if len(found) > end else {})


def _sort_key(name: str, assistant: Assistant) -> Any:
    value = getattr(assistant, name)
    return str(value) if name == "assistant_id" else value


@router.post("/count", response_model=int)
def count(body: AssistantSearch, services: Deps, who: CurrentCaller) -> int:
    """How many there are."""
    metadata = both(body.metadata, who.filters.get("assistants"))
    if metadata is None:
        return 0
    made = services.tank.assistants.count(_wanted(who, body, metadata))
    return len(_found(services, body, metadata)) + made


@router.get("/{assistant}", response_model=AssistantAnswer)
def one(assistant: AssistantId, services: Deps, who: CurrentCaller) -> Response:
    """One assistant, by its id or the name of its graph."""
    return json_response(assistant_json(looked_up(services, who, assistant).assistant))


@router.patch("/{assistant}", response_model=AssistantAnswer)
def change(
    assistant: AssistantId, body: AssistantPatch, services: Deps, who: CurrentCaller
) -> Response:
    """Change an assistant, which makes a version. Runs that were accepted before keep what they
    have."""
    there = made_by_clients(services, who, assistant)
    graph = None
    if body.graph_id is not None:
        graph = looked_up(services, who, body.graph_id, filtered=False).graph_id
    changed = services.tank.assistants.change(
        there.assistant_id, actor=who.user, graph_id=graph, name=body.name,
        description=body.description, config=body.config, context=body.context, metadata=body.metadata,
    )  # fmt: skip
    return json_response(assistant_json(changed))


@router.delete("/{assistant}", status_code=204)
async def delete(
    assistant: AssistantId,
    services: Deps,
    who: CurrentCaller,
    delete_threads: Annotated[
        bool, Query(description="The caller's threads that were run with it last go too.")
    ] = False,
) -> Response:
    """Delete an assistant with its versions. 409 while one of the threads that go is busy."""
    there = await run_in_threadpool(made_by_clients, services, who, assistant)
    if delete_threads:
        await _delete_threads(services, who, str(there.assistant_id))
    await run_in_threadpool(services.tank.assistants.delete, there.assistant_id, actor=who.user)
    return Response(status_code=204)


async def _delete_threads(services: Services, who: Caller, assistant: str) -> None:
    """The caller's threads that were run with it last, but for those that the project's handlers
    hide. Raises `Problem` where they refuse one."""
    wanted = ThreadFilter(owner=who.user, metadata={"assistant_id": assistant})
    left = 0
    search = services.tank.threads.rows.search
    while rows := await run_in_threadpool(search, wanted, limit=100, offset=left):
        for row in rows:
            narrowed = await allowed_on(services, who, row.thread_id, "delete")
            name = {row.thread_id}
            if await run_in_threadpool(services.visibility.let_through, narrowed, name):
                await run_in_threadpool(delete_thread_of, services, who, row.thread_id)
            else:
                left += 1


@router.post("/{assistant}/versions", response_model=list[AssistantAnswer])
def versions(
    assistant: AssistantId, body: VersionsSearch, services: Deps, who: CurrentCaller
) -> Response:
    """Its versions, the newest first."""
    found = looked_up(services, who, assistant)
    if not found.made:
        only = [found.assistant] if contains(found.assistant.metadata, body.metadata or {}) else []
        return json_response([assistant_json(each) for each in only[body.offset :]])
    page = services.tank.assistants.versions(
        found.assistant.assistant_id, metadata=body.metadata, limit=body.limit, offset=body.offset
    )
    return json_response([assistant_json(each) for each in page])


@router.post("/{assistant}/latest", response_model=AssistantAnswer)
def use_version(
    assistant: AssistantId, body: VersionChoice, services: Deps, who: CurrentCaller
) -> Response:
    """Use a version of it from now on."""
    there = made_by_clients(services, who, assistant)
    used = services.tank.assistants.use_version(there.assistant_id, body.version, actor=who.user)
    return json_response(assistant_json(used))


@router.get("/{assistant}/schemas", response_model=SchemasAnswer)
async def schemas(assistant: AssistantId, services: Deps, who: CurrentCaller) -> Response:
    """JSON schemas of what the graph takes, keeps and gives. One that can't be said is null."""
    from surgetank.workflows.graphs.shape import schemas_of  # noqa: PLC0415 - needs the extra

    name = looked_up(services, who, assistant).graph_id
    assert services.graphs is not None
    async with services.graphs.open(name, access="assistants.read") as graph:
        return json_response({"graph_id": name, **schemas_of(graph)})


@router.get("/{assistant}/graph", response_model=GraphAnswer)
async def drawing(
    assistant: AssistantId,
    services: Deps,
    who: CurrentCaller,
    xray: Annotated[
        str, Query(max_length=10, description="With subgraphs: true, or how deep.")
    ] = "false",
) -> Response:
    """Nodes and edges of the graph."""
    from surgetank.workflows.graphs.shape import drawing_of  # noqa: PLC0415 - needs the extra

    name = looked_up(services, who, assistant).graph_id
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
    who: CurrentCaller,
    recurse: Annotated[bool, Query(description="Those of subgraphs as well.")] = False,
) -> Response:
    """The schemas of subgraphs, by their namespace."""
    return await _subgraphs(services, who, assistant, None, recurse=recurse)


@router.get("/{assistant}/subgraphs/{namespace}", response_model=dict[str, SchemasAnswer])
async def subgraphs_of(
    assistant: AssistantId,
    namespace: str,
    services: Deps,
    who: CurrentCaller,
    recurse: Annotated[bool, Query(description="Those of subgraphs as well.")] = False,
) -> Response:
    """The schemas of the subgraphs in a namespace."""
    return await _subgraphs(services, who, assistant, namespace, recurse=recurse)


async def _subgraphs(
    services: Services, who: Caller, assistant: str, namespace: str | None, *, recurse: bool
) -> Response:
    from surgetank.workflows.graphs.shape import schemas_of  # noqa: PLC0415 - needs the extra

    name = looked_up(services, who, assistant).graph_id
    assert services.graphs is not None
    async with services.graphs.open(name, access="assistants.read") as graph:
        found = [pair async for pair in graph.aget_subgraphs(namespace=namespace, recurse=recurse)]
        return json_response(
            {path: {"graph_id": name, **schemas_of(inner)} for path, inner in found}  # type: ignore[arg-type]
        )
