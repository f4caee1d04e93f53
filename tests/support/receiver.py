"""A real HTTP server that takes webhooks of runs, or answers them as the test says."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    path: str
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class Receiver:
    """What came, and how it answers: `answers` in turn, then 200. Requests wait while `open_` is
    cleared."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.open_ = threading.Event()
        self.open_.set()
        self.drip = threading.Event()  # answers one byte after the other, for ever
        self.ended = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append(
                    Received(self.path, {k.lower(): v for k, v in self.headers.items()}, raw)
                )
                receiver.open_.wait(60)
                if receiver.drip.is_set():
                    self._drip()
                    return
                status, headers = receiver.answers.pop(0) if receiver.answers else (200, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _drip(self) -> None:
                try:
                    while not receiver.ended.wait(0.02):
                        self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                except OSError:
                    pass  # it was cut

            def log_message(self, *_: object) -> None:
                """Not on the test's output."""

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A caller that gives up is no news."""

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.scheme = "https" if tls else "http"
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hooks/s3cr3t?key=s3cr3t"


@contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver(tls)
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.open_.set()
        receiver.ended.set()
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()
