"""From a request or WebSocket to its caller, asked once per connection."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, QueryParams
from starlette.types import Scope

from surgetank.server.access.roles import Caller
from surgetank.server.http.problems import Problem
from surgetank.server.services import Services


@dataclass(slots=True)
class Asked:
    """What is known of one request on its way through the layers."""

    caller: Caller | None = None
    refusal: Problem | None = None
    body: bytes = b""
    # the Content-Type as it was sent, where our own routes see another one
    sent_as: str | None = None
    # the body to keep for an Idempotency-Key, without what is shown once only
    keep_instead: bytes | None = None


async def identify(scope: Scope, services: Services) -> Caller:
    """The caller of this request or WebSocket. Raises `Problem`, the same one when asked again."""
    asked: Asked = scope["surgetank.asked"]
    if asked.refusal is not None:
        raise asked.refusal
    if asked.caller is None:
        try:
            asked.caller = await _identify(scope, services)
        except Problem as problem:
            asked.refusal = problem
            raise
    return asked.caller


async def _identify(scope: Scope, services: Services) -> Caller:
    headers = Headers(scope=scope)
    if scope["type"] == "websocket":
        _check_origin(headers, services.settings.allowed_origins)
    ticket = QueryParams(scope["query_string"]).get("ticket")
    if ticket is not None and _is_live(scope):
        caller = await run_in_threadpool(services.tickets.redeem, ticket)
        # Another server may have revoked its token since.
        if caller is None or not await run_in_threadpool(services.login.still_good, caller):
            raise Problem(
                401, "bad-ticket", "The ticket is unknown, used, older than 30 seconds, or its "
                "token has ended.",
                remedy="get a new one from POST /ws/ticket.",
            )  # fmt: skip
        if caller.only is not None and scope.get("path_params", {}).get("thread_id") != caller.only:
            raise Problem(
                403, "not-yours", "This ticket is for the events of one thread.",
                remedy="follow that thread, or get another ticket.",
            )  # fmt: skip
        return caller
    token = _bearer(headers)
    project = services.project_auth
    if project is not None and project.authenticates and not services.login.is_own(token):
        return await project.caller(scope, scope["surgetank.asked"].body)
    known = services.login.remembered(token)
    if known is not None:
        return known
    address = scope["client"][0] if scope.get("client") else "unknown"
    return await run_in_threadpool(services.login.authenticate, token, address)


def _is_live(scope: Scope) -> bool:
    """Whether it is a connection for which a browser can't send headers: tickets are good for
    nothing else."""
    if scope["type"] == "websocket":
        return True
    route = getattr(scope.get("route"), "path", "")
    return scope["method"] == "GET" and str(route).startswith("/sse/")


def host_name(address: str) -> str | None:
    """The name in `host:port` or in an origin; None for what is neither."""
    try:
        return urlsplit(address if "://" in address else f"//{address}").hostname
    except ValueError:
        return None


def _bearer(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key", "").strip() or None  # as clients of LangGraph's server send it


def _check_origin(headers: Headers, allowed: tuple[str, ...]) -> None:
    """Browsers let any page open a WebSocket to anywhere: only pages of this server and of allowed
    origins may."""
    origin = headers.get("origin")
    if origin is None or origin in allowed or origin.partition("://")[2] == headers.get("host"):
        return
    raise Problem(
        403, "foreign-origin", f"Pages from {origin[:200]!r} may not open WebSockets here.",
        remedy="add the origin to SURGETANK_CORS_ORIGINS.",
    )  # fmt: skip
