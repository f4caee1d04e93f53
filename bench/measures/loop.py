"""How long an event loop is held up by a `put`: while another process holds the buffer's file, and
by large states.

A heartbeat on the loop ticks every millisecond; the longest gap between two ticks, less that
millisecond, is what a server's other requests would have waited. The peer is LangGraph's
AsyncSqliteSaver, which writes on a thread.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from bench import chat
from bench.harness import Recorder, Scene
from bench.peers import OURS, open_tank

TITLE = "What a put holds up on the event loop"
PEER = "AsyncSqliteSaver"
_TICK_S = 0.001
_HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("ROLLBACK")
"""


def run(scene: Scene) -> Recorder:
    """Both savers in turn."""
    recorder = Recorder("loop")
    asyncio.run(_run(scene, recorder))
    return recorder


async def _run(scene: Scene, recorder: Recorder) -> None:
    scale = scene.scale
    async with AsyncExitStack() as stack:
        peer_file = Path(mkdtemp(dir=scene.home)) / "peer.db"
        peer = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(peer_file)))
        await peer.setup()
        url = stack.enter_context(scene.server.database(migrated=True))
        tank = stack.enter_context(
            open_tank(scene, url, flush_in_process=False, flush_on_close=False)
        )
        players: list[tuple[str, Any, Path]] = [
            (PEER, peer, peer_file),
            (OURS, tank.checkpointer(), Path(tank.parts.buffer.name)),
        ]
        large = {"text": _documents(scale.large_mb), "objects": _messages(scale.large_mb)}
        for number, (name, saver, file) in scene.turns(players):
            await _put(saver, {"n": 1})
            held = await _held(saver, file, scale.held_s)
            recorder.add(
                number,
                name,
                "held",
                held,
                label=f"another process holds the file for {scale.held_s:g} s",
            )
            for kind, state in large.items():
                stalled = await _stall(lambda saver=saver, state=state: _put(saver, state))  # type: ignore[misc]
                recorder.add(
                    number, name, kind, stalled, label=f"a state of {scale.large_mb} MB of {kind}"
                )


async def _held(saver: Any, file: Path, seconds: float) -> float:
    command = [sys.executable, "-c", _HOLD, str(file), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:  # noqa: ASYNC220 - before it counts
        assert holder.stdout is not None
        await asyncio.to_thread(holder.stdout.readline)
        stalled = await _stall(lambda: _put(saver, {"n": 2}))
        await asyncio.to_thread(holder.wait)
    return stalled


async def _put(saver: Any, values: dict[str, Any]) -> None:
    thread = chat.Thread(saver, str(uuid6()))
    config, checkpoint, metadata, versions = thread.next_put(values)
    await saver.aput(config, checkpoint, metadata, versions)


async def _stall(act: Callable[[], Awaitable[None]]) -> float:
    """The longest gap in milliseconds that the heartbeat had meanwhile."""
    worst, stop = 0.0, asyncio.Event()

    async def heartbeat() -> None:
        nonlocal worst
        last = time.perf_counter()
        while not stop.is_set():
            await asyncio.sleep(_TICK_S)
            now = time.perf_counter()
            worst = max(worst, now - last - _TICK_S)
            last = now

    beating = asyncio.create_task(heartbeat())
    await asyncio.sleep(0.02)
    worst = 0.0
    await act()
    await asyncio.sleep(0.02)
    stop.set()
    await beating
    return 1000 * worst


def _documents(megabytes: int) -> dict[str, Any]:
    source = random.Random(1)
    return {"documents": [source.randbytes(50_000).hex() for _ in range(10 * megabytes)]}


def _messages(megabytes: int) -> dict[str, Any]:
    source = random.Random(2)
    return {
        "messages": [HumanMessage(source.randbytes(500).hex()) for _ in range(1000 * megabytes)]
    }
