"""The application that a project's `langgraph.json` names as `http.app`: what none of our routes
takes is answered by it, behind the same layers.

It is started and stopped with the server, by the lifespan protocol of ASGI. It sees a request as
if it were alone: nothing of our own application is in its scope. Its middleware surrounds our routes
too, as it does on LangGraph's server.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.authentication import AuthCredentials
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from surgetank.exceptions import ConfigurationError
from surgetank.server.access.handlers import user_of
from surgetank.server.access.identify import identify
from surgetank.server.http.middleware import deny
from surgetank.server.http.problems import Problem
from surgetank.server.services import Services
from surgetank.telemetry import log
from surgetank.workflows.graphs import importing
from surgetank.workflows.graphs.config import GraphsConfig

KEY = "http.app"
_START_S = 60.0
_CHECK_S = 0.1  # whether the server is told to stop meanwhile
_NOT_PASSED_ON = ("app", "router", "route", "endpoint", "path_params")
_OURS = "surgetank.app"
_DOCUMENT = "/openapi.json"  # FastAPI has one unasked
_BY_THE_FRAMEWORK = b"Internal Server Error"  # what Starlette answers before it raises again


class ProjectApp:
    """The project's application as ours sees it: an ASGI application that asks for a token first.

    `app_open` of the configuration lets everybody in, and leaves it to the application who may do
    what.
    """

    def __init__(self, app: ASGIApp, config: GraphsConfig, services: Services) -> None:
        self._app = app
        self._config = config
        self._services = services
        self._state: dict[str, Any] = {}
        self._inner: ASGIApp = _Bare(app) if _middleware_of(app) else app
        self._name = config.app.text if config.app is not None else ""

    @classmethod
    def load(cls, config: GraphsConfig, services: Services) -> ProjectApp | None:
        """The application that the file names, if it names one. Raises `ConfigurationError`."""
        if config.app is None:
            return None
        app = importing.loaded(config, KEY, config.app)
        if not _is_asgi(app):
            kind = f"the class {app.__name__}" if isinstance(app, type) else type(app).__name__
            raise ConfigurationError(
                f"{config.path}: {KEY!r}: {config.app.text!r} is {kind}, which is no ASGI "
                f"application.",
                remedy="name a Starlette or FastAPI object, or a function of scope, receive and "
                "send.",
            )
        return cls(app, config, services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = {
            name: value
            for name, value in scope.items()
            if name not in _NOT_PASSED_ON and not name.startswith(("surgetank.", "fastapi"))
        }
        if not self._config.app_open:
            try:
                caller = await identify(scope, self._services)
            except Problem as problem:
                await deny(scope, receive, send, problem)
                return
            if "user" not in given:  # a middleware of the project may know better
                given["user"] = user_of(caller)
                given["auth"] = AuthCredentials(["authenticated", caller.role.value])
        if (sent_as := scope["surgetank.asked"].sent_as) is not None:
            given["headers"] = list(scope["headers"])
            MutableHeaders(scope=given)["content-type"] = sent_as
        if _OURS not in scope:  # else its middleware may have put something there
            given["state"] = dict(self._state)
        answer = _Answer(send)
        try:
            await self._inner(given, receive, answer)
        except SystemExit as error:  # it would end the server
            raise _Exits(*error.args) from error
        await answer.let_go()

    def layers(self) -> list[Middleware]:
        """Its own middleware, for all requests."""
        own = _middleware_of(self._app)
        entering = Middleware(_Entering, project=self._app, state=self._state)
        return [entering, *own, Middleware(_Leaving)] if own else []

    def answers(self, path: str) -> bool:
        """Whether a GET of this path is answered by one of its routes. An application whose routes
        can't be seen answers everything."""
        routes = getattr(self._app, "routes", None)
        return routes is None or any(_takes(route, path) for route in routes)

    def hidden(self, ours: list[BaseRoute]) -> list[str]:
        """Paths of its routes that ours take."""
        found: dict[str, None] = {}
        for route in getattr(self._app, "routes", ()):
            path = getattr(route, "path", None)
            if path and path != _DOCUMENT and any(_takes(each, path) for each in ours):
                found[path] = None
        return list(found)

    @asynccontextmanager
    async def running(self, *, stop_s: float, start_s: float = _START_S) -> AsyncIterator[None]:
        """Its start before, and its end after what is done here. Raises `ConfigurationError`."""
        lifespan = _Lifespan(self._app, self._state, self._services.stopping.is_set)
        log.info("project_app_starting", app=self._name)
        try:
            await lifespan.start(start_s)
        except Exception as error:
            raise self._refusal("be started", error) from error
        try:
            yield
        finally:
            try:
                await lifespan.stop(stop_s)
            except Exception as error:  # noqa: BLE001 - the rest must be closed
                said = self._refusal("be stopped in order", error).what
                log.error("project_app_not_stopped", error=said)

    def _refusal(self, what: str, error: Exception) -> ConfigurationError:
        raised = error.__cause__ if isinstance(error, _Exits) else error
        return importing.refusal(self._config, KEY, what, raised or error)


