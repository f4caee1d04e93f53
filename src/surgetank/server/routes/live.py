"""Events as they happen: WebSockets, their twins as server-sent events, and pages of what is kept
for replay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, WebSocket
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from surgetank.server.access.authorizing import AskedRoute
from surgetank.server.access.roles import Caller
from surgetank.server.dependencies import CurrentCaller, Deps, VisibleThread, signed_in
from surgetank.server.http.problems import Problem, documented
from surgetank.server.live.banners import incidents_of
from surgetank.server.live.followers import Follower, Hub
from surgetank.server.live.lines import Line
from surgetank.server.schemas.telling import Events
from surgetank.server.services import Services

router = APIRouter(
    route_class=AskedRoute, tags=["events"], responses=documented(401, 403, 404, 422, 429, 503)
)
_MESSAGE_BYTES = 128 * 1024
_ANSWER_BYTES = 2 * 1024 * 1024
_MOST = 2**53
_NUMBER = "Go on after this number; without it only what happens from now on is sent."
After = Annotated[int | None, Query(ge=0, le=_MOST, description=_NUMBER)]
LastEventId = Annotated[
    int | None,
    Header(
        alias="Last-Event-ID", ge=0, le=_MOST, description="What browsers send when they come back."
    ),
]
_STREAM: dict[str, Any] = {
    "response_class": StreamingResponse,
    "responses": {
        200: {
            "content": {"text/event-stream": {}},
            "description": "Server-sent events.",
        }
    },
}


@router.get("/threads/{thread_id:name}/events", response_model=Events, dependencies=signed_in())
def events(
    thread_id: VisibleThread,
    services: Deps,
    who: CurrentCaller,
    after: Annotated[int, Query(ge=0, le=_MOST, description="Events after this number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most events in one answer.")] = 100,
) -> dict[str, Any]:
    """Events of a thread that are kept for replay, in order. `gap` tells of those that are gone.

    An answer ends early when its events reach about 2 MiB: `next` leads on until there are none.
    """
    gap, found = services.tank.events.thread_events(
        thread_id, after, limit=limit, max_bytes=_ANSWER_BYTES
    )
    return {
        "thread_id": thread_id,
        "events": [event.to_dict() for event in found],
        "gap": gap.to_dict() if gap is not None else None,
        "incidents": incidents_of(services, who, thread_id),
        "next": found[-1].seq if found else gap.missed_to if gap is not None else after,
    }


@router.websocket("/ws/threads/{thread_id:name}")
async def follow_thread(
    socket: WebSocket,
    thread_id: VisibleThread,
    who: CurrentCaller,
    services: Deps,
    after: After = None,
) -> None:
    """One thread's events. `after` is a thread's `seq`."""
    with services.hub.slot_for(who):
        follower = _follower(services, who, thread_id, "websocket")
        await _send_all(socket, follower, after, services.settings.server_write_timeout)


@router.websocket("/ws/events")
async def follow_all(
    socket: WebSocket, who: CurrentCaller, services: Deps, after: After = None
) -> None:
    """The events of all threads that the caller may read. `after` is an event's `id`."""
    with services.hub.slot_for(who):
        follower = _follower(services, who, None, "websocket")
        await _send_all(socket, follower, after, services.settings.server_write_timeout)


@router.get("/sse/threads/{thread_id:name}", dependencies=signed_in(), **_STREAM)
async def stream_thread(
    thread_id: VisibleThread,
    who: CurrentCaller,
    services: Deps,
    after: After = None,
    last_event_id: LastEventId = None,
) -> StreamingResponse:
    """One thread's events as server-sent events; ids are the thread's `seq`."""
    begin = last_event_id if last_event_id is not None else after
    return _Stream(_follower(services, who, thread_id, "sse"), begin, services.hub, who)


@router.get("/sse/events", dependencies=signed_in(), **_STREAM)
async def stream_all(
    who: CurrentCaller, services: Deps, after: After = None, last_event_id: LastEventId = None
) -> StreamingResponse:
    """The events of all threads that the caller may read, as server-sent events; ids are the
    event's `id`."""
    begin = last_event_id if last_event_id is not None else after
    return _Stream(_follower(services, who, None, "sse"), begin, services.hub, who)


def _follower(services: Services, who: Caller, thread_id: str | None, transport: str) -> Follower:
    return Follower(
        services.hub,
        services.visibility,
        who,
        thread_id=thread_id,
        still_good=services.login.still_good,
        has_ended=services.login.has_ended,
        counted=partial(services.tank.meters.subscribers, transport),
        support_url=services.settings.support_url,
    )


async def _send_all(
    socket: WebSocket, follower: Follower, after: int | None, slow_s: float
) -> None:
    """Send until either side ends. Several events in one message are lines of it."""
    await socket.accept()
    sending = asyncio.create_task(_send(socket, follower, after, slow_s))
    hearing = asyncio.create_task(_hear(socket))
    done, pending = await asyncio.wait({sending, hearing}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
        for task in pending:  # sending fails when the other side is gone: that is no news
            if not task.cancelled():
                task.exception()
    for task in done:
        error = task.exception()
        if error is not None and not isinstance(error, WebSocketDisconnect):
            raise error
    if sending in done:
        code, reason = sending.result() if sending.exception() is None else (1011, "failed")
        with suppress(RuntimeError, WebSocketDisconnect):  # the other side may have gone first
            await socket.close(code, reason)


async def _send(
    socket: WebSocket, follower: Follower, after: int | None, slow_s: float
) -> tuple[int, str]:
    """Why it ended, as a WebSocket says it."""
    async for events in follower.follow(after):
        if not events:
            continue  # uvicorn's pings keep the connection known to be alive
        for text in _messages(events):
            try:
                await asyncio.wait_for(socket.send_text(text), slow_s)
            except TimeoutError:
                return 1013, "too slow: come back with after=NUMBER"
    return 1001, "the server stops, or the token is no longer good"


def _messages(events: Sequence[Line]) -> Iterator[str]:
    """Events as lines of messages that clients with the usual limit of 1 MiB take."""
    lines, size = list[bytes](), 0
    for event in events:
        lines.append(event.data)
        size += len(event.data)
        if size > _MESSAGE_BYTES:
            yield b"\n".join(lines).decode()
            lines, size = [], 0
    if lines:
        yield b"\n".join(lines).decode()


async def _hear(socket: WebSocket) -> None:
    """Until the client goes away. What it says is not listened to."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


class _Stream(StreamingResponse):
    """Events as they come, in pieces of bounded size. Who reads too slowly is disconnected
    (`patience`)."""

    def __init__(self, follower: Follower, after: int | None, hub: Hub, who: Caller) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_lines(follower, after), media_type="text/event-stream", headers=headers)
        self._hub, self._who = hub, who

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._hub.slot_for(self._who):
                await super().__call__(scope, receive, send)
        except Problem as problem:
            await problem.response(scope["path"])(scope, receive, send)


async def _lines(follower: Follower, after: int | None) -> AsyncIterator[bytes]:
    async for events in follower.follow(after):
        if not events:
            yield b": still here\n\n"
        piece, size = list[bytes](), 0
        for line in map(_line, events):
            piece.append(line)
            size += len(line)
            if size > _MESSAGE_BYTES:
                yield b"".join(piece)
                piece, size = [], 0
        if piece:
            yield b"".join(piece)


def _line(event: Line) -> bytes:
    number = event.seq if event.thread_id is not None and event.type != "gap" else event.id
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, event.type.encode(), event.data)
