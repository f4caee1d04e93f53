"""Live queries: a table's rows and their changes, over a WebSocket or as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Header, Query, WebSocket
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from surgetank.encode.jsontext import dumps_exact
from surgetank.exceptions import SurgetankError
from surgetank.server.access.roles import Caller
from surgetank.server.access.statements import sql_caller
from surgetank.server.dependencies import CurrentCaller, Deps, signed_in
from surgetank.server.http.problems import Problem, documented, of_family
from surgetank.server.services import Services

if TYPE_CHECKING:
    from surgetank.app.live import LiveEvent, LiveQuery

router = APIRouter(tags=["sql"], responses=documented(401, 403, 404, 422, 429, 501, 503))
_IDLE_S = 1.0
_QUIET_S = 15.0
_RECHECK_S = 60.0
_MESSAGE_BYTES = 128 * 1024
_NUMBER = "Go on after the event with this id; without it the rows come first."
# A line of a request may have 64 KB, and a character takes up to three bytes there.
MOST_TEXT = 16_000
Text = Annotated[
    str,
    Query(max_length=MOST_TEXT, description="SUBSCRIBE TO table WHERE ... OPTIONS (last_rows=N)"),
]
After = Annotated[str | None, Query(pattern=r"^\d{1,19}$", description=_NUMBER)]
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID", pattern=r"^\d{1,19}$",
        description="What browsers send when they come back.",
    ),
]  # fmt: skip


@router.websocket("/ws/sql")
async def follow_table(
    socket: WebSocket, who: CurrentCaller, services: Deps, sql: Text = "", after: After = None
) -> None:
    """A live query. `after` is an event's `id`."""
    with services.hub.slot_for(who):
        query = await _begin(services, who, sql, after)
        try:
            await _converse(socket, query, services, who)
        finally:
            query.close()


@router.get(
    "/sql/live",
    dependencies=signed_in(),
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Server-sent events."}},
)
async def stream_table(
    who: CurrentCaller,
    services: Deps,
    sql: Text = "",
    after: After = None,
    last_event_id: LastEventId = None,
) -> StreamingResponse:
    """A live query as server-sent events: `rows` to begin with, then each `insert`, `update` and
    `delete` in order. A `gap` says that changes were missed: read the rows again."""
    begin = last_event_id if last_event_id is not None else after
    with services.hub.slot_for(who):
        query = await _begin(services, who, sql, begin)
    return _Stream(query, services, who)


async def _begin(services: Services, who: Caller, text: str, after: str | None) -> LiveQuery:
    number = None if after is None else int(after)
    return await run_in_threadpool(services.tank.live.begin, text, sql_caller(who), after=number)


async def _followed(
    query: LiveQuery, services: Services, who: Caller
) -> AsyncIterator[list[LiveEvent]]:
    """Events as they come; an empty list says that nothing happened. Ends with the server, or
    when the caller may no longer follow."""
    loop = asyncio.get_running_loop()
    news = asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop may have ended first
            loop.call_soon_threadsafe(news.set)

    query.on_news(wake)
    checked = spoken = loop.time()
    while not services.hub.closing and not query.closed:
        news.clear()
        events = await run_in_threadpool(query.take)
        if services.login.has_ended(who):
            return
        now = loop.time()
        if events or now - spoken >= _QUIET_S:
            spoken = now
            yield events
        if now - checked >= _RECHECK_S:
            checked = now
            if not await run_in_threadpool(services.login.still_good, who):
                return
        with suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), _IDLE_S)


async def _converse(socket: WebSocket, query: LiveQuery, services: Services, who: Caller) -> None:
    """Send until either side ends. Several events in one message are lines of it."""
    await socket.accept()
    sending = asyncio.create_task(_send(socket, query, services, who))
    hearing = asyncio.create_task(_hear(socket))
    _, pending = await asyncio.wait({sending, hearing}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
    if sending.cancelled():
        return
    error = sending.exception()
    if error is None:
        code, reason = sending.result()
        with suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(code, reason)
    elif not isinstance(error, WebSocketDisconnect):
        raise error


async def _send(
    socket: WebSocket, query: LiveQuery, services: Services, who: Caller
) -> tuple[int, str]:
    """Why it ended, as a WebSocket says it."""
    slow_s = services.settings.server_write_timeout
    try:
        async for events in _followed(query, services, who):
            for text in _pieces([dumps_exact(event.to_dict()) for event in events], b"\n"):
                try:
                    await asyncio.wait_for(socket.send_text(text.decode()), slow_s)
                except TimeoutError:
                    return 1013, "too slow: come back with after=ID"
    except SurgetankError as error:
        return 1008, of_family(error, who).detail[:100]
    return 1001, "the server stops, or the token is no longer good"


async def _hear(socket: WebSocket) -> None:
    """Until the client goes away. What it says is not listened to."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


def _pieces(lines: list[bytes], between: bytes) -> list[bytes]:
    """Lines in messages of bounded size."""
    found, piece, size = list[bytes](), list[bytes](), 0
    for line in lines:
        piece.append(line)
        size += len(line)
        if size > _MESSAGE_BYTES:
            found.append(between.join(piece))
            piece, size = [], 0
    return [*found, between.join(piece)] if piece else found


class _Stream(StreamingResponse):
    """Events as they come. Who reads too slowly is disconnected (`patience`)."""

    def __init__(self, query: LiveQuery, services: Services, who: Caller) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(
            _lines(query, services, who), media_type="text/event-stream", headers=headers
        )
        self._query, self._hub, self._who = query, services.hub, who

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._hub.slot_for(self._who):
                await super().__call__(scope, receive, send)
        except Problem as problem:
            await problem.response(scope["path"])(scope, receive, send)
        finally:
            self._query.close()


async def _lines(query: LiveQuery, services: Services, who: Caller) -> AsyncIterator[bytes]:
    try:
        async for events in _followed(query, services, who):
            if not events:
                yield b": still here\n\n"
            for piece in _pieces([_line(event) for event in events], b""):
                yield piece
    except SurgetankError as error:
        problem = of_family(error, who)
        yield b"event: error\ndata: %s\n\n" % dumps_exact(
            {"type": "error", "detail": problem.detail}
        )


def _line(event: LiveEvent) -> bytes:
    number = b"" if event.version is None else b"id: %d\n" % event.version
    return b"%sevent: %s\ndata: %s\n\n" % (
        number,
        event.type.encode(),
        dumps_exact(event.to_dict()),
    )
