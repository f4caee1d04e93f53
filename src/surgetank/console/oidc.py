"""Coming in through an OpenID Connect provider. Who did has a token of ours, which ends with the login."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from surgetank.console.login import MADE_BY_OIDC, login_page, own_page
from surgetank.console.showing import show
from surgetank.console.visits import PATH, TOKEN_COOKIE, Anybody, Visit, set_cookie
from surgetank.exceptions import SurgetankError
from surgetank.server.access.oidc import Begun, Provider
from surgetank.server.http.problems import Problem, of_family

router = APIRouter()
_COOKIE = "surgetank_oidc"
_PATH = f"{PATH}/oidc"
_LASTS_S = 600
Given = Annotated[str, Query(max_length=4096)]


def _provider(visit: Visit) -> Provider:
    found: Provider | None = visit.request.app.state.oidc
    if found is None:
        raise Problem(404, "not-found", "No login provider is set.", remedy="log in with a token.")
    return found


def _back(visit: Visit) -> str:
    return str(visit.request.url.replace(path=f"{_PATH}/callback", query="", fragment=""))


@router.get("/oidc/login")
async def begin(visit: Anybody) -> Response:
    """To the provider. What must come back with the browser is in a cookie of its own."""
    wanted = own_page(visit.request.query_params.get("next", ""))
    try:
        begun = await run_in_threadpool(_provider(visit).begin, _back(visit))
    except Problem as problem:
        return login_page(visit, wanted=wanted, status=problem.status, problem=problem)
    kept = [begun.state, begun.nonce, begun.verifier, wanted]
    response = RedirectResponse(begun.url, 302)
    response.set_cookie(
        _COOKIE, base64.urlsafe_b64encode(json.dumps(kept).encode()).decode(), max_age=_LASTS_S, path=_PATH,
        httponly=True, samesite="lax", secure=visit.request.url.scheme == "https",
    )  # fmt: skip
    return response


@router.get("/oidc/callback")
async def come_back(
    visit: Anybody, code: Given = "", state: Given = "", error: Given = ""
) -> Response:
    """From the provider, with a code."""
    wanted = ""
    try:
        begun, wanted = _kept(visit, state)
        _check_answer(code, error)
        token = await run_in_threadpool(_token, visit, code, begun)
    except Problem as problem:
        status = 503 if problem.status == 503 else 401
        response = login_page(visit, wanted=wanted, status=status, problem=problem)
        response.delete_cookie(_COOKIE, path=_PATH)
        return response
    # A page of ours that leads on: of a redirect that began elsewhere browsers keep back our cookie.
    response = show(visit, "coming_in.html", wanted=own_page(wanted))
    response.delete_cookie(_COOKIE, path=_PATH)
    set_cookie(response, visit.request, TOKEN_COOKIE, token)
    return response


def _check_answer(code: str, error: str) -> None:
    if error or not code:
        said = error[:200] or "nothing"
        raise Problem(
            401, "not-authenticated", f"The provider says: {said}.", remedy="log in again."
        )


def _kept(visit: Visit, state: str) -> tuple[Begun, str]:
    """What the cookie has, if this is the login that it began. Raises `Problem`."""
    try:
        kept = json.loads(base64.urlsafe_b64decode(visit.request.cookies.get(_COOKIE, "")))
        began, nonce, verifier, wanted = map(str, kept)
    except (ValueError, TypeError):
        began = nonce = verifier = wanted = ""
    if not began or not hmac.compare_digest(began.encode(), state.encode()):
        raise Problem(
            401, "not-authenticated", "This login was not begun here, or too long ago.",
            remedy="log in again.",
        )  # fmt: skip
    return Begun("", began, nonce, verifier), wanted


def _token(visit: Visit, code: str, begun: Begun) -> str:
    services, provider = visit.services, _provider(visit)
    person = provider.finish(code, begun, _back(visit))
    until = services.clock() + services.settings.oidc_session
    try:
        return services.tokens.create(
            person.user, person.role, by=MADE_BY_OIDC, expires_at=until, label=f"login through {provider.name}"[:200]
        )[1]  # fmt: skip
    except SurgetankError as error:
        raise of_family(error, None) from error
