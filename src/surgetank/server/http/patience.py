"""uvicorn's HTTP protocol with an end to its patience: a client that doesn't send its request, or
doesn't read its answer, is disconnected, and what waits to send its request never takes the
connections of those who have.

The deadline of a request counts from its first byte (or from the connection's beginning) and is not
put off by single bytes. h11 is named rather than chosen by what happens to be installed: the rules
are the same everywhere.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from surgetank.telemetry import log

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_FLUSH_S = 2.0
_ANSWER_S = 2.0  # `Bodies` says of a body that it was too slow before the connection is cut


class HalfOpen:
    """The connections whose request is not there yet, oldest first. One per server."""

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self._waiting: dict[PatientProtocol, None] = {}

    def add(self, protocol: PatientProtocol) -> None:
        """One more waits; when there are too many, the one that has waited longest goes."""
        self._waiting[protocol] = None
        if len(self._waiting) > self._most:
            next(iter(self._waiting)).give_up()

    def discard(self, protocol: PatientProtocol) -> None:
        """It waits no longer."""
        self._waiting.pop(protocol, None)


class PatientProtocol(H11Protocol):
    """A connection. Times in seconds; set by `patient` for all connections of a server."""

    half_open: HalfOpen
    request_s: float
    write_s: float

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._request_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._awaited: object = None  # the part of a request that is missing

    # -- the request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._stop()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Keep a timer running while a part of a request is missing: one for the head, one for the
        body."""
        awaited = None if self.transport.is_closing() else self._missing()
        if awaited == self._awaited:
            return
        self._stop_request_timer()
        self._awaited = awaited
        if awaited is not None:
            patience_s = self.request_s if awaited == "head" else self.request_s + _ANSWER_S
            self._request_timer = self.loop.call_later(patience_s, self.give_up)
            self.half_open.add(self)

    def _missing(self) -> object:
        if self.conn.their_state is h11.SEND_BODY:
            return self.cycle
        begun = bool(self.conn.trailing_data[0]) or self.cycle is None
        return "head" if self.conn.their_state is h11.IDLE and begun else None

    def give_up(self) -> None:
        """The rest of the request is not waited for."""
        self._stop_request_timer()
        if self.transport.is_closing():
            return
        log.info("request_not_sent_in_time", client=self.client[0] if self.client else None)
        if self.conn.our_state is h11.IDLE:
            self.transport.write(_TOO_SLOW)
        self.transport.close()
        self.loop.call_later(_FLUSH_S, self.transport.abort)

    # -- the answer

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_s, self._not_read)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def _not_read(self) -> None:
        log.info("answer_not_read_in_time", client=self.client[0] if self.client else None)
        self.transport.abort()

    # -- timers

    def _stop(self) -> None:
        self._stop_request_timer()
        self._stop_write_timer()

    def _stop_request_timer(self) -> None:
        self.half_open.discard(self)
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def patient(*, connections: int, request_s: float, write_s: float) -> type[PatientProtocol]:
    """The protocol for a server with so many connections. Half of them may be without a request."""

    class Protocol(PatientProtocol):
        half_open = HalfOpen(connections // 2)

    Protocol.request_s, Protocol.write_s = request_s, write_s
    return Protocol
