"""Requests' bodies, read as a whole before anything is done with them: up to a limit, in bounded time.

Rows of tables may be more than other requests. Their larger limit is for callers who are signed in, some at once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from surgetank.server.access.identify import identify
from surgetank.server.http.middleware import deny, read_before
from surgetank.server.http.names import takes_rows
from surgetank.server.http.problems import Problem
from surgetank.server.services import Services

_TIME_S = 30.0
_LARGE_AT_ONCE = 4  # of one caller
_JSON = "application/json"


class LargeBodies:
    """Who may send a large body."""

    def __init__(self, services: Services, most: int) -> None:
        self._services = services
        self._most = most
        self._under_way: Counter[str] = Counter()

    @asynccontextmanager
    async def limit(self, scope: Scope) -> AsyncIterator[int]:
        """The most bytes of this request, for as long as it is carried out. Raises `Problem`."""
        # A project's own handler sees no body here: it is not read yet.
        who = (await identify(scope, self._services)).scope
        if self._under_way[who] >= _LARGE_AT_ONCE:
            raise Problem(
                429, "quota-exceeded", f"{_LARGE_AT_ONCE} large requests of yours are under way.",
                remedy="send them one after the other.", headers={"Connection": "close"},
            )  # fmt: skip
        self._under_way[who] += 1
        try:
            yield self._most
        finally:
            self._under_way[who] -= 1
            if not self._under_way[who]:
                del self._under_way[who]


class Bodies:
    """Reads the body of a request. `large` gives the limit of those that may be larger than
    `max_bytes`."""

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, timeout_s: float, large: LargeBodies | None = None
    ) -> None:
        self._app = app
        self._max = max_bytes
        self._timeout_s = timeout_s
        self._large = large

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(min(_TIME_S, self._timeout_s)):
                    body = await self._read(scope, receive, stack)
            except TimeoutError:
                late = Problem(408, "too-slow", "The request's body did not arrive in time.")
                await deny(scope, receive, send, late)
                return
            except Problem as problem:
                await deny(scope, receive, send, problem)
                return
            if body is None:
                return  # the client is gone
            scope["surgetank.asked"].body = body
            await self._app(scope, read_before(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive, stack: AsyncExitStack) -> bytes | None:
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "")
        length = int(announced[:20]) if announced.isdecimal() else 0
        form = headers.get("content-type", _JSON)
        may_be_large = takes_rows(scope["path"]) and not form.startswith(_JSON)
        setting, most = "SURGETANK_SERVER_MAX_BODY", self._max
        body, more = bytearray(), True
        while True:
            if length > most and may_be_large and self._large is not None:
                most = await stack.enter_async_context(self._large.limit(scope))
                setting, may_be_large = "SURGETANK_TABLES_MAX_BODY", False
            if length > most:
                raise _too_large(most, setting)
            if not more:
                return bytes(body)
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            length = max(length, len(body))


def _too_large(most: int, setting: str) -> Problem:
    return Problem(
        413, "too-large", f"The request's body is larger than {most} bytes.",
        remedy=f"send less, or raise {setting}.", headers={"Connection": "close"},
    )  # fmt: skip
