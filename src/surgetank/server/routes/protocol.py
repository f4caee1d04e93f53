"""The event streaming protocol (v2) of LangGraph's clients, and all runs of a thread in one
stream."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, WebSocket
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from surgetank.encode.jsontext import dumps, loads
from surgetank.exceptions import SurgetankError
from surgetank.server.access.authorizing import AskedRoute
from surgetank.server.access.roles import Caller
from surgetank.server.agent.commands import allowed, carry_out, refusal
from surgetank.server.agent.follow_thread import protocol_events, run_frames
from surgetank.server.agent.state import known_row
from surgetank.server.agent.thread_events import Subscription
from surgetank.server.agent.wire import json_response
from surgetank.server.dependencies import CurrentCaller, Deps, ThreadId, VisibleThread, signed_in
from surgetank.server.http.problems import Problem, documented
from surgetank.server.schemas.agent import CommandAnswer, ProtocolCommand, SubscribeBody
from surgetank.server.services import Services

router = APIRouter(
    route_class=AskedRoute,
    prefix="/threads",
    tags=["runs"],
    responses=documented(401, 403, 404, 409, 422, 429, 503),
)
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "Server-sent events."}
}
_SUBSCRIPTIONS = 32  # of one WebSocket
_FRAME_BYTES = 1024 * 1024
Sort = Literal["run_modes", "lifecycle", "state_update"]


@router.post("/{thread_id:name}/commands", response_model=CommandAnswer, dependencies=signed_in())
async def command(
    thread_id: ThreadId, body: ProtocolCommand, who: CurrentCaller, services: Deps
) -> Response:
    """Do something with a thread: `run.start`, `input.respond`, `agent.getTree`. What can't be done
    is answered with 200 and `type: error`."""
    who, body = await allowed(services, who, thread_id, body)
    return json_response(await run_in_threadpool(carry_out, services, who, thread_id, body))


@router.post("/{thread_id:name}/stream/events", responses=_STREAM, dependencies=signed_in())
async def stream_events(
    thread_id: VisibleThread, body: SubscribeBody, who: CurrentCaller, services: Deps
) -> Response:
    """Events of a thread, of those channels that are named, until the client goes. After `since`;
    without it from the beginning of the run that is under way or asks people."""
    await known_row(services, thread_id)
    return _Stream(services, who, _protocol_frames(services, who, thread_id, body))


@router.get("/{thread_id:name}/stream", responses=_STREAM, dependencies=signed_in())
async def stream_thread(
    thread_id: VisibleThread,
    who: CurrentCaller,
    services: Deps,
    stream_mode: Annotated[
        list[Sort] | None,
        Query(description="All that runs send, or how they go, or their values."),
    ] = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=100)] = None,
) -> Response:
    """All runs of a thread, one after the other: what comes from now on, or with `Last-Event-ID`
    all that came after that (`0` or `-1`: all that is kept)."""
    await known_row(services, thread_id)
    if last_event_id is None:
        after = (await services.streams.read(thread_id, limit=1)).last
    else:
        after = int(last_event_id) if last_event_id.isdecimal() else 0
    wanted = frozenset[str](stream_mode or ["run_modes"])
    return _Stream(services, who, run_frames(services, who, thread_id, min(after, 2**53), wanted))


class _Stream(StreamingResponse):
    """Events as they come; one of the connections that a caller may have."""

    def __init__(self, services: Services, who: Caller, frames: AsyncIterator[bytes]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(frames, media_type="text/event-stream", headers=headers)
        self._hub, self._who = services.hub, who

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._hub.slot_for(self._who):
                await super().__call__(scope, receive, send)
        except Problem as problem:
            await problem.response(scope["path"])(scope, receive, send)


def _subscription(body: SubscribeBody) -> Subscription:
    return Subscription(frozenset(body.channels), body.namespaces, body.depth)


async def _protocol_frames(
    services: Services, who: Caller, thread_id: str, body: SubscribeBody
) -> AsyncIterator[bytes]:
    wanted = _subscription(body)
    async for events in protocol_events(services, who, thread_id, wanted, body.since):
        if not events:
            yield b": still here\n\n"
            continue
        yield b"".join(
            b"event: %s\ndata: %s\nid: %d\n\n" % (e.method.encode(), e.body, e.seq) for e in events
        )


@router.websocket("/{thread_id:name}/stream/events")
async def socket_events(
    socket: WebSocket, thread_id: VisibleThread, who: CurrentCaller, services: Deps
) -> None:
    """The same over a WebSocket: each message is a command, `subscription.subscribe` first."""
    await known_row(services, thread_id)
    with services.hub.slot_for(who):
        await socket.accept()
        await _Socket(socket, services, who, thread_id).serve()


class _Socket:
    """One WebSocket: commands come in, answers and events go out."""

    def __init__(self, socket: WebSocket, services: Services, who: Caller, thread_id: str) -> None:
        self._socket = socket
        self._services = services
        self._who = who
        self._thread_id = thread_id
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()

    async def serve(self) -> None:
        """Until either side ends."""
        hearing = asyncio.create_task(self._hear())
        try:
            while True:
                done, _ = await asyncio.wait(
                    {hearing, *self._sending.values()}, timeout=1.0,
                    return_when=asyncio.FIRST_COMPLETED,
                )  # fmt: skip
                over = done & set(self._sending.values())
                if hearing in done or any(not task.cancelled() for task in over):
                    break
                self._sending = {n: t for n, t in self._sending.items() if t not in over}
        finally:
            tasks = [hearing, *self._sending.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(RuntimeError, WebSocketDisconnect):  # the other side may have gone first
            await self._socket.close(1001, "come back with since")

    async def _hear(self) -> None:
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            text = message.get("text") or message.get("bytes") or b""
            await self._send(dumps(await self._answer(text)))

    async def _answer(self, text: str | bytes) -> dict[str, Any]:
        id_ = None
        try:
            given = ProtocolCommand.model_validate(
                loads(text) if len(text) <= _FRAME_BYTES else None
            )
            id_ = given.id
            if given.method == "subscription.subscribe":
                return self._subscribe(given)
            if given.method == "subscription.unsubscribe":
                return self._unsubscribe(given)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            at = ".".join(str(part) for part in first["loc"])
            return refusal(id_, "invalid_argument", f"{at}: {first['msg']}")
        except ValueError:
            return refusal(id_, "invalid_argument", "This is no command.")
        services = self._services
        try:
            who, given = await allowed(services, self._who, self._thread_id, given)
            return await run_in_threadpool(carry_out, services, who, self._thread_id, given)
        except Problem as problem:
            return refusal(id_, "permission_denied", problem.detail)
        except SurgetankError as error:
            return refusal(id_, "unknown_error", str(error))

    def _subscribe(self, given: ProtocolCommand) -> dict[str, Any]:
        body = SubscribeBody.model_validate(given.params or {})
        if len(self._sending) >= _SUBSCRIPTIONS:
            return refusal(given.id, "invalid_argument", "These are too many subscriptions.")
        name = str(uuid.uuid4())
        self._sending[name] = asyncio.create_task(self._send_events(body))
        result = {"subscription_id": name}
        return {"type": "success", "id": given.id, "result": result}

    def _unsubscribe(self, given: ProtocolCommand) -> dict[str, Any]:
        task = self._sending.get(str((given.params or {}).get("subscription_id")))
        if task is None:
            return refusal(given.id, "no_such_subscription", "There is no such subscription.")
        task.cancel()
        return {"type": "success", "id": given.id, "result": {}}

    async def _send_events(self, body: SubscribeBody) -> None:
        wanted = _subscription(body)
        async for events in protocol_events(
            self._services, self._who, self._thread_id, wanted, body.since
        ):
            for event in events:
                await self._send(event.body)

    async def _send(self, data: bytes) -> None:
        """Who reads too slowly is disconnected, and comes back with `since`."""
        async with self._turn:
            await asyncio.wait_for(
                self._socket.send_text(data.decode()),
                self._services.settings.server_write_timeout,
            )
