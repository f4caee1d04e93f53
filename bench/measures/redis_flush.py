"""How flush throughput grows with workers: processes that empty one buffer in Redis into a sink
whose transactions take 20 ms each.

The latency is simulated (the sink sleeps), so that neither a database nor its disk is what is
measured, but how workers share what waits: 2 entries of 1 KB in each of many threads, 10 entries in
a transaction. All are due. Beside the throughput, what an entry costs in processor time, of workers
and of the server.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from redis import Redis

from bench.harness import BenchError, Recorder, Scene
from bench.measures.redis_put import running_redis
from surgetank.buffer.redis.buffer import RedisBuffer
from surgetank.flush.breaker import CircuitBreaker
from surgetank.flush.job import Clockwork, StreamFlusher
from surgetank.flush.policy import RetryPolicy, StreamPolicy
from surgetank.model import Record
from surgetank.redis.address import parse
from surgetank.sinks.protocol import Slice, Written

TITLE = "Flush throughput by workers"
ONE, TWO, EIGHT = "1 worker", "2 workers", "8 workers"
WORKERS = {ONE: 1, TWO: 2, EIGHT: 8}
_STREAM = "checkpoints"
_EACH = 2  # entries of a thread
_POLICY = StreamPolicy(entries=1, age_s=0.0, batch_entries=10)
_PATIENCE_S = 120.0


class _Distant:
    """A sink whose transactions take a while, and which counts what it got."""

    name = "distant"

    def __init__(self, latency_s: float, written: Any) -> None:
        self._latency_s = latency_s
        self._written = written

    def write(self, slices: Sequence[Slice], *, buffer_id: str) -> list[Written]:  # noqa: ARG002
        """Wait, and count."""
        time.sleep(self._latency_s)
        with self._written.get_lock():
            self._written.value += sum(len(part.entries) for part in slices)
        return [Written(rows=len(part.entries)) for part in slices]

    def probe(self, *, buffer_id: str) -> None:
        """It takes everything."""

    def ping(self) -> str:
        """Its name."""
        return self.name

    def close(self) -> None:
        """Nothing is open."""


def run(scene: Scene) -> Recorder:
    """One, two and eight in turn, over the same backlog."""
    recorder = Recorder("redis_flush")
    logging.getLogger("surgetank").setLevel(logging.ERROR)
    total = scene.scale.waiting_threads * _EACH
    with running_redis() as socket, Redis(unix_socket_path=str(socket)) as client:
        for number, who in scene.turns(list(WORKERS)):
            client.flushall()
            _fill(f"redis+unix://{socket}", scene.scale.waiting_threads)
            before = _server_cpu(client)
            workers = min(WORKERS[who], scene.scale.workers)  # a process takes a while to start
            latency_s = scene.scale.sink_ms / 1000
            seconds, cpu = _drain(f"redis+unix://{socket}", workers, total, latency_s)
            server = _server_cpu(client) - before
            recorder.add(number, who, "drained", total / seconds, label="emptied", unit="entries/s")
            for key, spent in (("worker cpu", cpu), ("server cpu", server)):
                recorder.add(
                    number, who, key, spent / total * 1e6, label=f"{key} of an entry", unit="us"
                )
    return recorder


def _fill(url: str, threads: int) -> None:
    noise = random.Random(1).randbytes(1000)
    buffer = RedisBuffer(parse(url))

    def append(number: int) -> None:
        for step in range(_EACH):
            buffer.append(_STREAM, f"thread-{number}", [Record(b"%d" % step, noise)])

    with ThreadPoolExecutor(16) as pool:  # appends of threads are sent together
        list(pool.map(append, range(threads)))
    buffer.close()


def _server_cpu(client: Redis) -> float:
    info: Any = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def _drain(url: str, workers: int, total: int, latency_s: float) -> tuple[float, float]:
    """Seconds until all is in the sink, and the processor time of all workers."""
    context = multiprocessing.get_context("spawn")
    ready, over = context.Barrier(workers + 1), context.Event()
    written, cpu = context.Value("q", 0), context.Value("d", 0.0)
    children = [
        context.Process(target=_work, args=(url, n, latency_s, ready, over, written, cpu))
        for n in range(workers)
    ]
    for child in children:
        child.start()
    ready.wait(_PATIENCE_S)
    begun = time.perf_counter()
    while written.value < total:
        if time.perf_counter() - begun > _PATIENCE_S or any(c.exitcode for c in children):
            over.set()
            raise BenchError(f"{written.value} of {total} entries were flushed")
        time.sleep(0.002)
    seconds = time.perf_counter() - begun
    over.set()
    for child in children:
        child.join()
    if written.value != total:
        raise BenchError(f"{written.value} entries were written, of {total}")
    return seconds, cpu.value


def _work(
    url: str, number: int, latency_s: float, ready: Any, over: Any, written: Any, cpu: Any
) -> None:
    logging.getLogger("surgetank").setLevel(logging.ERROR)
    buffer = RedisBuffer(parse(url))
    flusher = StreamFlusher(
        _STREAM,
        buffer,
        _Distant(latency_s, written),
        policy=_POLICY,
        retry=RetryPolicy(),
        breaker=CircuitBreaker(time.time, max_s=1.0),
        listener=lambda _: None,
        clockwork=Clockwork(time.time),
        node=f"worker-{number}-{os.getpid()}",
    )
    ready.wait(_PATIENCE_S)
    begun, stop = time.process_time(), threading.Event()
    while not over.is_set():
        if flusher.run_if_due(stop) is None:
            time.sleep(0.01)
    with cpu.get_lock():
        cpu.value += time.process_time() - begun
    buffer.close()
