"""A run on an agent server, called by LangGraph's own client, beside a bare `graph.ainvoke` in a
process of its own.

`langgraph dev` keeps its state in memory; ours has the run, its status, the audit and the
checkpoints safe before the client hears of its end. It takes part where `make bench-peers` was
called.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any

from langgraph.checkpoint.base.id import uuid6
from langgraph_sdk import get_client

from bench.agent_servers import AgentServer, agent_servers
from bench.harness import BenchError, Recorder, Scene
from bench.peers import OURS, contestants
from bench.project.graphs import five

TITLE = "A run on an agent server"
BARE = "graph.ainvoke"


def run(scene: Scene) -> Recorder:
    """All servers in turn, the bare graph with them."""
    recorder = Recorder("served")
    with contestants(scene, (OURS,)) as (bare,), agent_servers(scene) as servers:
        graph = five.compile(checkpointer=bare.saver)
        for number, chosen in scene.together([None, *servers]):
            asyncio.run(_round(scene, recorder, number, graph, chosen))
        bare.settle()
    return recorder


async def _round(
    scene: Scene, recorder: Recorder, number: int, graph: Any, chosen: Sequence[AgentServer | None]
) -> None:
    """Run by run in turns: what a slow moment of the machine takes, it takes from all."""
    scale = scene.scale
    clients = {
        server.name: get_client(url=server.url, headers=server.headers)
        for server in chosen
        if server is not None
    }
    took: dict[str, list[float]] = {}
    try:
        for _ in range(scale.served_runs):
            for server in chosen:
                if server is None:
                    took.setdefault(BARE, []).append(await _bare(graph))
                else:
                    took.setdefault(server.name, []).append(await _wait(clients[server.name]))
        bare = statistics.median(took.pop(BARE))
        recorder.add(number, BARE, "run", bare, label="a run of 5 nodes")
        for name, values in took.items():
            recorder.add(number, name, "run", values, label="a run of 5 nodes")
            label = "a run of 5 nodes, more than the bare graph"
            recorder.add(number, name, "added", statistics.median(values) - bare, label=label)
        for name, client in clients.items():
            begun = time.perf_counter()
            await asyncio.gather(*(_wait(client) for _ in range(scale.runs_at_once)))
            label, seconds = f"{scale.runs_at_once} runs at once", time.perf_counter() - begun
            recorder.add(number, name, "at once", seconds, label=label, unit="s")
            delays = await _delays(client, scale.served_events)
            recorder.add(number, name, "event", delays, label="an event, node to client")
    finally:
        for client in clients.values():
            await client.aclose()


async def _bare(graph: Any) -> float:
    config = {"configurable": {"thread_id": str(uuid6())}}
    begun = time.perf_counter()
    _check(await graph.ainvoke({"n": 0}, config))
    return (time.perf_counter() - begun) * 1000


async def _wait(client: Any) -> float:
    thread = await client.threads.create()
    begun = time.perf_counter()
    _check(await client.runs.wait(thread["thread_id"], "five", input={"n": 0}))
    return (time.perf_counter() - begun) * 1000


def _check(values: Any) -> None:
    if values.get("n") != 5:
        raise BenchError(f"a run of five nodes ended with {values}")


async def _delays(client: Any, events: int) -> list[float]:
    thread = await client.threads.create()
    delays = [
        (time.time() - part.data["sent"]) * 1000
        async for part in client.runs.stream(
            thread["thread_id"], "ticker", input={"events": events}, stream_mode="custom"
        )
        if part.event == "custom"
    ]
    if len(delays) != events:
        raise BenchError(f"{len(delays)} of {events} events arrived")
    return delays
