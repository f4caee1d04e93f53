"""Many runs at once on one process: all end, and nothing of them stays in memory."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any, TypedDict
from uuid import uuid4

import psutil
from langgraph.graph import START, StateGraph

from bench.harness import BenchError, Recorder, Scene
from bench.peers import OURS, open_tank
from surgetank import Surgetank
from surgetank.workflows.runs import NewRun

TITLE = "Many runs at once on one process"
_WAIT_S = 0.2  # of each node, as a model would take it


class State(TypedDict, total=False):
    """A number that grows."""

    n: int


def run(scene: Scene) -> Recorder:
    """Waves of runs; the memory after each."""
    recorder, crowd = Recorder("crowd"), scene.scale.crowd

    async def wait(state: Any) -> dict[str, Any]:
        await asyncio.sleep(_WAIT_S)
        return {"n": state.get("n", 0) + 1}

    with scene.server.database(migrated=True) as url, open_tank(scene, url) as tank:
        graph = StateGraph(State).add_node("wait", wait).add_edge(START, "wait")
        graphs = {"wait": graph.compile(checkpointer=tank.checkpointer())}
        asyncio.run(_waves(scene, recorder, tank, graphs, crowd))
    return recorder


async def _waves(
    scene: Scene, recorder: Recorder, tank: Surgetank, graphs: dict[str, Any], crowd: int
) -> None:
    worker, stop = tank.runs.worker(graphs, most=crowd), asyncio.Event()
    working = asyncio.create_task(worker.work(stop))
    try:
        before = 0.0
        for number, _ in scene.turns([OURS]):
            begun = time.perf_counter()
            await asyncio.to_thread(_wave, tank, crowd)
            while tank_counts := await asyncio.to_thread(tank.runs.counts):
                if working.done():
                    raise BenchError(f"the worker ended with {tank_counts}")
                worker.wake()
                await asyncio.sleep(0.02)
            seconds = time.perf_counter() - begun
            await asyncio.to_thread(tank.flush)
            gc.collect()
            memory = psutil.Process().memory_info().rss / 1e6
            label = f"{crowd} runs at once"
            recorder.add(number, OURS, "seconds", seconds, label=label, unit="s")
            label = f"memory more after {crowd} further runs"
            if before or not scene.scale.rehearse:
                recorder.add(
                    number,
                    OURS,
                    "memory",
                    memory - before if before else 0.0,
                    label=label,
                    unit="MB",
                )
            before = memory
    finally:
        stop.set()
        await working


def _wave(tank: Surgetank, crowd: int) -> None:
    for n in range(crowd):
        new = NewRun(thread_id=uuid4().hex, assistant_id="wait", kwargs={"input": {"n": n}})
        tank.runs.accept(new, actor="bench")
