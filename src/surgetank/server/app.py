"""The application: layers, routes, OpenAPI. `create_app(tank)` needs an open engine and starts
nothing.

with Surgetank() as tank:
    uvicorn.run(create_app(tank))       # or `surgetank serve`
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from surgetank import tracing
from surgetank.app.surgetank import Surgetank
from surgetank.exceptions import ConfigurationError
from surgetank.server.http import problems
from surgetank.server.http.bodies import Bodies, LargeBodies
from surgetank.server.http.middleware import Answers, Edge
from surgetank.server.http.problems import ProblemBody
from surgetank.server.http.tracing import Traced
from surgetank.server.project_app import ProjectApp
from surgetank.server.routes import ROUTERS
from surgetank.server.services import Services, make_services
from surgetank.telemetry import log

if TYPE_CHECKING:
    from surgetank.workflows.graphs.graph_set import GraphSet

_DESCRIPTION = """
Surgetank's buffer, threads, flush jobs and tokens.

Every request but `/health/...` needs `Authorization: Bearer TOKEN`. Errors are RFC 9457 problems with a stable `code`
and a `remedy`. Lists come in pages: pass `next` as `after`. A POST with an `Idempotency-Key` is carried out once in
24 hours.
"""
_KEY_PARAMETER = {
    "name": "Idempotency-Key", "in": "header", "required": False,
    "description": "Sent again with the same key and body within 24 hours, the first answer is "
    "given again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
    "example": "0b9f2c1e-8a0d-4a55-9a53-0f5a8f6f3c11",
}  # fmt: skip
_CORS_HEADERS = [
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "X-Api-Key",
]
_EXPOSED = [
    "ETag", "Retry-After", "Idempotency-Replayed", "Location", "Content-Location",
    "X-Pagination-Total", "X-Pagination-Next",
]  # fmt: skip


class Worker(Protocol):
    """What works on runs: `tank.runs.service(graphs)`."""

    def start(self) -> None:
        """Start working."""
        ...

    def stop(self, within_s: float | None = None) -> bool:
        """Give runs back and end."""
        ...


class Mounted(Protocol):
    """Pages beside the API, under a path of their own."""

    path: str
    app: ASGIApp

    def running(self) -> AbstractAsyncContextManager[None]:
        """What goes on while the server runs."""
        ...


def create_app(
    tank: Surgetank,
    *,
    graphs: GraphSet | None = None,
    no_auth: bool = False,
    clock: Callable[[], float] | None = None,
    worker: Worker | None = None,
    mounts: Sequence[Callable[[Services], Mounted]] = (),
) -> FastAPI:
    """The ASGI application for an open engine.

    `graphs` are those that runs can be started of; the application that their file names
    (`http.app`) answers what no route of ours takes. `worker` (`tank.runs.service`) works on runs
    while the application runs. `no_auth` takes every caller from this machine for an
    administrator: for development on loopback only. `clock` gives seconds since the epoch, the
    engine's own without it.
    `mounts` make pages beside the API (`surgetank.console.app.Console`); `/` leads to the first of
    them unless the project's application answers it. Raises `ConfigurationError` when the
    project's application can't be loaded.
    """
    services = make_services(tank, graphs=graphs, no_auth=no_auth, clock=clock)
    project = ProjectApp.load(graphs.config, services) if graphs is not None else None
    mounted = [make(services) for make in mounts]
    stop_s = services.settings.shutdown_timeout

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = services.settings.server_threads
        async with AsyncExitStack() as stack:
            if project is not None:
                try:
                    await stack.enter_async_context(project.running(stop_s=stop_s))
                except ConfigurationError as error:
                    app.state.not_started = error
                    raise
            if worker is not None:  # its graphs may need what the project's application opens
                worker.start()
                stack.push_async_callback(_stop, worker, stop_s)
            serving = tank.workers.role("serve", lambda: {"followers": services.hub.subscribers})
            serving.start()
            stack.callback(serving.stop)
            for each in mounted:
                await stack.enter_async_context(each.running())
            yield

    app = FastAPI(
        title="Surgetank",
        version=version("surgetank"),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=[*_layers(services), *(project.layers() if project is not None else [])],
    )
    app.state.services = services
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    for each in mounted:
        app.router.routes += [Route(each.path, _to(each.path)), Mount(each.path, app=each.app)]
    if mounted and (project is None or not project.answers("/")):
        app.router.routes.append(Route("/", _to(mounted[0].path)))
    if project is not None:
        app.router.default = project
        if hidden := project.hidden(app.routes):
            log.warning("project_app_routes_hidden", paths=hidden[:20])
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _to(path: str) -> Callable[[Request], Response]:
    return lambda _: RedirectResponse(f"{path}/")


async def _stop(worker: Worker, within_s: float) -> None:
    await to_thread.run_sync(worker.stop, within_s, limiter=CapacityLimiter(1))


def _layers(services: Services) -> list[Middleware]:
    """What a request goes through, from the outside. Without allowed origins no CORS header is ever
    sent."""
    settings = services.settings
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.allowed_origins,
        allow_headers=_CORS_HEADERS,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        expose_headers=_EXPOSED,
    )
    return [
        *([Middleware(Traced)] if tracing.enabled() else []),
        Middleware(Edge, no_auth=services.no_auth, allowed_origins=settings.allowed_origins),
        *([cors] if settings.allowed_origins else []),
        Middleware(
            Bodies,
            max_bytes=settings.server_max_body,
            timeout_s=settings.server_request_timeout,
            large=LargeBodies(services, settings.tables_max_body),
        ),
        Middleware(Answers, services=services),
    ]


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with what the layers do added to each operation."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = document["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        schemas["ProblemBody"] = ProblemBody.model_json_schema(
            ref_template="#/components/schemas/{model}"
        )
        for path in document["paths"].values():
            for method, operation in path.items():
                _complete(method, operation)
        app.openapi_schema = document
    return app.openapi_schema


def _complete(method: str, operation: dict[str, Any]) -> None:
    operation["responses"] = {
        status: response for status, response in sorted(operation["responses"].items())
        if "HTTPValidationError" not in str(response)
    }  # fmt: skip
    if method == "post":
        operation.setdefault("parameters", []).append(_KEY_PARAMETER)
        operation["responses"] |= problems.documented_text(409, 413, 422)
    elif method == "get" and "security" in operation:
        operation["responses"]["304"] = {"description": "Nothing changed since `If-None-Match`."}
