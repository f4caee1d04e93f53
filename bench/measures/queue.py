"""The queue of runs alone, without graphs: how fast it is emptied, beside procrastinate; how long a
run waits for its start; what it asks the database.

Ours claims and ends runs with status, workflow, thread and two chained rows of the audit each.
procrastinate does a task that does nothing. Both are as many at once as the scale says.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import Any, TypedDict
from unittest.mock import patch
from uuid import uuid4

import procrastinate
import psycopg
from langgraph.graph import START, StateGraph

from bench.harness import BenchError, Recorder, Scene
from bench.peers import OURS, open_tank
from bench.project.graphs import five
from surgetank import Surgetank
from surgetank.events.streams import Written
from surgetank.workflows.execution import FixedGraphs
from surgetank.workflows.manager import WorkflowStatusManager
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import NewRun

TITLE = "The queue of runs"
PROCRASTINATE = "procrastinate"
_THREADS = 32  # that a worker of ours ends runs on
_CONNECTIONS = 20  # of procrastinate


class Named(TypedDict):
    """Which run it is."""

    name: str


def run(scene: Scene) -> Recorder:
    """Both queues in turn; then ours alone."""
    recorder = Recorder("queue")
    _drain(scene, recorder)
    _start(scene, recorder)
    return recorder


def _drain(scene: Scene, recorder: Recorder) -> None:
    count, workers = scene.scale.queued_runs, scene.scale.queue_workers
    with ExitStack() as stack:
        tank = stack.enter_context(
            open_tank(
                scene,
                stack.enter_context(scene.server.database(migrated=True)),
                flush_in_process=False,
            )
        )
        peer = stack.enter_context(scene.server.database())
        pool = stack.enter_context(ThreadPoolExecutor(_THREADS))
        numbers = itertools.count()
        for number, who in scene.turns([OURS, PROCRASTINATE]):
            if who == OURS:
                took = _drain_ours(tank, pool, count, workers, next(numbers))
            else:
                took = asyncio.run(_drain_peer(peer, count, workers))
            scene.server.checkpoint()
            label = f"runs, {workers} at once"
            recorder.add(number, who, "drained", count / took, label=label, unit="a second")


def _drain_ours(
    tank: Surgetank, pool: ThreadPoolExecutor, count: int, workers: int, turn: int
) -> float:
    queue = RunQueue(tank.parts.database, node="bench")
    statuses = WorkflowStatusManager(queue, actor="bench", wait=lambda _: False)
    news = [NewRun(thread_id=f"{turn}-{n}", assistant_id="noop") for n in range(count)]
    list(pool.map(lambda new: queue.accept(new, actor="bench"), news))
    begun, ended, under_way = time.perf_counter(), 0, set[Future[str]]()
    while ended < count:  # as a worker does it: claim where there is room, end what is done
        for run in queue.claim("bench", workers - len(under_way)):
            under_way.add(pool.submit(statuses.mark_completed, run))
        if not under_way:
            raise BenchError(f"{ended} of {count} runs were ended")
        done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
        ended += len([each.result() for each in done])
    return time.perf_counter() - begun


async def _drain_peer(url: str, count: int, workers: int) -> float:
    logging.getLogger("procrastinate").setLevel(logging.CRITICAL)
    connector = procrastinate.PsycopgConnector(conninfo=url, min_size=4, max_size=_CONNECTIONS)
    app, done = procrastinate.App(connector=connector), itertools.count()

    @app.task(name="noop")
    async def noop() -> None:
        next(done)

    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        await noop.batch_defer_async(*[{} for _ in range(count)])
        begun = time.perf_counter()
        await app.run_worker_async(wait=False, concurrency=workers, install_signal_handlers=False)
        took = time.perf_counter() - begun
    if next(done) != count:
        raise BenchError("procrastinate left tasks undone")
    return took


# -- from call to start


def _start(scene: Scene, recorder: Recorder) -> None:
    scale = scene.scale
    started: dict[str, float] = {}

    async def note(state: Any) -> dict[str, Any]:
        started[state["name"]] = time.perf_counter()
        return {}

    with scene.server.database(migrated=True) as url, open_tank(scene, url) as tank:
        graph = StateGraph(Named).add_node("note", note).add_edge(START, "note")
        saver = tank.checkpointer()
        graphs = {
            "note": graph.compile(checkpointer=saver),
            "five": five.compile(checkpointer=saver),
        }
        with _working(tank, graphs):
            for number, _ in scene.turns([OURS]):
                delays = _paced(tank, started, scale.paced_runs)
                label = f"call to start, {_RATE} runs a second"
                recorder.add(number, OURS, "start", delays, label=label)
            for number, _ in scene.turns([OURS]):
                asked = _round_trips(tank, scale.paced_runs)
                label = "round trips of a run of 5 nodes, one after the other"
                recorder.add(number, OURS, "round trips", asked, label=label, unit="")


_RATE = 50


@contextmanager
def _working(tank: Surgetank, graphs: dict[str, Any]) -> Iterator[None]:
    service = tank.runs.service(FixedGraphs(graphs))
    service.start()
    try:
        _ended(tank, "note", {"name": "first"})
        yield
    finally:
        service.stop(20)


def _paced(tank: Surgetank, started: dict[str, float], count: int) -> list[float]:
    """Milliseconds from the call until the first node runs."""
    called: dict[str, float] = {}
    with _Ends(tank) as ends:
        begun = time.perf_counter()
        for n in range(count):
            ahead = begun + n / _RATE - time.perf_counter()
            if ahead > 0:
                time.sleep(ahead)
            name = uuid4().hex
            called[name] = time.perf_counter()
            new = NewRun(thread_id=name, assistant_id="note", kwargs={"input": {"name": name}})
            tank.runs.accept(new, actor="bench")
        for name in called:
            ends.wait_for(name)
    return [(started[name] - at) * 1000 for name, at in called.items()]


class _Ends:
    """Hears of the ends of runs, each on a thread of its own."""

    def __init__(self, tank: Surgetank) -> None:
        self._tank = tank
        self._heard = threading.Condition()
        self._over: set[str] = set()

    def __enter__(self) -> _Ends:
        self._stop = self._tank.runs.streams.listen(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _look(self, written: Written) -> None:
        if written.ended:
            with self._heard:
                self._over.add(written.thread_id)
                self._heard.notify_all()

    def wait_for(self, thread: str) -> None:
        with self._heard:
            if not self._heard.wait_for(lambda: thread in self._over, timeout=10):
                raise BenchError(f"the run of {thread} did not end")


def _ended(tank: Surgetank, graph: str, given: dict[str, Any]) -> None:
    """Run a graph and wait for its end."""
    thread = uuid4().hex
    with _Ends(tank) as ends:
        new = NewRun(thread_id=thread, assistant_id=graph, kwargs={"input": given})
        tank.runs.accept(new, actor="bench")
        ends.wait_for(thread)


def _round_trips(tank: Surgetank, count: int) -> float:
    """Statements of this process for each run, but for those of flushes."""
    asked, lock = itertools.count(), threading.Lock()
    execute = psycopg.Cursor.execute

    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        if "flush" not in threading.current_thread().name:
            with lock:
                next(asked)
        return execute(self, *arguments, **named)

    with patch.object(psycopg.Cursor, "execute", counted):
        for n in range(count):
            _ended(tank, "five", {"n": n})
        return next(asked) / count
