"""A gateway before a server, as a proxy is one: it passes connections on, or, closed, ends them all and answers each
new one with 503."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nRetry-After: 1\r\nContent-Length: 17\r\n"
    b"Connection: close\r\n\r\n<h1>no server</h1>"
)


class Gateway:
    """Listens on a port of its own."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._open: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.is_closed = False
        self.refused = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def close_for_now(self) -> None:
        """End what is open; who comes is refused."""
        self.is_closed = True
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def open_again(self) -> None:
        """Pass connections on."""
        self.is_closed = False

    def stop(self) -> None:
        """Listen no more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.close_for_now()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self.is_closed:
            self.refused += 1
            with client, suppress(OSError):
                client.recv(65536)
                client.sendall(_REFUSAL)
                client.shutdown(socket.SHUT_WR)
                client.recv(65536)
            return
        server = socket.create_connection(self._target)
        self._open |= {client, server}
        back = threading.Thread(target=self._pass_on, args=(server, client), daemon=True)
        back.start()
        self._pass_on(client, server)
        back.join()
        for each in (client, server):
            self._open.discard(each)
            each.close()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def gateway(target: tuple[str, int]) -> Iterator[Gateway]:
    """One, for a test."""
    made = Gateway(target)
    try:
        yield made
    finally:
        made.stop()
