"""Running the application with uvicorn: the socket, the conditions under which it may listen, the
way to stop.

uvicorn's own logs are silenced below warnings: they show query strings, where a ticket may stand.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from surgetank.exceptions import ConfigurationError, SinkError
from surgetank.server.http.patience import patient
from surgetank.server.services import Services
from surgetank.settings import Settings
from surgetank.telemetry import log

_BACKLOG = 2048
_GRACE_S = 5.0


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_access(services: Services, host: str) -> str | None:
    """Refuse to listen where others could come in without a token.

    Returns a warning for the operator, or None. Raises `ConfigurationError`.
    """
    if services.no_auth:
        if is_loopback(host):
            return "no authentication: every program on this machine is an administrator"
        raise ConfigurationError(
            f"--no-auth can't be used on {host}, which other machines can reach.",
            remedy="listen on 127.0.0.1, or leave --no-auth away and use tokens.",
        )
    if services.settings.admin_token is not None:
        return None
    how = "`surgetank token create --role admin --user NAME`, or set SURGETANK_ADMIN_TOKEN"
    try:
        if services.tokens.any_usable():
            return None
    except (SinkError, ConfigurationError):
        return (
            "the database can't be reached, so that no token can be checked until it is back "
            "(SURGETANK_ADMIN_TOKEN works without it)"
        )
    if is_loopback(host):
        return f"there is no token yet, nobody can log in: {how}"
    raise ConfigurationError(
        f"The server would listen on {host} for other machines, and there is no token.",
        remedy=f"run {how}.",
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `ConfigurationError`."""
    bound = bind(host, port)
    try:
        start_listening(bound)
    except BaseException:
        bound.close()
        raise
    return bound


def start_listening(bound: socket.socket) -> None:
    """Accept connections from now on. Raises `ConfigurationError`."""
    try:
        bound.listen(_BACKLOG)
    except OSError as error:
        host, port = bound.getsockname()[:2]
        raise _cannot_listen(host, port, error) from error


def bind(host: str, port: int) -> socket.socket:
    """A socket that has the port, and accepts nothing yet. Raises `ConfigurationError`."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # With the protocol named, asyncio turns Nagle's delay off: without, each answer takes 40
        # ms.
        listening = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except BaseException:
            listening.close()
            raise
        return listening
    except OSError as error:
        raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"The server can't listen on {host} port {port}: {error.strerror or error}.",
        remedy="use another --port or --host, or stop what listens there.",
    )


def make_server(
    app: FastAPI, settings: Settings, *, started: Callable[[], None] = lambda: None
) -> StoppableServer:
    """The server for this application; `run(sockets=[...])` serves until it is told to stop, and
    calls `started` when requests are answered. It raises `ConfigurationError` when the project's
    application can't be started."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "websockets"):
        logging.getLogger(name).setLevel(logging.WARNING)
    config = uvicorn.Config(
        app,
        http=patient(
            connections=settings.server_connections,
            request_s=settings.server_request_timeout,
            write_s=settings.server_write_timeout,
        ),
        access_log=False,
        log_config=None,
        server_header=False,
        lifespan="on",
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
        limit_concurrency=settings.server_connections,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
        ws_max_size=64 * 1024,
        ws_per_message_deflate=False,  # many small messages to many followers: compression costs more than it saves
    )
    return StoppableServer(config, app, started)


class StoppableServer(uvicorn.Server):
    """A server that returns after SIGTERM or Ctrl-C instead of dying of it, so that the engine can
    be closed."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._app = app
        self._services: Services = app.state.services
        self._on_start = started
        self.interrupted = False  # by Ctrl-C

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.signal(n, self._stop) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        logger = logging.getLogger("uvicorn.error")
        logger.addFilter(self._is_news)
        try:
            super().run(sockets)
        except SystemExit:
            if self._services.stopping.is_set():  # told to stop before it had started
                return
            error: ConfigurationError | None = getattr(self._app.state, "not_started", None)
            raise (error or SystemExit(1)) from None
        finally:
            logger.removeFilter(self._is_news)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()

    def _is_news(self, _record: logging.LogRecord) -> bool:
        """Why it did not start is said by the error, not by a traceback through our layers."""
        return not hasattr(self._app.state, "not_started")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._services.stopping.set()  # streams that would go on for ever end now, and don't hold up the rest
        self._services.hub.close()
        self._services.streams.close()
        await super().shutdown(sockets)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if not self.started:
            self._services.stopping.set()
        self.force_exit = self.should_exit and number == signal.SIGINT
        self.should_exit = True
        self.interrupted = self.interrupted or number == signal.SIGINT


@contextmanager
def end_within(seconds: float, give_up: Callable[[int], None] = os._exit) -> Iterator[None]:
    """End the process, if what is done here takes longer: a stop is bounded even when a connection
    hangs."""

    def over() -> None:
        log.error("shutdown_took_too_long", seconds=seconds)
        give_up(1)

    timer = threading.Timer(seconds, over)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def longest_stop_s(settings: Settings) -> float:
    """How long closing the engine may take: `shutdown_timeout`, and what it takes to end what is
    interrupted then."""
    return settings.shutdown_timeout + settings.connect_timeout + _GRACE_S
