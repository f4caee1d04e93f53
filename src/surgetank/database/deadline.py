"""A connection that gives up: libpq itself waits for a server that says nothing as long as TCP
does, so for ever.

psycopg speaks the protocol in generators that yield when they would wait. `wait` drives them here
with a limit on silence: time in which not one byte came or went. The server's own
`statement_timeout` speaks first where it is set; this limit is for a server that is frozen, or cut
off without a farewell. COPY takes the same way.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Generator
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg import Connection, capabilities
from psycopg.waiting import Ready, Wait

from surgetank.database import collector

T = TypeVar("T")
_CANCEL_S = 1.0
_CHECK_S = 0.5  # how often a wait looks whether it was interrupted
_ANY_ERROR = select.POLLERR | select.POLLHUP | select.POLLNVAL
_EVENTS = {Wait.R: select.POLLIN, Wait.W: select.POLLOUT, Wait.RW: select.POLLIN | select.POLLOUT}


class ServerSilent(psycopg.OperationalError):
    """A statement was given up, and its connection closed. `alive`: the server still answers
    others."""

    alive = False


class BoundedConnection(Connection[Any]):
    """A connection whose every wait ends after `silence_s` seconds without a byte."""

    silence_s: float = 30.0
    used: bool = False  # it carried out a statement before

    def wait(
        self,
        gen: Generator[Any, Any, T],
        interval: float = 0.0,  # noqa: ARG002 - psycopg's own, for waits without an end
        timeout: float | None = None,
    ) -> T:
        """Drive the generator. Raises `ServerSilent`."""
        silence_s = self.silence_s if timeout is None else timeout
        held_back = collector.release()
        try:
            event = next(gen)
            number = self.pgconn.socket
            poller = select.poll()  # not select(), which can't look at file numbers above 1023
            poller.register(number, _EVENTS[event])
            limit = time.monotonic() + silence_s
            while True:
                found = poller.poll(max(0.0, min(_CHECK_S, limit - time.monotonic())) * 1000)
                if not found:
                    if time.monotonic() >= limit:
                        break
                    continue
                event = gen.send(_ready(found[0][1]))
                poller.modify(number, _EVENTS[event])
                limit = time.monotonic() + silence_s
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            if held_back:
                collector.hold()
        gen.close()
        raise self._give_up(silence_s)

    def _give_up(self, silence_s: float) -> ServerSilent:
        error = ServerSilent(f"no answer within {silence_s:.3g} s")
        if capabilities.has_cancel_safe():  # an older libpq would wait for the answer without end
            with suppress(psycopg.Error):
                self.cancel_safe(timeout=_CANCEL_S)
                error.alive = True
        self.pgconn.finish()
        return error

    def interrupt(self) -> None:
        """End whatever another thread is waiting for on this connection, at once."""
        with suppress(OSError, psycopg.Error):
            twin = socket.socket(fileno=os.dup(self.pgconn.socket))
            try:
                twin.shutdown(socket.SHUT_RDWR)
            finally:
                twin.close()


def _ready(events: int) -> int:
    ready = 0
    if events & (select.POLLIN | _ANY_ERROR):
        ready |= Ready.R
    if events & (select.POLLOUT | _ANY_ERROR):
        ready |= Ready.W
    return ready
