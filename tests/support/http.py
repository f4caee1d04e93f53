"""A real server for tests: uvicorn on a free port, spoken to with httpx."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.server.access.roles import Role
from surgetank.server.app import Mounted, create_app
from surgetank.server.serve import listen, make_server
from surgetank.server.services import Services
from surgetank.workflows.graphs.graph_set import GraphSet

ADMIN_TOKEN = "an-admin-token-of-the-environment"


class Server:
    """A running server and tokens for it."""

    def __init__(self, app: Any, tank: Surgetank, url: str, uvicorn: Any) -> None:
        self.app = app
        self.uvicorn = uvicorn
        self.tank = tank
        self.url = url
        self._clients: list[httpx.Client] = []

    @property
    def services(self) -> Services:
        found: Services = self.app.state.services
        return found

    def token(self, role: str, user: str, **options: Any) -> str:
        """A new token."""
        return self.services.tokens.create(user, Role(role), by="test", **options)[1]

    def client(self, token: str | None = None, **headers: str) -> httpx.Client:
        """A client with this token."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._clients.append(httpx.Client(base_url=self.url, headers=headers, timeout=30))
        return self._clients[-1]

    def as_role(self, role: str, user: str) -> httpx.Client:
        """A client with a new token."""
        return self.client(self.token(role, user))

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, for sockets."""
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def close(self) -> None:
        """Close the clients."""
        for client in self._clients:
            client.close()

    @property
    def admin(self) -> httpx.Client:
        """A client with the token of the environment."""
        return self.client(ADMIN_TOKEN)


@contextmanager
def running(
    tank: Surgetank,
    *,
    clock: Callable[[], float] | None = None,
    no_auth: bool = False,
    graphs: GraphSet | None = None,
    mounts: Sequence[Callable[[Services], Mounted]] = (),
    port: int = 0,
) -> Iterator[Server]:
    """A server for this engine, on a thread of this process. Nobody works on runs."""
    app = create_app(tank, graphs=graphs, no_auth=no_auth, clock=clock or time.time, mounts=mounts)
    with listen("127.0.0.1", port) as listening:
        server = make_server(app, tank.settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        made = Server(app, tank, f"http://127.0.0.1:{listening.getsockname()[1]}", server)
        try:
            wait_until(lambda: server.started or not thread.is_alive(), "the server to start")
            yield made
        finally:
            made.close()
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive(), "the server does not stop"
