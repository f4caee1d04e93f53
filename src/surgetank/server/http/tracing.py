"""A span for each HTTP request, which goes on with the trace that its headers name. Only there while
tracing is on."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from surgetank import tracing


class Traced:
    """The outermost layer. Of a URL only the route becomes part of the span."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        with tracing.span(
            method, parent=tracing.clean(Headers(scope=scope)), kind="server"
        ) as span:

            async def noting(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set("http.status_code", message["status"])
                    if message["status"] >= 500:
                        span.fail(str(message["status"]))
                await send(message)

            try:
                await self._app(scope, receive, noting)
            finally:
                path = getattr(scope.get("route"), "path", None)
                if path is not None:
                    span.rename(f"{method} {path}")
                    span.set("http.route", path)
                for name in ("thread_id", "run_id"):
                    if name in (given := scope.get("path_params") or {}):
                        span.set(name, str(given[name]))
