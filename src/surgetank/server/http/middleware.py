"""What happens to every request before a route sees it, and to every answer after it."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from surgetank.acting import acting_from
from surgetank.server.access.identify import Asked, host_name, identify
from surgetank.server.http.idempotency import MAX_BODY, Answer, Claim
from surgetank.server.http.names import takes_rows
from surgetank.server.http.problems import MEDIA_TYPE, Problem, unexpected
from surgetank.server.services import Services
from surgetank.telemetry import log

_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_KEY = re.compile(r"[!-~]{1,200}")
_SECRET_PARAMETERS = {"token", "access_token", "api_key"}
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}


class Edge:
    """The outermost layer: security headers, the log of requests (without query strings), bugs as
    problems."""

    def __init__(self, app: ASGIApp, *, no_auth: bool, allowed_origins: Sequence[str] = ()) -> None:
        self._app = app
        self._no_auth = no_auth
        self._allowed = tuple(allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope["surgetank.asked"] = Asked()
        acting_from.set(scope["client"][0] if scope.get("client") else "unknown")
        started, status = time.monotonic(), 0

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        method, path = scope.get("method", "WEBSOCKET"), scope["path"]
        try:
            problem = self._refusal(scope)
            if problem is None:
                self._take_for_json(scope)
                await self._app(scope, receive, guarded)
            else:
                await deny(scope, receive, guarded, problem)
        except Exception as error:  # noqa: BLE001 - told to the log and to the caller
            problem = unexpected(error, method, path)
            if status == 0:
                await deny(scope, receive, guarded, problem)
            elif scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1011, "reason": problem.code})
        finally:
            spent = round(1000 * (time.monotonic() - started), 1)
            client = scope["client"][0] if scope.get("client") else None
            # Orchestrators ask every few seconds: what they ask is of interest only when it fails.
            write = log.debug if path.startswith("/health/") and 0 < status < 500 else log.info
            write("request", method=method, path=path, status=status, ms=spent, client=client)

    def _refusal(self, scope: Scope) -> Problem | None:
        """Why a request is refused before anything else looks at it."""
        names = {name.lower() for name, _ in parse_qsl(scope["query_string"].decode("latin-1"))}
        if names & _SECRET_PARAMETERS:
            return Problem(
                400, "secret-in-url", "Tokens don't belong into URLs, which end up in logs and "
                "histories.",
                remedy="send `Authorization: Bearer TOKEN`; browsers get a ticket from POST "
                "/ws/ticket. If it was "
                "real, revoke it.",
            )  # fmt: skip
        headers = Headers(scope=scope)
        if "content-length" in headers and "transfer-encoding" in headers:
            # A proxy before us may have believed the other one (RFC 9112 section 6.1).
            return Problem(
                400, "ambiguous-length", "Content-Length and Transfer-Encoding can't stand in one "
                "request.",
                remedy="send one of them.", headers={"Connection": "close"},
            )  # fmt: skip
        if self._no_auth and not _local(headers):
            return Problem(
                403, "local-only", "Without authentication only this machine's own pages and "
                "programs are served.",
                remedy="start the server without --no-auth and use a token.",
            )  # fmt: skip
        if self._no_auth and _changes_something(scope) and not self._same_origin(headers):
            return Problem(
                403, "foreign-origin", "Without authentication only pages of this server may "
                "change something.",
                remedy="use a token, without --no-auth; or add the origin to "
                "SURGETANK_CORS_ORIGINS.",
            )  # fmt: skip
        return None

    def _take_for_json(self, scope: Scope) -> None:
        """LangGraph Studio sends JSON as text/plain, which a page of any origin can send without
        asking. So it is taken for JSON only with what such a page doesn't have: a token, or an
        origin that is allowed."""
        headers = Headers(scope=scope)
        if not headers.get("content-type", "").lower().startswith("text/plain"):
            return
        trusted = "authorization" in headers or "x-api-key" in headers
        if trusted or headers.get("origin") in self._allowed:
            scope["surgetank.asked"].sent_as = headers["content-type"]
            MutableHeaders(scope=scope)["content-type"] = "application/json"

    def _same_origin(self, headers: Headers) -> bool:
        """Whether a page of this very server asks (or no page at all): another port is another
        origin."""
        origin = headers.get("origin")
        if origin is not None:
            return (
                origin in self._allowed
                or origin.partition("://")[2].lower() == headers.get("host", "").lower()
            )
        return headers.get("sec-fetch-site", "none") in ("same-origin", "none")


def _changes_something(scope: Scope) -> bool:
    return scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")


def _local(headers: Headers) -> bool:
    """Whether host and origin are this machine: no page of another site, no name that was made to
    point here."""
    host, origin = host_name(headers.get("host", "")), headers.get("origin")
    return host in _LOOPBACK_NAMES and (origin is None or host_name(origin) in _LOOPBACK_NAMES)


async def deny(scope: Scope, receive: Receive, send: Send, problem: Problem) -> None:
    """Answer with a problem, outside of any route."""
    if scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
        await problem.response(scope["path"])(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": problem.code})


def read_before(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was read already, and then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


class Answers:
    """Answers once per `Idempotency-Key`, and with 304 what the client has already
    (`If-None-Match`)."""

    def __init__(self, app: ASGIApp, *, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if takes_rows(scope["path"]):  # the table's own store knows the keys of batches
            await self._app(scope, receive, send)
        elif scope["method"] == "POST" and "idempotency-key" in headers:
            await self._once(scope, receive, send, headers["idempotency-key"])
        elif scope["method"] == "GET":
            await self._app(scope, receive, _Tagged(send, headers.get("if-none-match", "")))
        else:
            await self._app(scope, receive, send)

    async def _once(self, scope: Scope, receive: Receive, send: Send, key: str) -> None:
        try:
            caller = await identify(scope, self._services)
        except Problem:  # the route answers it
            await self._app(scope, receive, send)
            return
        kept = self._services.kept_answers
        try:
            check_key(key)
            claim = await run_in_threadpool(kept.claim, caller.scope, key, _fingerprint(scope))
        except Problem as problem:
            await deny(scope, receive, send, problem)
            return
        if isinstance(claim, Answer):
            replayed = Response(
                claim.body,
                claim.status,
                {"Idempotency-Replayed": "true"},
                media_type=claim.media_type,
            )
            await replayed(scope, receive, send)
            return
        await self._carry_out(scope, receive, send, claim)

    async def _carry_out(self, scope: Scope, receive: Receive, send: Send, claim: Claim) -> None:
        kept = self._services.kept_answers
        caught = _Caught(scope["path"], send, lambda answer: self._close(claim, answer))
        try:
            await self._app(scope, receive, caught)
        except BaseException:
            if not caught.streams:  # else the claim has its answer, or was given back
                await asyncio.shield(run_in_threadpool(kept.release, claim))
            raise
        if caught.streams:
            return
        answer = caught.answer()
        instead = scope["surgetank.asked"].keep_instead
        if answer.status < 400 and instead is not None:
            await self._close(claim, Answer(answer.status, answer.media_type, instead))
        else:
            await self._close(claim, answer if answer.status < 400 else None)
        for message in caught.messages:
            await send(message)

    async def _close(self, claim: Claim, answer: Answer | None) -> None:
        kept = self._services.kept_answers
        if answer is None:
            await run_in_threadpool(kept.release, claim)
        else:
            await run_in_threadpool(kept.finish, claim, answer)


class _Caught:
    """Holds an answer back until it is kept: who got it must find it when asking again.

    A stream is not held back, it may never end, nor what waits for a run, whose client may go away
    meanwhile, nor what is too large to be kept. `close` gets
    before its first byte what is answered when it is asked for again: where the run is that was
    started, or None where nothing was.
    """

    def __init__(
        self, path: str, send: Send, close: Callable[[Answer | None], Awaitable[None]]
    ) -> None:
        self.messages: list[Message] = []
        self.streams = False
        self._held = 0
        self._path = path
        self._send = send
        self._close = close

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            run = headers.get("content-location")
            waits = run is not None and "content-length" not in headers
            if waits or headers.get("content-type", "").startswith("text/event-stream"):
                await self._close(self._started(run))
                self.streams = True
        if self.streams:
            await self._send(message)
            return
        self.messages.append(message)
        self._held += len(message.get("body", b""))
        if self._held > MAX_BODY:  # it is not kept anyway, and may never end
            answer = self.answer()
            await self._close(answer if answer.status < 400 else None)
            self.streams = True
            for each in self.messages:
                await self._send(each)
            self.messages.clear()

    def _started(self, run: str | None) -> Answer | None:
        if run is None:
            return None
        problem = Problem(
            409, "conflict", "The request with this Idempotency-Key has started a run.",
            remedy=f"join the run: GET {run}/join, or GET {run}/stream with `Last-Event-ID` after "
            "what you have.",
            run=run,
        )  # fmt: skip
        body = bytes(problem.response(self._path).body)
        return Answer(problem.status, MEDIA_TYPE, body)

    def answer(self) -> Answer:
        start = next(m for m in self.messages if m["type"] == "http.response.start")
        body = b"".join(
            m.get("body", b"") for m in self.messages if m["type"] == "http.response.body"
        )
        media_type = MutableHeaders(scope=start).get("content-type", "")
        return Answer(start["status"], media_type, body)


class _Tagged:
    """Gives a whole JSON answer its ETag; streams pass through as they come."""

    def __init__(self, send: Send, known: str) -> None:
        self._send = send
        self._known = {tag.strip().removeprefix("W/") for tag in known.split(",") if tag.strip()}
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self._wants(message):
            self._start = message
            return
        if self._start is None:
            await self._send(message)
            return
        start, self._start = self._start, None
        if not message.get("more_body", False):
            message = self._tag(start, message)
        await self._send(start)
        await self._send(message)

    @staticmethod
    def _wants(start: Message) -> bool:
        headers = MutableHeaders(scope=start)
        is_json = headers.get("content-type", "").startswith("application/json")
        return (
            start["status"] == 200
            and is_json
            and "content-length" in headers
            and "etag" not in headers
        )

    def _tag(self, start: Message, message: Message) -> dict[str, Any]:
        tag = f'"{hashlib.sha256(message.get("body", b"")).hexdigest()[:32]}"'
        headers = MutableHeaders(scope=start)
        headers["ETag"] = tag
        headers.setdefault("Cache-Control", "private, no-cache")
        headers.add_vary_header("Authorization")
        if tag in self._known or "*" in self._known:
            start["status"] = 304
            for name in ("content-length", "content-type"):
                del headers[name]
            return {**message, "body": b""}
        return dict(message)


def check_key(key: str) -> None:
    """Raises `Problem` for what can't be an Idempotency-Key."""
    if not _KEY.fullmatch(key):
        raise Problem(
            400, "bad-idempotency-key", "The Idempotency-Key can't be used.",
            remedy="use 1 to 200 printable ASCII characters without spaces, a UUID for instance.",
        )  # fmt: skip


def _fingerprint(scope: Scope) -> bytes:
    parts = (
        scope["method"].encode(),
        scope["path"].encode(),
        scope["query_string"],
        scope["surgetank.asked"].body,
    )
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).digest()
