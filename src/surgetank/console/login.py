"""Coming in and going out, and tickets for the live connection of a page."""

from __future__ import annotations

from posixpath import normpath
from typing import Any
from urllib.parse import unquote, urlsplit

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response

from surgetank.console.banners import banners_of
from surgetank.console.showing import show
from surgetank.console.visits import (
    NONCE_COOKIE,
    PATH,
    TOKEN_COOKIE,
    Anybody,
    Visit,
    Visitor,
    present,
    set_cookie,
)
from surgetank.exceptions import SurgetankError
from surgetank.server.access.identify import identify
from surgetank.server.http.problems import Problem

router = APIRouter()
MADE_BY_OIDC = "oidc"  # who made the tokens of logins through a provider


@router.get("/login")
async def login(visit: Anybody) -> Response:
    """The form."""
    return login_page(visit, wanted=visit.request.query_params.get("next", ""))


@router.post("/login")
async def log_in(visit: Anybody) -> Response:
    """Keep a token that is good."""
    form = visit.form()
    token, wanted = form.get("token", "").strip(), form.get("next", "")
    try:
        visit.check_own()
        await _check(visit, token)
    except Problem as problem:
        visit.request.scope["surgetank.asked"].refusal = None
        status = 401 if problem.status == 403 else problem.status
        response = login_page(visit, wanted=wanted, status=status, problem=problem)
        if "Retry-After" in problem.headers:
            response.headers["Retry-After"] = problem.headers["Retry-After"]
        return response
    response = RedirectResponse(own_page(wanted), 303)
    set_cookie(response, visit.request, TOKEN_COOKIE, token)
    return visit.keep(response)


async def _check(visit: Visit, token: str) -> None:
    if not token or not token.isascii() or not token.isprintable():
        raise Problem(401, "not-authenticated", "That is no token.")
    present(MutableHeaders(scope=visit.request.scope), token)
    await identify(visit.request.scope, visit.services)


def login_page(
    visit: Visit,
    *,
    wanted: str,
    status: int = 200,
    problem: Problem | None = None,
    farewell: str | None = None,
) -> Response:
    """The form to log in, with why that did not go well. `farewell` is where one logs out of the
    provider too."""
    provider = visit.request.app.state.oidc
    return show(
        visit,
        "login.html",
        status,
        wanted=own_page(wanted),
        problem=problem,
        provider=provider.name if provider is not None else "",
        farewell=farewell,
    )


def own_page(wanted: str) -> str:
    """Where to go on: a page of the console and nothing else."""
    try:
        parts = urlsplit(wanted)
    except ValueError:  # a bracket that is no address
        return f"{PATH}/"
    path = normpath(unquote(parts.path))
    ours = not parts.scheme and not parts.netloc and path.startswith(f"{PATH}/")
    if not ours or "\\" in wanted or not wanted.isprintable():
        return f"{PATH}/"
    return wanted


@router.post("/logout")
async def log_out(visit: Visitor) -> Response:
    """Forget the token in this browser. One that a login through a provider made ends; with `everywhere`
    all of the visitor's that such logins made."""
    response: Response = RedirectResponse(f"{PATH}/login", 303)
    forgotten = [TOKEN_COOKIE, NONCE_COOKIE]
    provider, token_id = visit.request.app.state.oidc, visit.caller.token_id
    if (
        provider is not None
        and token_id is not None
        and await run_in_threadpool(
            _end_logins, visit, token_id, everywhere=visit.form().get("everywhere") == "yes"
        )
    ):
        response = login_page(visit.left(), wanted="", farewell=provider.farewell())
        forgotten = [TOKEN_COOKIE]  # the form stands on the other
    for name in forgotten:
        response.delete_cookie(name, path=PATH, httponly=True, samesite="strict")
    return response


def _end_logins(visit: Visit, token_id: str, *, everywhere: bool) -> bool:
    """Whether the token was made by a login through a provider; it is revoked then, and where that is
    wanted the others of its user are."""
    services, user = visit.services, visit.caller.user
    try:
        found = services.tokens.find(token_id=token_id)
        if found is None or found.created_by != MADE_BY_OIDC:
            return False
        for each in services.tokens.open_of(user, by=MADE_BY_OIDC) if everywhere else [token_id]:
            services.tokens.revoke(each, by=user)
            services.login.forget(token_id=each)
            services.tickets.forget(each)
    except SurgetankError:  # the database is away: it ends by itself
        return False
    return True


@router.post("/ticket")
async def ticket(visit: Visitor) -> JSONResponse:
    """A ticket for one WebSocket: a browser can't send a token there."""
    made, until = await run_in_threadpool(visit.services.tickets.issue, visit.caller)
    return JSONResponse({"ticket": made, "expires_at": until})


@router.get("/banners")
def banners(visit: Visitor) -> Response:
    """The banners of a page as they are now."""
    thread_id = visit.request.query_params.get("thread")
    if thread_id is not None:
        visit.services.visibility.check(visit.caller, thread_id)
    shown: dict[str, Any] = banners_of(visit.services, visit.caller, thread_id)
    return show(visit, "banners.html", **shown)
