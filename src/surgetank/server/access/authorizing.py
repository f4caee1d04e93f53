"""What a project's handlers are asked before a route is carried out: which resource, which action,
and the value that they see and may change.

Administrators are not asked for: they are the way in when a handler is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from surgetank.encode.jsontext import dumps
from surgetank.server.access.handlers import ProjectAuth
from surgetank.server.access.identify import Asked, identify
from surgetank.server.access.narrowing import both
from surgetank.server.access.roles import Caller, Role
from surgetank.server.http.middleware import read_before
from surgetank.server.http.problems import Problem
from surgetank.server.services import Services

_THREAD = "/threads/{thread_id:name}"
_RUNS = f"{_THREAD}/runs"
_RUN = f"{_RUNS}/{{run_id}}"
_STATELESS = "/runs"
_BATCH = f"{_STATELESS}/batch"
_ASSISTANT = "/assistants/{assistant}"
_CHECKPOINT = "/user-checkpoints/{checkpoint_id}"
_WORKFLOW = "/workflows/{workflow_id}"
_READ, _SEARCH, _UPDATE = ("threads", "read"), ("threads", "search"), ("threads", "update")
_DELETE, _RUN_IT = ("threads", "delete"), ("threads", "create_run")
Ask = tuple[str, str]

ASKS: Mapping[tuple[str, str], tuple[Ask, ...]] = {
    ("GET", "/threads"): (_SEARCH,),
    ("POST", "/threads"): (("threads", "create"),),
    ("POST", "/threads/search"): (_SEARCH,),
    ("POST", "/threads/count"): (_SEARCH,),
    ("POST", "/threads/prune"): (_DELETE,),
    ("POST", f"{_THREAD}/copy"): (_READ, ("threads", "create")),
    ("GET", _THREAD): (_READ,),
    ("PATCH", _THREAD): (_UPDATE,),
    ("DELETE", _THREAD): (_DELETE,),
    ("GET", f"{_THREAD}/state"): (_READ,),
    ("POST", f"{_THREAD}/state"): (_UPDATE,),
    ("POST", f"{_THREAD}/state/checkpoint"): (_READ,),
    ("GET", f"{_THREAD}/state/{{checkpoint_id}}"): (_READ,),
    ("GET", f"{_THREAD}/history"): (_READ,),
    ("POST", f"{_THREAD}/history"): (_READ,),
    ("GET", f"{_THREAD}/logs"): (_READ,),
    ("GET", f"{_THREAD}/events"): (_READ,),
    ("POST", f"{_THREAD}/stream/events"): (_READ,),
    ("GET", f"{_THREAD}/stream"): (_READ,),
    ("WS", f"{_THREAD}/stream/events"): (_READ,),
    ("GET", "/sse/threads/{thread_id:name}"): (_READ,),
    ("WS", "/ws/threads/{thread_id:name}"): (_READ,),
    ("GET", "/sse/events"): (_SEARCH,),
    ("WS", "/ws/events"): (_SEARCH,),
    ("POST", _RUNS): (_RUN_IT,),
    ("POST", f"{_RUNS}/wait"): (_RUN_IT,),
    ("POST", f"{_RUNS}/stream"): (_RUN_IT,),
    ("POST", _STATELESS): (_RUN_IT,),
    ("POST", f"{_STATELESS}/wait"): (_RUN_IT,),
    ("POST", f"{_STATELESS}/stream"): (_RUN_IT,),
    ("POST", _BATCH): (_RUN_IT,),
    ("POST", f"{_STATELESS}/cancel"): (_UPDATE,),
    ("GET", _RUNS): (_READ,),
    ("GET", _RUN): (_READ,),
    ("DELETE", _RUN): (_DELETE,),
    ("POST", f"{_RUN}/cancel"): (_UPDATE,),
    ("GET", f"{_RUN}/join"): (_READ,),
    ("GET", f"{_RUN}/stream"): (_READ,),
    ("POST", "/assistants"): (("assistants", "create"),),
    ("POST", "/assistants/search"): (("assistants", "search"),),
    ("POST", "/assistants/count"): (("assistants", "search"),),
    ("GET", _ASSISTANT): (("assistants", "read"),),
    ("PATCH", _ASSISTANT): (("assistants", "update"),),
    ("DELETE", _ASSISTANT): (("assistants", "delete"),),
    ("POST", f"{_ASSISTANT}/versions"): (("assistants", "read"),),
    ("POST", f"{_ASSISTANT}/latest"): (("assistants", "update"),),
    ("GET", f"{_ASSISTANT}/schemas"): (("assistants", "read"),),
    ("GET", f"{_ASSISTANT}/graph"): (("assistants", "read"),),
    ("GET", f"{_ASSISTANT}/subgraphs"): (("assistants", "read"),),
    ("GET", f"{_ASSISTANT}/subgraphs/{{namespace}}"): (("assistants", "read"),),
    ("POST", "/runs/crons"): (("crons", "create"),),
    ("POST", f"{_RUNS}/crons"): (("crons", "create"), _READ),
    ("POST", "/runs/crons/search"): (("crons", "search"),),
    ("POST", "/runs/crons/count"): (("crons", "search"),),
    ("PATCH", "/runs/crons/{cron_id}"): (("crons", "update"),),
    ("DELETE", "/runs/crons/{cron_id}"): (("crons", "delete"),),
    ("PUT", "/store/items"): (("store", "put"),),
    ("GET", "/store/items"): (("store", "get"),),
    ("DELETE", "/store/items"): (("store", "delete"),),
    ("POST", "/store/items/search"): (("store", "search"),),
    ("POST", "/store/namespaces"): (("store", "list_namespaces"),),
    ("GET", "/user-checkpoints"): (_SEARCH,),
    ("GET", "/user-checkpoints/stats"): (_SEARCH,),
    ("GET", _CHECKPOINT): (_READ,),
    ("POST", f"{_CHECKPOINT}/resolve"): (_RUN_IT,),
    ("POST", f"{_CHECKPOINT}/assign"): (_UPDATE,),
    ("GET", "/webhooks/deliveries"): (_SEARCH,),
    ("POST", "/webhooks/deliveries/{delivery_id}/retry"): (_UPDATE,),
    ("GET", "/workflows"): (_SEARCH,),
    ("GET", _WORKFLOW): (_READ,),
    ("POST", f"{_WORKFLOW}/cancel"): (_UPDATE,),
    ("POST", f"{_WORKFLOW}/retry"): (_RUN_IT,),
}
_RUN_FIELDS = frozenset(
    (
        "assistant_id", "thread_id", "run_id", "metadata", "multitask_strategy", "if_not_exists",
        "after_seconds",
    )
)  # fmt: skip
_CRON_FIELDS = frozenset(
    ("schedule", "cron_id", "thread_id", "end_time", "metadata", "timezone", "enabled")
)
# Under which name handlers see the other fields, as on LangGraph's server.
_GROUPED: Mapping[Ask, tuple[str, frozenset[str]]] = {
    _RUN_IT: ("kwargs", _RUN_FIELDS),
    ("crons", "create"): ("payload", _CRON_FIELDS),
}
_WITH_METADATA = ("create", "update", "search", "create_run")
_NAMESPACE = {"search": "namespace_prefix", "list_namespaces": "prefix"}
_IDS = {"assistant": "assistant_id"}


@dataclass(slots=True)
class _Given:
    """What a request says, as handlers see it: the fields of its body and the ids of its address."""

    body: Any
    ids: dict[str, Any]

    def value(self, resource: str, action: str) -> dict[str, Any]:
        """The value of one resource and action, a new one."""
        body = dict(self.body)
        if resource in ("threads", "assistants", "crons") and action in _WITH_METADATA:
            said = body.get("metadata")  # the route refuses what is no object
            body["metadata"] = dict(said) if isinstance(said, Mapping) else {}
        if resource == "store":
            named = body.pop(_NAMESPACE.get(action, "namespace"), None)
            return {**body, "namespace": tuple(named) if isinstance(named, list) else ()}
        if (grouped := _GROUPED.get((resource, action))) is not None:
            group, fields = grouped
            inner = {n: v for n, v in body.items() if n not in fields}
            body = {n: v for n, v in body.items() if n in fields} | {group: inner}
        return {**{n: _uuid(v) for n, v in body.items()}, **self.ids}

    def take(
        self, resource: str, action: str, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> bool:
        """Take over what a handler changed; whether it changed something. Ids of the address are
        nobody's to change."""
        changed: dict[str, Any] = {}
        gone = self._gone(resource, action, before, after)
        for name, value in after.items():
            if name in self.ids or (name in before and before[name] == value):
                continue
            if name in ("kwargs", "payload") and isinstance(value, Mapping):
                changed |= {n: v for n, v in value.items() if v != (before.get(name) or {}).get(n)}
            elif name == "namespace" and resource == "store":
                changed[_NAMESPACE.get(action, "namespace")] = list(value or ())
            else:
                changed[name] = str(value) if isinstance(value, UUID) else value
        for name in gone:
            self.body.pop(name, None)
        self.body.update(changed)
        return bool(changed or gone)

    def _gone(
        self, resource: str, action: str, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> list[str]:
        """What a handler took out of the value, by the names of the body."""
        gone: list[str] = []
        for name, value in before.items():
            if name in ("kwargs", "payload") and isinstance(value, Mapping):
                left = after.get(name)
                gone += [n for n in value if not isinstance(left, Mapping) or n not in left]
            elif name not in after and name not in self.ids:
                is_namespace = name == "namespace" and resource == "store"
                gone.append(_NAMESPACE.get(action, name) if is_namespace else name)
        return gone


def _uuid(value: Any) -> Any:
    """Ids as handlers know them."""
    if isinstance(value, str) and len(value) == 36:
        with suppress(ValueError):
            return UUID(value)
    return value


async def asked_for(
    project: ProjectAuth, who: Caller, asks: Iterable[Ask], given: _Given
) -> tuple[Caller, bool]:
    """The caller, narrowed to what the handlers say; and whether one changed what is given.

    Raises `Problem`.
    """
    filters: dict[str, Mapping[str, Any]] = dict(who.filters)
    changed = False
    for resource, action in asks:
        with _not_too_deep():
            value = given.value(resource, action)
            before = deepcopy(value)
        document = await project.ask(who, resource, action, value)
        with _not_too_deep():
            changed |= given.take(resource, action, before, value)
        merged = both(filters.get(resource), document)
        if merged is None:
            raise Problem(
                403, "refused", "What the project's handlers let through has nothing in common.",
                remedy="ask whoever runs this project for access.",
            )  # fmt: skip
        if merged:
            filters[resource] = merged
    return replace(who, filters=filters), changed


@contextmanager
def _not_too_deep() -> Iterator[None]:
    try:
        yield
    except RecursionError as error:
        raise _too_deep() from error


def _too_deep() -> Problem:
    return Problem(
        422, "invalid-request", "The request is nested too deep to be shown to the project's "
        "handlers.",
        remedy="send less levels.",
    )  # fmt: skip


async def allowed_on(services: Services, who: Caller, thread_id: str, *actions: str) -> Caller:
    """For what a route does with a thread beside what it was asked for: the caller, narrowed.
    Raises `Problem`."""
    if services.project_auth is None or who.role is Role.ADMIN:
        return who
    given = _Given({}, {"thread_id": _uuid(thread_id)})
    asks = [("threads", action) for action in actions]
    narrowed, _ = await asked_for(services.project_auth, who, asks, given)
    return narrowed


async def allowed_to_search(services: Services, who: Caller) -> Caller:
    """For a list of threads that no route of the API asks for: the caller, narrowed. Raises
    `Problem`."""
    if services.project_auth is None or who.role is Role.ADMIN:
        return who
    narrowed, _ = await asked_for(services.project_auth, who, [_SEARCH], _Given({}, {}))
    return narrowed


async def allowed_command(
    services: Services, who: Caller, thread_id: str, params: Mapping[str, Any], *, starts: bool
) -> tuple[Caller, dict[str, Any]]:
    """For a command of a thread: the caller, narrowed, and what the handlers leave of its
    parameters. Raises `Problem`."""
    given = _Given(dict(params), {"thread_id": _uuid(thread_id)})
    if services.project_auth is None or who.role is Role.ADMIN:
        return who, given.body
    asks = [_RUN_IT if starts else _READ]
    narrowed, _ = await asked_for(services.project_auth, who, asks, given)
    return narrowed, given.body


async def authorize(connection: HTTPConnection, method: str, path: str) -> bytes | None:
    """Ask the project's handlers. The body to go on with, where one changed it; a query that was
    changed is in the scope. Raises `Problem`."""
    services: Services = connection.app.state.services
    asks = ASKS.get((method, path), ())
    if services.project_auth is None or not asks:
        return None
    asked: Asked = connection.scope["surgetank.asked"]
    who = await identify(connection.scope, services)
    if who.role is Role.ADMIN:
        return None
    ids = {_IDS.get(n, n): _uuid(v) for n, v in connection.path_params.items()}
    sent = _sent(connection, asked.body, several=path == _BATCH)
    parts = [_Given(part, ids) for part in (sent if isinstance(sent, list) else [sent])]
    changed = False
    for part in parts:
        if not isinstance(part.body, dict):
            continue  # the route refuses it
        narrowed, by_this = await asked_for(services.project_auth, who, asks, part)
        asked.caller = narrowed
        changed |= by_this
    if not changed:
        return None
    bodies = [part.body for part in parts]
    if method in ("GET", "WS"):
        if asks[0][0] == "store":
            connection.scope["query_string"] = _query(bodies[0])
        return None
    asked.body = dumps(bodies if isinstance(sent, list) else bodies[0])
    return asked.body


def _sent(connection: HTTPConnection, body: bytes, *, several: bool) -> Any:
    """What the route is given, read as it reads it: what it gets must be what handlers saw."""
    if connection.scope["type"] == "websocket" or connection.scope["method"] == "GET":
        query = dict(QueryParams(connection.scope["query_string"]))
        query.pop("ticket", None)
        if "namespace" in query:  # of the store: labels, joined by points
            return {**query, "namespace": [n for n in query["namespace"].split(".") if n]}
        return query
    try:
        said = json.loads(body) if body else {}
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise Problem(
            422, "invalid-request", "The request's body is no JSON.", remedy="send a JSON object."
        ) from error
    return said if isinstance(said, dict) or (several and isinstance(said, list)) else {}


def _query(said: Mapping[str, Any]) -> bytes:
    flat = {**said}
    if isinstance(labels := flat.get("namespace"), list):
        if any("." in str(label) for label in labels):
            raise Problem(
                422, "invalid-request", "A label of the namespace that the project asks for has a "
                "point in it.",
                remedy="let the handler give labels without points.",
            )  # fmt: skip
        flat["namespace"] = ".".join(map(str, labels))
    return urlencode({n: v for n, v in flat.items() if v is not None}).encode()


class AskedRoute(APIRoute):
    """A route for which a project's handlers are asked first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As of each route, with the body that the handlers leave."""
        carry_out = super().get_route_handler()
        method = next(iter(self.methods or ("GET",)))
        path = self.path

        async def asked(request: Request) -> Response:
            body = await authorize(request, method, path)
            if body is None:
                return await carry_out(request)
            return await carry_out(Request(request.scope, read_before(body, request.receive)))

        return asked