def _takes(route: BaseRoute, path: str) -> bool:
    asked: Scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
    return route.matches(asked)[0] is not Match.NONE


class _Entering:
    """What the project's middleware sees of a request is its own application."""

    def __init__(self, app: ASGIApp, *, project: ASGIApp, state: dict[str, Any]) -> None:
        self._app = app
        self._project = project
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            scope[_OURS] = scope["app"]
            scope["app"] = self._project
            scope["state"] = dict(self._state)
        await self._app(scope, receive, send)


class _Leaving:
    """Behind it our own routes find our application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _OURS not in scope:
            await self._app(scope, receive, send)
            return
        ours = {**scope, "app": scope[_OURS]}  # theirs may be asked for while we answer
        try:
            await self._app(ours, receive, send)
        finally:
            scope.update({name: ours[name] for name in ("route", "path_params") if name in ours})


class _Bare:
    """An application without its middleware, which the request has come through already."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._stack: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stack = self._stack
        if stack is None:
            kept, self._app.user_middleware = self._app.user_middleware, []
            try:
                self._stack = stack = self._app.build_middleware_stack()
            finally:
                self._app.user_middleware = kept
        scope["app"] = self._app
        if root_path := getattr(self._app, "root_path", ""):
            scope["root_path"] = root_path
        await stack(scope, receive, send)


def _middleware_of(app: ASGIApp) -> list[Middleware]:
    return list(app.user_middleware) if isinstance(app, Starlette) else []


class _Lifespan:
    """Start and end of an application. One that knows nothing of them is served without."""

    def __init__(self, app: ASGIApp, state: dict[str, Any], stopping: Callable[[], bool]) -> None:
        self._app = app
        self._state = state
        self._stopping = stopping
        self._messages = asyncio.Queue[Message]()
        self._asked = False
        self._started: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    async def start(self, within_s: float) -> None:
        """Raises what it raises, `TimeoutError`, and `RuntimeError` for one that only says so."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._messages.put_nowait({"type": "lifespan.startup"})
        try:
            failure = await self._heard(self._task, within_s)
        except BaseException:
            await self._end()
            raise
        if failure is not None:
            await self._end()
            raise failure

    async def _heard(self, task: asyncio.Task[None], within_s: float) -> BaseException | None:
        """Why it did not start; None when it did, or when it knows of no start."""
        either: set[asyncio.Future[Any]] = {task, self._started}
        clock = asyncio.get_running_loop().time
        until = clock() + within_s
        done: set[Any] = set()
        while not done and clock() < until and not self._stopping():
            done, _ = await asyncio.wait(
                either, timeout=min(_CHECK_S, within_s), return_when=asyncio.FIRST_COMPLETED
            )
        if self._started.done():
            if (said := self._started.result()) is None:
                return None
            await asyncio.wait(
                {task}, timeout=1.0
            )  # what it said is a trace, what it raises better
            raised = task.exception() if task.done() and not task.cancelled() else None
            return raised or RuntimeError(said or "it says that it failed")
        if not task.done() and self._stopping():
            return RuntimeError("the server was told to stop before it was ready")
        if not task.done():
            return TimeoutError(f"it was not ready after {within_s:g} s")
        self._task = None
        return task.exception() if self._asked and not task.cancelled() else None

    async def stop(self, within_s: float) -> None:
        """Raises what it raises, and `TimeoutError`."""
        if self._task is None:
            return
        self._messages.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.wait({self._task}, timeout=within_s)
        if not self._task.done():
            await self._end()
            raise TimeoutError(f"it was not done after {within_s:g} s")
        self._task.result()

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except SystemExit as error:  # it would end the event loop
            raise _Exits(*error.args) from error

    async def _receive(self) -> Message:
        self._asked = True
        return await self._messages.get()

    async def _send(self, message: Message) -> None:
        if self._started.done():
            return
        if message["type"] == "lifespan.startup.complete":
            self._started.set_result(None)
        elif message["type"] == "lifespan.startup.failed":
            self._started.set_result(message.get("message", ""))

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=1.0)


class _Exits(Exception):
    """It called `sys.exit`."""


class _Answer:
    """Passes an answer on. What the framework answers for an exception is held back: it is raised
    again, and answered as a problem with a reference."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: list[Message] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message.setdefault("headers", [])
            headers = MutableHeaders(scope=message)
            # Its pages are its own affair, but not in frames of others.
            headers.setdefault("Content-Security-Policy", "frame-ancestors 'none'")
            if message["status"] == 500:
                self._held.append(message)
                return
        elif self._held and message.get("body") == _BY_THE_FRAMEWORK:
            self._held.append(message)
            return
        await self.let_go()
        await self._send(message)

    async def let_go(self) -> None:
        """It returned: what is held back is its own answer."""
        held, self._held = self._held, []
        for message in held:
            await self._send(message)


def _is_asgi(app: object) -> bool:
    if not callable(app) or isinstance(app, type):
        return False
    try:
        inspect.signature(app).bind({}, None, None)
    except TypeError:
        return False
    except ValueError:  # no signature can be read
        return True
    return True
