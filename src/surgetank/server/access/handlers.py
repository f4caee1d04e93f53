"""Handlers of a project (`auth.path` of its `langgraph.json`, a `langgraph_sdk.Auth`): who a request
comes from, and what it may do, on top of our own rules.

They are the project's code: each has `TIMEOUT_S`, and what goes wrong in one lets nobody in.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.types import Scope

from surgetank.encode.sanitize import sanitize_for_json
from surgetank.exceptions import ConfigurationError
from surgetank.server.access.narrowing import document_of
from surgetank.server.access.patient_threads import PatientThreads
from surgetank.server.access.roles import Caller, Role
from surgetank.server.http.problems import Problem
from surgetank.workflows.user import ProjectUser

TIMEOUT_S = 10.0
MOST_THREADS = 32  # of handlers that are not async
MOST_USER_BYTES = 64 * 1024
_ROLE_PREFIX = "surgetank:"
_GIVEN = frozenset(
    ("request", "body", "path", "method", "path_params", "query_params", "headers", "authorization", "scope")
)  # fmt: skip
_CHALLENGE = {"WWW-Authenticate": "Bearer"}


class ProjectAuth:
    """The handlers of one `langgraph_sdk.Auth`.

    Raises `ConfigurationError` for an object that is none, or that asks for what is not given.
    """

    def __init__(self, auth: Any, *, named: str, timeout_s: float = TIMEOUT_S) -> None:
        from langgraph_sdk import Auth  # noqa: PLC0415 - needs the extra

        if not isinstance(auth, Auth):
            raise ConfigurationError(
                f"'auth.path' names {named!r}, which is a {type(auth).__name__}.",
                remedy="name an object made by langgraph_sdk.Auth().",
            )
        self._auth = auth
        self._timeout_s = timeout_s
        self._threads = PatientThreads(MOST_THREADS)
        self._authenticate = auth._authenticate_handler  # noqa: SLF001 - stable, as its source says
        self._wanted = self._parameters(named)

    @property
    def authenticates(self) -> bool:
        """Whether the project says who a request comes from; else our own tokens alone do."""
        return self._authenticate is not None

    def _parameters(self, named: str) -> tuple[str, ...]:
        if self._authenticate is None:
            return ()
        parameters = inspect.signature(self._authenticate).parameters.values()
        asked = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        for each in asked:
            needed = each.default is each.empty or each.kind is each.POSITIONAL_ONLY
            if needed and (each.name not in _GIVEN or each.kind is each.POSITIONAL_ONLY):
                raise ConfigurationError(
                    f"The authenticate handler of {named!r} asks for {each.name!r}, which it isn't given.",
                    remedy=f"ask by name for some of: {', '.join(sorted(_GIVEN))}.",
                )
        return tuple(each.name for each in asked if each.name in _GIVEN)

    # -- who

    async def caller(self, scope: Scope, body: bytes) -> Caller:
        """Who the project says a request or WebSocket comes from. Raises `Problem`."""
        assert self._authenticate is not None
        arguments = {name: _given(name, scope, body) for name in self._wanted}
        said = await self._guarded("authenticate", self._identified(arguments), otherwise=401)
        return _caller_of(said)

    async def _identified(self, arguments: Mapping[str, Any]) -> Any:
        handler: Callable[..., Any] = self._authenticate  # type: ignore[assignment] # callers have looked
        if inspect.iscoroutinefunction(handler):
            return await handler(**arguments)
        said = await self._threads.run(partial(handler, **arguments))
        return await said if inspect.isawaitable(said) else said

    # -- what

    async def ask(
        self, who: Caller, resource: str, action: str, value: dict[str, Any]
    ) -> dict[str, Any]:
        """What the metadata of the resource must contain for this caller. A handler may change the
        value. Raises `Problem` 403, or what a handler raised."""
        handler = self._handler(resource, action)
        if handler is None:
            return {}
        types = self._auth.types
        user: Any = user_of(who)
        wanted: dict[str, Any] = {"resource": resource, "action": action}  # literals in its types
        context = types.AuthContext(permissions=user.permissions, user=user, **wanted)
        name = f"on.{resource}.{action}"
        said = await self._guarded(name, handler(ctx=context, value=value), otherwise=403)
        if said is None or said is True:
            return {}
        if said is False:
            raise _refused(403, "The project does not allow this.", {})
        if not isinstance(said, Mapping):
            raise TypeError(
                f"{name} of 'auth.path' gave a {type(said).__name__}, which is no filter"
            )
        try:
            return document_of(said)
        except ValueError as error:
            raise TypeError(
                f"{name} of 'auth.path' gave a filter that can't be used: {error}"
            ) from error

    def _handler(self, resource: str, action: str) -> Callable[..., Awaitable[Any]] | None:
        own = self._auth._handlers  # noqa: SLF001 - stable, as its source says
        for key in ((resource, action), (resource, "*"), ("*", action)):
            if found := own.get(key):
                handler: Callable[..., Awaitable[Any]] = found[-1]
                return handler
        general = self._auth._global_handlers  # noqa: SLF001
        return general[-1] if general else None

    async def _guarded(self, name: str, work: Awaitable[Any], *, otherwise: int) -> Any:
        deadline = asyncio.timeout(self._timeout_s)
        asking = asyncio.current_task()
        cancels = asking.cancelling() if asking is not None else 0
        try:
            async with deadline:
                return await work
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise Problem(
                503, "login-unavailable", f"{name} of the project did not answer within "
                f"{self._timeout_s:g} s.",
                remedy="try again in a moment; if it lasts, tell your operator.",
                headers={"Retry-After": "5"},
            ) from error  # fmt: skip
        except (self._auth.exceptions.HTTPException, HTTPException) as error:
            raise _refused(error.status_code, str(error.detail), error.headers or {}) from error
        except AssertionError as error:  # LangGraph's own server takes it for a refusal
            raise _refused(otherwise, str(error), {}) from error
        except asyncio.CancelledError as error:
            if asking is None or asking.cancelling() > cancels:  # it is us who are told to stop
                raise
            raise RuntimeError(f"{name} of 'auth.path' raised CancelledError") from error
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:  # it would end the server
            raise RuntimeError(f"{name} of 'auth.path' raised {type(error).__name__}") from error


def _given(name: str, scope: Scope, body: bytes) -> Any:
    headers = Headers(scope=scope)
    if name == "request":
        return _request(scope, body)
    if name == "body":
        return _json(body)
    if name == "headers":
        return dict(scope["headers"])
    if name == "authorization":
        return headers.get("authorization")
    if name == "query_params":
        return dict(QueryParams(scope["query_string"]))
    values = {
        "path": scope["path"], "method": scope.get("method", "GET"), "scope": scope,
        "path_params": dict(scope.get("path_params") or {}),
    }  # fmt: skip
    return values[name]


def _request(scope: Scope, body: bytes) -> HTTPConnection:
    if scope["type"] != "http":
        return HTTPConnection(scope)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, receive)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError):
        return None


def _caller_of(said: Any) -> Caller:
    """Raises `Problem` 401 for nobody, and `TypeError` for what is no user."""
    given = _as_mapping(said)
    name = given.get("identity")
    if not given.get("is_authenticated", True) or name in (None, ""):
        raise _refused(401, "Nobody is signed in.", {})
    if not isinstance(name, str) or len(name) > 2048 or "\0" in name:
        raise TypeError("the identity that 'auth.path' gave is no text of 1 to 2048 characters")
    permissions = given.get("permissions") or ()
    if isinstance(permissions, str) or not all(isinstance(each, str) for each in permissions):
        raise TypeError("the permissions that 'auth.path' gave are no list of texts")
    clean = sanitize_for_json({**given, "permissions": list(permissions)})
    if len(json.dumps(clean)) > MOST_USER_BYTES:
        raise TypeError(f"the user that 'auth.path' gave has more than {MOST_USER_BYTES} bytes")
    return Caller(name, _role_of(permissions), given=clean)


def _as_mapping(said: Any) -> dict[str, Any]:
    if isinstance(said, str):
        return {"identity": said}
    if isinstance(said, Mapping):
        return {str(key): value for key, value in said.items()}
    if said is None or not hasattr(said, "identity"):
        raise TypeError(
            f"authenticate of 'auth.path' gave a {type(said).__name__}, which is no user"
        )
    for way in ("model_dump", "to_dict", "dict"):
        if callable(make := getattr(said, way, None)):
            made: Any = make()
            return {"identity": said.identity, **made}
    names = ("identity", "display_name", "is_authenticated", "permissions")
    public = {n: v for n, v in getattr(said, "__dict__", {}).items() if not n.startswith("_")}
    return {**public, **{name: getattr(said, name) for name in names if hasattr(said, name)}}


def _role_of(permissions: Any) -> Role:
    """A user, or what a permission `surgetank:ROLE` says."""
    roles = [
        each.removeprefix(_ROLE_PREFIX) for each in permissions if each.startswith(_ROLE_PREFIX)
    ]
    return max((Role(r) for r in roles if r in list(Role)), key=list(Role).index, default=Role.USER)


def user_of(who: Caller) -> ProjectUser:
    """The caller as code of the project gets it."""
    given = who.given or {"identity": who.user, "permissions": [f"{_ROLE_PREFIX}{who.role.value}"]}
    return ProjectUser({"role": who.role.value, **given})


def _refused(status: int, detail: str, headers: Mapping[str, str]) -> Problem:
    """What a handler refused. A status that is no refusal is 403."""
    if not 400 <= status < 600 or status not in list(HTTPStatus):
        status = 403
    code = {401: "not-authenticated", 404: "not-found"}.get(status, "refused")
    sent = _CHALLENGE if status == 401 and not headers else headers
    return Problem(
        status, code, detail[:1000] or HTTPStatus(status).phrase, headers=dict(sent),
        remedy="ask whoever runs this project for access.",
    )  # fmt: skip
