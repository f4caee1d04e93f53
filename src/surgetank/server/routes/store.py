"""The store: what graphs and clients keep beside threads, with the shapes of LangGraph's clients.

Who is no administrator reaches the part that the setting `store_scope` gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from surgetank.app.store import SurgetankStore, invalid_namespace, store_for
from surgetank.encode.sanitize import encode_clean, sanitize_for_json
from surgetank.server.access.authorizing import AskedRoute
from surgetank.server.access.roles import Role
from surgetank.server.dependencies import CurrentCaller, Deps, signed_in
from surgetank.server.http.problems import Problem, documented
from surgetank.server.schemas.store import (
    FoundItems,
    ListNamespaces,
    NamedItem,
    Namespaces,
    PutItem,
    SearchItems,
    StoredItem,
)

router = APIRouter(
    route_class=AskedRoute,
    prefix="/store",
    tags=["store"],
    dependencies=signed_in(),
    responses=documented(401, 403, 422, 429, 501, 503),
)
Name = partial(Query, min_length=1, max_length=2048, pattern=r"^[^\x00]+$")


def own_store(who: CurrentCaller, services: Deps) -> SurgetankStore:
    """The part of the store that the caller reaches."""
    scope, admin = services.settings.store_scope, who.role.covers(Role.ADMIN)
    return store_for(services.tank.store(), scope, who.user, admin=admin)


Store = Annotated[SurgetankStore, Depends(own_store)]


@router.put("/items", status_code=204)
def put(body: PutItem, store: Store) -> None:
    """Store an item, or a new value of one."""
    ttl = {"ttl": body.ttl} if body.ttl is not None else {}
    with _namespaces():
        store.put(tuple(body.namespace), body.key, body.value, index=body.index, **ttl)


@router.get("/items", response_model=StoredItem | None)
def get(
    store: Store,
    key: Annotated[str, Name(description="The item's key.")],
    namespace: Annotated[
        str, Query(max_length=2048, description="The labels, joined by points.")
    ] = "",
    refresh_ttl: Annotated[
        bool | None, Query(description="Whether it lives longer for being read.")
    ] = None,
) -> Response:
    """An item, or null."""
    with _namespaces():
        labels = tuple(namespace.split(".")) if namespace else ()
        item = store.get(labels, key, refresh_ttl=refresh_ttl)
    return _json(item.dict() if item is not None else None)


@router.delete("/items", status_code=204)
def delete(body: NamedItem, store: Store) -> None:
    """Delete an item, if it is there."""
    with _namespaces():
        store.delete(tuple(body.namespace), body.key)


@router.post("/items/search", response_model=FoundItems)
def search(body: SearchItems, store: Store) -> Response:
    """Items at or below a namespace, the newest first, or with a `query` the nearest."""
    with _namespaces():
        found = store.search(
            tuple(body.namespace_prefix),
            query=body.query,
            filter=body.filter,
            limit=body.limit,
            offset=body.offset,
            refresh_ttl=body.refresh_ttl,
        )
    return _json({"items": [{**item.dict(), "score": item.score} for item in found]})


@router.post("/namespaces", response_model=Namespaces)
def namespaces(body: ListNamespaces, store: Store) -> dict[str, Any]:
    """Namespaces that hold items, in order."""
    with _namespaces():
        found = store.list_namespaces(
            prefix=tuple(body.prefix) if body.prefix else None,
            suffix=tuple(body.suffix) if body.suffix else None,
            max_depth=body.max_depth,
            limit=body.limit,
            offset=body.offset,
        )
    return {"namespaces": found}


@contextmanager
def _namespaces() -> Iterator[None]:
    """LangGraph's own refusal of a namespace as a problem."""
    try:
        yield
    except invalid_namespace() as error:
        raise Problem(
            422,
            "invalid-request",
            "This can't be the namespace of an item.",
            remedy="use labels that are not empty and have no point in them; the first one can't "
            "be 'langgraph'.",
        ) from error


def _json(body: Any) -> Response:
    return Response(encode_clean(sanitize_for_json(body)), media_type="application/json")
