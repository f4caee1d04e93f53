"""A TCP proxy between a program and a server of the tests: it can be cut, or hold back what passes."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path


class TcpProxy:
    """Listens on a port of its own and forwards to `target`: host and port, or a Unix socket."""

    def __init__(self, target: tuple[str, int] | Path) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_cut = False
        self._passes = threading.Event()
        self._passes.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Connections end, and new ones as soon as they are made."""
        with self._lock:
            self._is_cut = True
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """New connections are forwarded, and what was held back goes on."""
        with self._lock:
            self._is_cut = False
        self._passes.set()

    def hold(self) -> None:
        """Nothing passes, and no connection ends: as on a host that swallows packets."""
        self._passes.clear()

    def close(self) -> None:
        """End it, with its connections."""
        self.cut()
        self._passes.set()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, self._connect() as server:
            with self._lock:
                if self._is_cut:
                    return
                self._open |= {client, server}
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            self._pump(client, server)
            back.join()
            with self._lock:
                self._open -= {client, server}

    def _connect(self) -> socket.socket:
        if isinstance(self._target, tuple):
            return socket.create_connection(self._target)
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(str(self._target))
        except OSError:
            made.close()
            raise
        return made

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._passes.wait()
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
