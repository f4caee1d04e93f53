"""Answers that take as long as a run: its events as they come, or its last values."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from surgetank.encode.jsontext import dumps, loads
from surgetank.events.streams import END, StreamEvent
from surgetank.exceptions import InvalidTransition, RunNotFound, SurgetankError
from surgetank.server.access.roles import Caller
from surgetank.server.agent.follow import end_of_run, follow_run
from surgetank.server.agent.requests import headers_of
from surgetank.server.agent.state import config_for, read_state
from surgetank.server.http.problems import Problem
from surgetank.server.services import Services
from surgetank.telemetry import log
from surgetank.workflows.runs import CancelAction, Run

_ALWAYS = ("metadata", "error", "gap", END)
_KEEP_ALIVE_S = 5.0


class RunStream(StreamingResponse):
    """The events of a run as server-sent events."""

    def __init__(
        self, services: Services, who: Caller, run: Run, *, after: int, modes: list[str] | None,
        cancel_on_disconnect: bool,
    ) -> None:  # fmt: skip
        events = sent_events(services, who, run, after, modes, cancel_on_disconnect)
        headers = {
            "Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers_of(run, "stream"),
        }  # fmt: skip
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._hub, self._who = services.hub, who

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._hub.slot_for(self._who):
                await super().__call__(scope, receive, send)
        except Problem as problem:
            await problem.response(scope["path"])(scope, receive, send)


async def sent_events(
    services: Services, who: Caller, run: Run, after: int, modes: list[str] | None,
    cancel_on_disconnect: bool,
) -> AsyncIterator[bytes]:  # fmt: skip
    """The frames. Whose client goes away before the end has the run cancelled, if that is
    wanted."""
    wanted = None if modes is None else {_sent_as(mode) for mode in modes}
    over = False
    try:
        async for events in follow_run(services.streams, run, services.tank.runs.get, after):
            if not events:
                yield b": still here\n\n"
                continue
            over = any(event.event == END for event in events)
            shown = [frame(e) for e in events if wanted is None or _is_wanted(e, wanted)]
            if shown:
                yield b"".join(shown)
    finally:
        if cancel_on_disconnect and not over and not services.stopping.is_set():
            await asyncio.shield(run_in_threadpool(_cancel, services, who, run))


def _sent_as(mode: str) -> str:
    return "messages" if mode == "messages-tuple" else mode


def _is_wanted(event: StreamEvent, wanted: set[str]) -> bool:
    name = event.event.split("|", 1)[0]
    return name in _ALWAYS or name in wanted or name.split("/", 1)[0] in wanted


def frame(event: StreamEvent) -> bytes:
    """An event as it is sent."""
    data = dumps({"status": loads(event.data).get("status")}) if event.event == END else event.data
    id_ = b"id: %d\n" % event.seq if event.seq else b""  # one that is in no log has none
    return b"event: %s\ndata: %s\n%s\n" % (event.event.encode(), data, id_)


def _cancel(services: Services, who: Caller, run: Run) -> None:
    with suppress(RunNotFound, InvalidTransition):
        services.tank.runs.cancel(run.run_id, actor=who.user, action=CancelAction.INTERRUPT)


class RunResult(Response):
    """The last values of a run, when it has ended; line breaks before them keep the connection."""

    media_type = "application/json"

    def __init__(
        self, services: Services, who: Caller, run: Run, *, cancel_on_disconnect: bool = False
    ) -> None:
        self.status_code, self.background = 200, None
        self.init_headers(headers_of(run, "join"))
        self._services, self._who, self._run = services, who, run
        self._cancels = cancel_on_disconnect

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        # Not a `StreamingResponse`, which takes twice as long: most requests are answered by this.
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        waiting = asyncio.create_task(result_of(self._services, self._run))
        gone = asyncio.create_task(_gone(receive))
        try:
            while not waiting.done():
                await asyncio.wait(
                    {waiting, gone}, timeout=_KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED
                )
                if not waiting.done():
                    if gone.done():
                        return
                    await send(_body(b"\n", more=True))
            await send(_body(self._shown(waiting), more=False))
        finally:
            gone.cancel()
            if not waiting.done():
                waiting.cancel()
                if self._cancels and not self._services.stopping.is_set():
                    await asyncio.shield(
                        run_in_threadpool(_cancel, self._services, self._who, self._run)
                    )

    def _shown(self, ended: asyncio.Task[Any]) -> bytes:
        try:
            return dumps(ended.result())
        except SurgetankError as error:  # the status line is gone: said as a failed run is
            log.warning("result_unreadable", run=str(self._run.run_id), error=error.what)
            return dumps({"__error__": {"error": type(error).__name__, "message": error.what}})


def _body(body: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def _gone(receive: Receive) -> None:
    """Until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def result_of(services: Services, run: Run) -> Any:
    """The last values: with `__interrupt__` when people are asked, `__error__` when it failed."""
    error: Any = None
    values: bytes | None = None
    end: dict[str, Any] = {}
    for event in await end_of_run(services.streams, run, services.tank.runs.get):
        if event.event == "error":
            error = loads(event.data)
        elif event.event == "values":
            values = event.data
        elif event.event == END:
            end = loads(event.data)
    if end.get("status") in ("error", "timeout"):
        return {"__error__": error or {"error": "RunFailed", "message": "It failed."}}
    if "values" in end:
        return end["values"]
    if values is not None and end.get("status") == "success" and not end.get("waits"):
        return loads(values)  # the last that it sent
    row = await run_in_threadpool(services.tank.threads.rows.find, run.thread_id)
    state = await read_state(services, row, config_for(run.thread_id))
    shown = state["values"]
    if state["interrupts"] and isinstance(shown, dict):
        shown = shown | {"__interrupt__": state["interrupts"]}
    return shown
