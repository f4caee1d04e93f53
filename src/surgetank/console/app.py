"""The console as the server mounts it: its pages, its files, and what a page says when something
can't be shown."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, suppress
from importlib.metadata import version
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from surgetank.console import (
    audit,
    checkpoint,
    errors,
    inbox,
    jobs,
    login,
    oidc,
    overview,
    parked,
    question,
    runs,
    settings,
    sql,
    starting,
    steps,
    tables,
    threads,
)
from surgetank.console.assets import Assets
from surgetank.console.away import page_while_away
from surgetank.console.banners import banners_of
from surgetank.console.fresh import Fresh
from surgetank.console.results import Results, Running
from surgetank.console.samples import Samples
from surgetank.console.showing import Showing
from surgetank.console.visits import PATH, TokenOfCookie, Visit, anybody
from surgetank.exceptions import DatabaseUnavailable, SurgetankError
from surgetank.server.access.identify import Asked
from surgetank.server.access.oidc import Provider
from surgetank.server.http.problems import (
    Problem,
    of_family,
    of_http,
    of_validation,
    unexpected,
)
from surgetank.server.services import Services

ROUTERS = (
    login.router, oidc.router, overview.router,
    threads.router, steps.router, checkpoint.router, runs.router, starting.router,
    inbox.router, question.router, jobs.router, parked.router, errors.router,
    tables.router, sql.router, audit.router, settings.router,
)  # fmt: skip


BANNER = "surgetank-banner.js"


class Console:
    """`create_app(tank, mounts=[Console])`."""

    path = PATH

    def __init__(self, services: Services) -> None:
        self.samples = Samples(services.tank)
        app = FastAPI(
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            redirect_slashes=False,
            middleware=[Middleware(_Surprises), Middleware(TokenOfCookie)],
        )
        assets = Assets(PATH)
        app.state.services = services
        app.state.samples = self.samples
        settings_ = services.settings
        app.state.oidc = Provider(settings_, services.clock) if settings_.oidc_issuer else None
        app.state.fresh = Fresh()
        app.state.results, app.state.running = Results(services.clock), Running()
        app.state.erasing = set[asyncio.Task[str]]()
        app.state.showing = Showing(assets, version("surgetank"))

        @app.get("/static/{digest}/{name:path}")
        async def static(name: str, request: Request) -> Response:
            found = assets.response(name, request.headers.get("accept-encoding", ""))
            if found is None:
                raise HTTPException(404)
            return found

        @app.get(f"/{BANNER}")
        async def banner(request: Request) -> Response:
            """The banner for pages of others, under an address that stays."""
            found = assets.response(BANNER, request.headers.get("accept-encoding", ""))
            assert found is not None, "it is in the package"
            found.headers["Cache-Control"] = "public, max-age=3600"
            found.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
            return found

        for router in ROUTERS:
            app.include_router(router)
        for kind in (Problem, SurgetankError, RequestValidationError, HTTPException):
            app.add_exception_handler(kind, _answer)
        self.app: ASGIApp = app

    def running(self) -> AbstractAsyncContextManager[None]:
        """Samples are taken while the server runs."""
        return self.samples.running()


class _Surprises:
    """A bug of ours becomes a page with a reference to the server's log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            problem = unexpected(error, scope["method"], scope["path"])
            response = await _page_of(Request(scope, receive), problem)
            await response(scope, receive, send)


async def _answer(request: Request, error: Exception) -> Response:
    asked: Asked = request.scope["surgetank.asked"]
    if isinstance(error, SurgetankError):
        problem = of_family(error, asked.caller)
    elif isinstance(error, RequestValidationError):
        problem = of_validation(error.errors())
    elif isinstance(error, HTTPException):
        problem = of_http(error)
        problem.remedy = "go back, or to one of the pages in the navigation."
    else:
        assert isinstance(error, Problem)
        problem = error
    return await _page_of(request, problem)


def _is_page_while_away(visit: Visit, problem: Problem) -> bool:
    return (
        problem.code == DatabaseUnavailable.problem
        and visit.request.method == "GET"
        and "text/html" in visit.request.headers.get("accept", "")
        and visit.who is not None
        and not visit.is_part
    )


async def _page_of(request: Request, problem: Problem) -> Response:
    is_part = "hx-request" in request.headers
    if problem.status == 401:
        if is_part:
            return Response(status_code=401, headers={"HX-Redirect": f"{PATH}/login"})
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        wanted = target if request.method == "GET" else f"{PATH}/"
        return RedirectResponse(f"{PATH}/login?next={quote(wanted, safe='')}", 303)
    guest = await anybody(request)
    caller = request.scope["surgetank.asked"].caller
    visit = Visit(request, caller, guest.nonce, guest.is_new)
    if _is_page_while_away(visit, problem):
        with suppress(SurgetankError):  # the buffer can't be asked either
            return await run_in_threadpool(page_while_away, visit)
    showing: Showing = request.app.state.showing
    shown = {}
    if caller is not None:
        with suppress(SurgetankError):  # what can't be shown either is no reason to show nothing
            shown = await run_in_threadpool(banners_of, visit.services, caller, None)
    response = showing.page(visit, "problem.html", problem.status, problem=problem, **shown)
    for name, value in problem.headers.items():
        if name.lower() in ("retry-after", "allow"):
            response.headers[name] = value
    return response
