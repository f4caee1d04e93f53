"""Live events under load: `python -m bench.live` (1,000 events a second to 100 WebSockets for 60 s
by default).

Server, emitter and subscribers are processes of their own. Printed: the time from emit to receipt,
what was missed or came twice (20 subscribers are cut off and come back), and how the server's
memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import psutil
from websockets.asyncio.client import connect

_THREADS = 10


def emit(home: str, rate: int, seconds: float) -> None:
    """Tell `rate` events a second, and print how many it were."""
    from surgetank import Surgetank

    with Surgetank(
        home, flush_in_process=False, flush_on_close=False, start_database=False
    ) as tank:
        started = time.perf_counter()
        total = round(rate * seconds)
        for i in range(total):
            tank.broadcast_run_event("tick", thread_id=f"t{i % _THREADS}", n=i, sent=time.time())
            ahead = started + (i + 1) / rate - time.perf_counter()
            if ahead > 0.002:
                time.sleep(ahead)
    print(total)


class Subscriber:
    """One WebSocket that comes back where it was when it is cut off."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token
        self.place: int | None = None
        self.numbers: list[int] = []
        self.delays: list[float] = []
        self.ready = asyncio.Event()

    async def run(self, until: asyncio.Event, cut: asyncio.Event) -> None:
        """Receive until the end; cut the connection whenever told."""
        while not until.is_set():
            after = f"?after={self.place}" if self.place is not None else ""
            headers = {"Authorization": f"Bearer {self._token}"}
            async with connect(
                self._url + after, additional_headers=headers, compression=None
            ) as ws:
                while not until.is_set() and not cut.is_set():
                    try:
                        async with asyncio.timeout(0.5):
                            text = await ws.recv()
                    except TimeoutError:
                        continue
                    self._take(str(text))
            cut.clear()

    def _take(self, text: str) -> None:
        now = time.time()
        for line in text.split("\n"):
            event = orjson.loads(line)
            if event["type"] == "subscribed":
                if self.place is None:
                    self.place = event["after"]
                self.ready.set()
            elif event["type"] == "tick":
                self.numbers.append(event["n"])
                self.delays.append(now - event["sent"])
                self.place = event["id"]


async def follow(
    port: int, token: str, count: int, cuts: int, emitter: Any, server: psutil.Process
) -> dict[str, Any]:
    """Start subscribers, then the emitter; what became of it."""
    url = f"ws://127.0.0.1:{port}/ws/events"
    subscribers = [Subscriber(url, token) for _ in range(count)]
    until, cut = asyncio.Event(), [asyncio.Event() for _ in subscribers]
    tasks = [asyncio.create_task(s.run(until, c)) for s, c in zip(subscribers, cut, strict=True)]
    await asyncio.gather(*(s.ready.wait() for s in subscribers))
    process = await asyncio.create_subprocess_exec(*emitter, stdout=subprocess.PIPE)
    assert process.stdout is not None
    ended = asyncio.create_task(process.stdout.read())
    memory = [server.memory_info().rss]
    for i in range(cuts):
        await asyncio.sleep(0.5)
        if ended.done():
            break
        cut[i % count].set()
    while not ended.done():
        await asyncio.sleep(1)
        memory.append(server.memory_info().rss)
    total = int(await ended)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(len(s.numbers) < total for s in subscribers):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    until.set()
    for task in tasks:
        await task
    delays = sorted(d for s in subscribers for d in s.delays)
    return {
        "events": total,
        "subscribers": count,
        "reconnects": cuts,
        "missed": sum(total - len(set(s.numbers)) for s in subscribers),
        "double": sum(len(s.numbers) - len(set(s.numbers)) for s in subscribers),
        "out_of_order": sum(s.numbers != sorted(s.numbers) for s in subscribers),
        "p50_ms": round(1000 * statistics.median(delays), 1),
        "p99_ms": round(1000 * delays[int(0.99 * len(delays))], 1),
        "max_ms": round(1000 * delays[-1], 1),
        "server_cpu_s": round(sum(server.cpu_times()[:2]), 1),
        "server_mb": [round(m / 1e6) for m in (memory[0], memory[len(memory) // 2], memory[-1])],
    }


def main() -> None:
    """Run it and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.live", description=__doc__)
    parser.add_argument("--rate", type=int, default=1000, help="events a second")
    parser.add_argument("--subscribers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--cuts", type=int, default=20, help="how many connections are cut on the way"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stk-") as home, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        token = secrets.token_urlsafe(32)
        environment = {**os.environ, "SURGETANK_HOME": home, "SURGETANK_ADMIN_TOKEN": token}
        program = str(Path(sys.executable).with_name("surgetank"))
        command = [program, "serve", "--port", str(port)]
        serve = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_for(port)
            code = f"from bench.live import emit; emit({home!r}, {given.rate}, {given.seconds})"
            found = asyncio.run(
                follow(
                    port,
                    token,
                    given.subscribers,
                    given.cuts,
                    [sys.executable, "-c", code],
                    psutil.Process(serve.pid),
                )
            )
        finally:
            serve.terminate()
            serve.wait(60)
    print(json.dumps({**found, "rate": given.rate}, indent=2))


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main()
