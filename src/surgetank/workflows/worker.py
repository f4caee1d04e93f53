"""A worker of runs: claims them, runs their graphs on its event loop, keeps their leases, ends them.

A run that was taken over goes on from its last checkpoint: nodes run at least once. Told to stop,
the worker gives its runs back at once instead of letting their leases run out.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from surgetank.exceptions import DatabaseUnavailable, LeaseLost, SurgetankError
from surgetank.offloop import off_loop
from surgetank.workflows.manager import WorkflowStatusManager
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import CancelAction, Run

Graph = CompiledStateGraph[Any, Any, Any, Any]
_IDLE_S = 1.0  # how often is looked for runs that others accepted
_BUSY_S = 0.1
_RESERVED = ("thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map")


@dataclass(slots=True)
class _UnderWay:
    run: Run
    task: asyncio.Task[None]
    cancelled: bool = False
    lost: bool = False


class RunWorker:
    """Runs up to `most` runs at once. For one event loop.

    `graphs` maps an assistant to its compiled graph, which has our checkpointer. `tell` is given
    what goes wrong beside runs: what a run does wrong is its own end.
    """

    def __init__(
        self,
        queue: RunQueue,
        graphs: Mapping[str, Graph],
        *,
        name: str,
        most: int = 10,
        renew_s: float = 10.0,
        owner_key: str = "user_id",
        tell: Callable[[BaseException, str], None] = lambda *_: None,
    ) -> None:
        self._queue = queue
        self._graphs = dict(graphs)
        self._name = name
        self._most = most
        self._renew_s = renew_s
        self._owner_key = owner_key
        self._tell = tell
        self._under_way: dict[str, _UnderWay] = {}
        self._woken = asyncio.Event()
        self._over = threading.Event()
        self._in_contact_since: float | None = None
        self._statuses = WorkflowStatusManager(
            queue, actor=name, wait=lambda seconds: not self._over.wait(seconds)
        )

    def wake(self) -> None:
        """Look for runs now: one was accepted in this process. For the loop's thread."""
        self._woken.set()

    async def work(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then give back what is under way."""
        renewing = asyncio.create_task(self._renew_all())
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                claimed = await self._claim()
                pause = _BUSY_S if claimed or self._under_way else _IDLE_S
                waking = asyncio.create_task(self._woken.wait())
                done = [stopping, waking, *(u.task for u in self._under_way.values())]
                await asyncio.wait(done, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                self._woken.clear()
        finally:
            self._over.set()
            tasks: list[asyncio.Task[Any]] = [each.task for each in self._under_way.values()]
            tasks += [renewing, stopping]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _claim(self) -> int:
        room = self._most - len(self._under_way)
        if room <= 0:
            return 0
        try:
            claimed = await off_loop(self._queue.claim, self._name, room)
        except SurgetankError as error:
            self._tell(error, traceback.format_exc())
            return 0
        for run in claimed:
            task = asyncio.create_task(self._run(run), name=f"run-{run.run_id}")
            self._under_way[str(run.run_id)] = _UnderWay(run, task)
        return len(claimed)

    async def _renew_all(self) -> None:
        """Keep what is under way; end what somebody else has, or what was asked to end."""
        while True:
            await asyncio.sleep(self._renew_s)
            mine = list(self._under_way.values())
            try:
                held = await off_loop(self._queue.renew, [each.run for each in mine])
                await self._reap()
            except SurgetankError as error:
                self._in_contact_since = None
                if not isinstance(error, DatabaseUnavailable):
                    self._tell(error, traceback.format_exc())
                continue  # nobody else could claim ours meanwhile
            for each in mine:
                action = held.get(each.run.run_id, CancelAction.INTERRUPT)
                each.lost = each.run.run_id not in held
                each.cancelled = action is not None and not each.lost
                if action is not None:
                    each.task.cancel()

    async def _reap(self) -> None:
        """Deal with runs of workers that went silent. After a gap in our own contact with the
        database all others get the time of a lease: they had the same gap."""
        now = asyncio.get_running_loop().time()
        if self._in_contact_since is None:
            self._in_contact_since = now
        if now - self._in_contact_since >= self._queue.lease_s:
            await off_loop(lambda: self._queue.reap(actor=self._name))

    # -- one run

    async def _run(self, run: Run) -> None:
        try:
            await self._execute(run)
        except LeaseLost:
            return  # whoever has it records how it ends
        except SurgetankError as error:
            self._tell(error, traceback.format_exc())
        finally:
            self._under_way.pop(str(run.run_id), None)

    async def _execute(self, run: Run) -> None:
        graph = self._graphs.get(run.graph)
        if graph is None:
            known = ", ".join(sorted(self._graphs)) or "none"
            await off_loop(
                self._statuses.mark_failed,
                run,
                f"There is no assistant {run.assistant_id!r} here; known: {known}.",
            )
            return
        config = self._config(run)
        try:
            async with asyncio.timeout(run.timeout_s):
                await graph.ainvoke(
                    await self._input(run, graph, config), config, durability="sync"
                )
                state = await graph.aget_state(config)
        except TimeoutError as error:
            late = run.timeout_s is not None
            message = f"It took longer than {run.timeout_s} s." if late else _shown(error)
            await off_loop(self._statuses.mark_failed, run, message, timed_out=late)
        except asyncio.CancelledError:
            await self._cancelled(run)
            raise
        except Exception as error:  # noqa: BLE001 - the graph is the application's: its failure is the run's end
            await off_loop(self._statuses.mark_failed, run, _shown(error))
        else:
            interrupts = [{"id": each.id, "value": each.value} for each in state.interrupts]
            if interrupts:
                await off_loop(self._statuses.mark_awaiting_checkpoint, run, interrupts)
            else:
                await off_loop(self._statuses.mark_completed, run)

    async def _cancelled(self, run: Run) -> None:
        """It was asked to end, somebody else has it, or this worker stops."""
        under_way = self._under_way.get(str(run.run_id))
        if under_way is None or under_way.lost:
            return
        mark = self._statuses.mark_cancelled if under_way.cancelled else self._statuses.give_back
        with suppress(LeaseLost, DatabaseUnavailable):  # the reaper deals with it
            await asyncio.shield(off_loop(mark, run))

    async def _input(self, run: Run, graph: Graph, config: RunnableConfig) -> Any:
        """What the graph is given; nothing when the run goes on from a checkpoint of its own."""
        if run.attempts > 1:
            state = await graph.aget_state(config)
            if (state.metadata or {}).get("run_id") == str(run.run_id):
                return None
        command = run.kwargs.get("command")
        if command:
            return Command(
                **{name: command[name] for name in ("resume", "update", "goto") if name in command}
            )
        return run.kwargs.get("input")

    def _config(self, run: Run) -> RunnableConfig:
        """The run's configuration: what clients may not set is ours."""
        given = dict((run.kwargs.get("config") or {}).get("configurable") or {})
        own = {
            name: value
            for name, value in given.items()
            if name not in _RESERVED and not name.startswith("__pregel_")
        }
        configurable = {**own, "thread_id": run.thread_id}
        configurable.pop(self._owner_key, None)
        if run.owner is not None:
            configurable[self._owner_key] = run.owner
        return {
            "configurable": configurable,
            "metadata": {
                **run.metadata,
                "run_id": str(run.run_id),
                "assistant_id": run.assistant_id,
            },
        }


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
