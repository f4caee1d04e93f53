"""How many `put`s eight processes do at once on one Redis server, beside one process with a PostgresSaver whose
threads share a pool.

A step is a checkpoint of a chat that grows by two messages. The pool is raced with several numbers of threads, and
the best of them counts. The processes are started once, and put some before they are timed: from when all are
ready until the last one has put its last. Beside what the clock says stands what the processors did for one `put`,
the servers' part included: with all cores busy that decides.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import BrokenBarrierError
from typing import Any

from langgraph.checkpoint.base.id import uuid6
from redis import Redis

from bench import chat
from bench.harness import BenchError, Recorder, Scene
from bench.measures.redis_put import NO_COLD, running_redis
from bench.measures.threads import race
from bench.peers import OURS, POOL, contestants
from surgetank.buffer.redis.buffer import RedisBuffer
from surgetank.redis.address import parse
from surgetank.streams.checkpoints.saver import SurgetankSaver

TITLE = "Many processes on one Redis"
_MORE = 8  # times as many steps as the pool's threads do: they are that much faster
_READY_S = 300.0


def run(scene: Scene) -> Recorder:
    """Processes on one server, and threads on one pool, in turn."""
    recorder = Recorder("redis_crowd")
    workers, steps = scene.scale.workers, _MORE * scene.scale.worker_steps
    states = chat.growing(scene.scale.worker_steps, seed=1)
    counts = sorted({1, max(1, workers // 4), max(1, workers // 2), workers})
    with (
        contestants(scene, [POOL]) as (pool,),
        running_redis() as socket,
        Redis(unix_socket_path=str(socket)) as client,
        _processes(f"redis+unix://{socket}", workers, steps, states) as once,
    ):
        for number, who in scene.turns([POOL, OURS]):
            if who == POOL:
                best, cpu = 0.0, 0.0
                for count in counts:
                    before = time.process_time() + scene.server.cpu_s()
                    rate = count * len(states) / race(pool, count, states)
                    if rate > best:
                        used = time.process_time() + scene.server.cpu_s() - before
                        best, cpu = rate, used / count / len(states)
            else:
                before = _cpu_s(client)
                seconds, used = once()
                best = workers * steps / seconds
                cpu = (used + _cpu_s(client) - before) / workers / steps
            label = f"{workers} processes, or the best of {counts} threads of a pool"
            recorder.add(number, who, "puts", best, label=label, unit="puts/s")
            label = "processor time of a put, servers included"
            recorder.add(number, who, "cpu", 1000 * cpu, label=label, unit="ms")
    return recorder


def _cpu_s(client: Redis) -> float:
    used: Any = client.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


@contextmanager
def _processes(
    url: str, count: int, steps: int, states: list[list[Any]]
) -> Iterator[Callable[[], tuple[float, float]]]:
    """Processes that all put so many steps at once whenever it is called: the seconds from the first one's begin
    to the last one's end, and the processor seconds of all."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Barrier(count + 1), context.SimpleQueue()
    children = [
        context.Process(target=_put_many, args=(url, steps, states, ready, done), daemon=True)
        for _ in range(count)
    ]
    for child in children:
        child.start()

    def once() -> tuple[float, float]:
        ready.wait(_READY_S)
        ready.wait(_READY_S)
        told = [done.get() for _ in children]
        begun, ended, used = zip(*told, strict=True)
        return max(ended) - min(begun), sum(used)

    try:
        yield once
    finally:
        ready.abort()
        for child in children:
            child.join(_READY_S)
        if any(child.exitcode for child in children):
            raise BenchError("a process failed")


def _put_many(url: str, steps: int, states: list[list[Any]], ready: Any, done: Any) -> None:
    logging.getLogger("surgetank").setLevel(logging.ERROR)  # its server is as safe as we need it
    buffer = RedisBuffer(parse(url))
    saver = SurgetankSaver(buffer, NO_COLD)
    _put(saver, len(states), states)
    with suppress(BrokenBarrierError):  # that was all
        while True:
            ready.wait(_READY_S)
            begun, used = time.perf_counter(), time.process_time()
            _put(saver, steps, states)
            ended, used = time.perf_counter(), time.process_time() - used
            done.put((begun, ended, used))
            ready.wait(_READY_S)
    buffer.close()


def _put(saver: SurgetankSaver, steps: int, states: list[list[Any]]) -> None:
    """Conversations that each have all the states, one after the other."""
    for _ in range(0, steps, len(states)):
        thread = chat.Thread(saver, str(uuid6()))
        for step, messages in enumerate(states):
            thread.put({"messages": messages, "step": step}, writes=False)
