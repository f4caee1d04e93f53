"""Who visits the console. A token is given once, in the form to log in, and then kept by the browser in a
cookie that no script can read and no other site's page can send.

The cookie has the token itself, so that any server of the same database knows it, a server that was
started again too, and a token that was revoked ends the visit. What may be done with it is decided as
for every request of the API. Requests that change something carry a second secret, which only pages of
ours know.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, replace
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from surgetank.server.access.identify import identify
from surgetank.server.access.roles import Caller, Role
from surgetank.server.http.problems import Problem, check_role
from surgetank.server.services import Services
from surgetank.workflows.graphs.config import assistant_id

PATH = "/console"
TOKEN_COOKIE = "surgetank_session"  # noqa: S105 - its name
NONCE_COOKIE = "surgetank_csrf"
_SAFE = ("GET", "HEAD", "OPTIONS")
_MOST_FIELDS = 2000


class TokenOfCookie:
    """Shows the token of the cookie to all that asks for one, as if it had been sent as a header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = MutableHeaders(scope=scope)
            token = cookie_parser(headers.get("cookie", "")).get(TOKEN_COOKIE)
            if token and token.isascii() and token.isprintable():
                present(headers, token)
        await self._app(scope, receive, send)


def present(headers: MutableHeaders, token: str) -> None:
    """Let a request have this token, and no other."""
    if "x-api-key" in headers:
        del headers["x-api-key"]
    headers["authorization"] = f"Bearer {token}"


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of a browser. `who` is None before the login."""

    request: Request
    who: Caller | None
    nonce: str
    is_new: bool

    @property
    def caller(self) -> Caller:
        """Who is logged in."""
        assert self.who is not None, "the route asks who it is"
        return self.who

    @property
    def services(self) -> Services:
        """The services of this server."""
        found: Services = self.request.app.state.services
        return found

    @property
    def csrf(self) -> str:
        """What a request of this visitor that changes something must carry."""
        scope = self.who.scope if self.who is not None else ""
        return hmac.new(self.nonce.encode(), scope.encode(), hashlib.sha256).hexdigest()

    @property
    def is_part(self) -> bool:
        """Whether a script asks for a part of a page."""
        return "hx-request" in self.request.headers

    @property
    def by_provider(self) -> bool:
        """Whether the visitor may have come in through a login provider."""
        provider = getattr(self.request.app.state, "oidc", None)
        return provider is not None and self.who is not None and self.who.token_id is not None

    def covers(self, role: str) -> bool:
        """Whether the visitor has at least this role."""
        return self.who is not None and self.who.role.covers(Role(role))

    def assistant(self, name: str) -> str:
        """How an assistant is shown: the default one of a graph by the graph's name."""
        graphs = self.services.graphs
        named = graphs.names if graphs is not None else ()
        return next((graph for graph in named if str(assistant_id(graph)) == name), name)

    def form(self) -> dict[str, str]:
        """The fields that were sent; of several with one name the last."""
        return dict(self.fields())

    def fields(self) -> list[tuple[str, str]]:
        """The fields that were sent. Raises `Problem` for what is no form."""
        body: bytes = self.request.scope["surgetank.asked"].body
        try:
            return parse_qsl(
                body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict"
            )
        except ValueError as error:
            raise Problem(
                400, "bad-request", "The form can't be read.", remedy="send it again from its page."
            ) from error

    def check_own(self) -> None:
        """Raise `Problem` unless a page of ours sent it."""
        headers = self.request.headers
        sent = headers.get("x-csrf-token") or self.form().get("csrf", "")
        if _is_foreign(headers) or not hmac.compare_digest(sent.encode(), self.csrf.encode()):
            raise Problem(
                403, "foreign-origin", "This was not sent by a page of the console, or the page is older "
                "than the login.",
                remedy="load the page again, then try once more.",
            )  # fmt: skip

    def left(self) -> Visit:
        """The same visit after it was logged out."""
        return replace(self, who=None)

    def keep(self, response: Response) -> Response:
        """The response, with the cookie on which `csrf` stands."""
        if self.is_new:
            set_cookie(response, self.request, NONCE_COOKIE, self.nonce)
        return response


def _is_foreign(headers: Headers) -> bool:
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    return (
        origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()
    )


def set_cookie(response: Response, request: Request, name: str, value: str) -> None:
    """A cookie for the console alone, which ends with the browser."""
    secure = request.url.scheme == "https"
    response.set_cookie(name, value, path=PATH, httponly=True, samesite="strict", secure=secure)


async def anybody(request: Request) -> Visit:
    """A visit, before the login too."""
    nonce = request.cookies.get(NONCE_COOKIE, "")
    known = len(nonce) == 43 and nonce.isascii()
    return Visit(request, None, nonce if known else secrets.token_urlsafe(32), not known)


async def somebody(request: Request) -> Visit:
    """A visit of somebody who is logged in. Raises `Problem` (401, 403, 429, 503)."""
    who = await identify(request.scope, request.app.state.services)
    guest = await anybody(request)
    visit = Visit(request, who, guest.nonce, guest.is_new)
    if request.method not in _SAFE:
        visit.check_own()
    return visit


def needs(role: Role) -> Any:
    """A visit of somebody with at least this role."""

    async def visit(found: Visitor) -> Visit:
        check_role(found.caller, role)
        return found

    return Depends(visit)


Anybody = Annotated[Visit, Depends(anybody)]
Visitor = Annotated[Visit, Depends(somebody)]
UserVisit = Annotated[Visit, needs(Role.USER)]
OperatorVisit = Annotated[Visit, needs(Role.OPERATOR)]
AdminVisit = Annotated[Visit, needs(Role.ADMIN)]
