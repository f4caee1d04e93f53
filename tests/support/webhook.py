"""A real HTTP server that takes webhooks, refuses them, or lets them wait, as the test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "s3cr3t-t0ken"  # in every place where a URL can have one


class Webhook:
    """What it received, and how it answers. Requests wait while `open_` is cleared."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.asked = 0
        self.status = 200
        self.open_ = threading.Event()
        self.open_.set()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.asked += 1
                webhook.open_.wait(60)
                if webhook.status == 200:
                    webhook.received.append(json.loads(body))
                self.send_response(webhook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Not on the test's output."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    @property
    def url(self) -> str:
        """As an apprise URL with secrets in every place where a URL can have them."""
        return f"json://user:{SECRET}@127.0.0.1:{self.port}/hooks/{SECRET}?+X-Token={SECRET}"

    @property
    def name(self) -> str:
        """How it may be shown."""
        return f"json://127.0.0.1:{self.port}"

    def titles(self) -> list[str]:
        return [body["title"] for body in self.received]


@contextmanager
def running_webhook() -> Iterator[Webhook]:
    webhook = Webhook()
    thread = threading.Thread(target=webhook.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield webhook
    finally:
        webhook.open_.set()
        webhook.server.shutdown()
        webhook.server.server_close()
        thread.join()
