"""Several threads on one saver, each with a conversation of its own: how many steps a second go
through.

A step is a `put` and a `put_writes`. What PostgresSaver has taken is in the database already; what
Surgetank has taken still waits in its buffer, so the rate until all of it is in the database is
shown beside.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from langgraph.checkpoint.base.id import uuid6

from bench import chat
from bench.harness import Recorder, Scene
from bench.peers import Contestant, contestants

TITLE = "Several threads on one saver"


def run(scene: Scene) -> Recorder:
    """All savers in turn."""
    recorder, scale = Recorder("threads"), scene.scale
    states = chat.growing(scale.worker_steps, seed=1)
    total = scale.workers * scale.worker_steps
    with contestants(scene) as all_, ThreadPoolExecutor(scale.workers) as pool:
        for number, who in scene.turns(all_):
            start = _race(who, pool, scale.workers, states)
            accepted = time.perf_counter() - start
            who.settle()
            stored = time.perf_counter() - start
            label, unit = f"{scale.workers} threads", "steps/s"
            recorder.add(number, who.name, "accepted", total / accepted, label=label, unit=unit)
            label += ", until all is stored"
            recorder.add(number, who.name, "stored", total / stored, label=label, unit=unit)
    return recorder


def _race(
    who: Contestant,
    pool: ThreadPoolExecutor,
    workers: int,
    states: list[list[object]],
    *,
    writes: bool = True,
) -> float:
    """Let all workers run at once and wait for them. Returns when they started."""
    started: list[float] = []
    barrier = Barrier(workers, action=lambda: started.append(time.perf_counter()))

    def work() -> None:
        thread = chat.Thread(who.saver, str(uuid6()))
        barrier.wait()
        for step, messages in enumerate(states):
            thread.put({"messages": messages, "step": step}, writes=writes)

    running = [pool.submit(work) for _ in range(workers)]
    for one in running:
        one.result()
    return started[0]


def race(who: Contestant, workers: int, states: list[list[object]]) -> float:
    """Seconds in which so many threads put all states, without pending writes."""
    with ThreadPoolExecutor(workers) as pool:
        start = _race(who, pool, workers, states, writes=False)
        return time.perf_counter() - start
