"""A worker of runs: claims them, runs their graphs on its event loop, ends them.

Told to stop, the worker gives its runs back at once instead of letting their leases run out.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from langgraph.checkpoint.base import BaseCheckpointSaver

from surgetank.encode.jsontext import dumps
from surgetank.events.streams import END, StreamLog
from surgetank.exceptions import (
    BufferUnavailable,
    ColdStateUnavailable,
    DatabaseUnavailable,
    LeaseLost,
    SurgetankError,
    ThreadBusy,
)
from surgetank.workflows.claiming import Claims
from surgetank.workflows.execution import Graphs, Outcome, config_of, execute
from surgetank.workflows.fencing import take_thread
from surgetank.workflows.functions import Functions, FunctionThreads
from surgetank.workflows.graphs.shape import Graph
from surgetank.workflows.handout import Slots, UnderWay
from surgetank.workflows.heartbeat import Heartbeat
from surgetank.workflows.manager import ENDED, WorkflowStatusManager
from surgetank.workflows.meters import RunMeters
from surgetank.workflows.queue import ASKED, RunQueue
from surgetank.workflows.runs import AUTH_USER, CancelAction, NewRun, Run
from surgetank.workflows.sending import Sender, Sending
from surgetank.workflows.spans import callbacks_for, note_end, run_span
from surgetank.workflows.status import Status, wire_status
from surgetank.workflows.structure import TellChange, check_structure, marked, refuse_stuck
from surgetank.workflows.user import ProjectUser

__all__ = ["Graph", "RunWorker"]

T = TypeVar("T")
_IDLE_S = 1.0  # how often is looked for runs that others accepted
_BUSY_S = 0.1
_BUSY = "busy"  # the state of a thread
_THREADS = 32
_FUNCTIONS = 256  # nodes that are plain functions, at once
_STOP_S = 5.0
_RETRY_S, _RETRY_MOST_S = 1.0, 60.0
# It is not the graph that failed. A run is claimed in the database, and takes its thread in the buffer before
# any node is run: while they are away nothing is repeated. One that has run nodes is not tried for ever.
_AWAY = (BufferUnavailable, ColdStateUnavailable, DatabaseUnavailable)
_MOST_TRIES = 10


class RunWorker:
    """Runs up to `most` runs at once, of one assistant up to `most_of_assistant` over all workers.
    For one event loop.

    `streams` is where runs send to. `tell` is given what goes wrong beside runs: what a run does
    wrong is its own end. `timeout_s` bounds runs that bring no limit of their own; `function_wait_s`
    is how long one that is to end waits for nodes that are plain functions. On threads, `each_second`
    is called about once a second, `on_end` with each run that ended here and how. `webhook_due`: one
    with a webhook ended. `on_change`: a run goes on with a changed graph.
    """

    def __init__(
        self,
        queue: RunQueue,
        graphs: Graphs,
        *,
        name: str,
        saver: BaseCheckpointSaver[Any] | None = None,
        streams: StreamLog | None = None,
        most: int = 10,
        most_of_assistant: int | None = None,
        timeout_s: float | None = None,
        function_wait_s: float = 60.0,
        renew_s: float = 10.0,
        owner_key: str = "user_id",
        tell: Callable[[BaseException, str], None] = lambda *_: None,
        each_second: Sequence[Callable[[], object]] = (),
        on_end: Callable[[Run, Status], None] | None = None,
        webhook_due: Callable[[], None] = lambda: None,
        discard: Callable[[str], Awaitable[None]] | None = None,
        on_change: TellChange = lambda *_: None,
        meters: RunMeters | None = None,
    ) -> None:
        self._queue = queue
        self._graphs = graphs
        self._saver = saver
        self._sending = Sending(streams)
        self.name = name
        self._most = most
        self._most_of_assistant = most_of_assistant
        self._timeout_s = timeout_s
        self._function_wait_s = function_wait_s
        self._owner_key = owner_key
        self._tell = tell
        self._on_end = on_end
        self._webhook_due = webhook_due
        self._discard = discard
        self._on_change = on_change
        self._meters = meters or RunMeters()
        self._under_way: dict[str, UnderWay] = {}
        self._more = True  # there may be due runs that it has not claimed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._over = threading.Event()
        self._claims = Claims(queue, name)
        self.slots = Slots(name, self._takes, self._hand_over, self._claims.lost)
        self.heartbeat = Heartbeat(
            queue,
            actor=name,
            every_s=renew_s,
            under_way=lambda: list(self._under_way.values()),
            cut=lambda each, lost: self._on_loop(each.cut, lost),
            taken_over=self._taken_over,
            tell=tell,
            each_second=each_second,
        )
        # Not the threads that appends use: who waits here for the database would hold up savers.
        self._threads = ThreadPoolExecutor(
            min(_THREADS, most + 2), thread_name_prefix="surgetank-runs"
        )
        self._statuses = WorkflowStatusManager(
            queue, actor=name, wait=lambda seconds: not self._over.wait(seconds)
        )

    @property
    def under_way(self) -> int:
        """How many runs it is running."""
        return len(self._under_way)

    def wake(self) -> None:
        """Look for runs now. May be called on any thread."""
        self._on_loop(self._woken.set)

    def check_cancels(self) -> None:
        """Look now which runs were asked to end. May be called on any thread."""
        self.heartbeat.hurry()

    def _taken_over(self, count: int) -> None:
        self._meters.taken_over(count)
        self.wake()

    def _takes(self, new: NewRun, kept: int) -> bool:
        """Whether a run that is accepted in this process may begin here, before all in the queue."""
        if self._more or self._most_of_assistant is not None or not self._claims.sure:
            return False  # others come first, or are counted by the queue
        has_room = len(self._under_way) + kept < self._most
        return has_room and (new.graph_id or new.assistant_id) in self._graphs.names

    def _mine(self) -> list[uuid.UUID]:  # from the slots they go to those that are under way
        return [*self.slots.kept, *(each.run.run_id for each in list(self._under_way.values()))]

    def _hand_over(self, run: Run) -> None:
        self._under_way[str(run.run_id)] = under_way = UnderWay(run)
        self._on_loop(self._start, under_way)

    def _start(self, each: UnderWay) -> None:
        self._meters.started(each.run)
        each.task = asyncio.create_task(self._run(each), name=f"run-{each.run.run_id}")

    def _on_loop(self, call: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop has ended
            if self._loop is not None:
                self._loop.call_soon_threadsafe(call, *arguments)

    async def work(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then give back what is under way."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(FunctionThreads(min(_FUNCTIONS, max(_THREADS, self._most))))
        self.heartbeat.start()
        self.slots.open()
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                claimed = await self._claim()
                pause = _BUSY_S if claimed or self._under_way else _IDLE_S
                waking = asyncio.create_task(self._woken.wait())
                done: list[asyncio.Task[Any]] = [stopping, waking]
                if len(self._under_way) >= self._most:
                    done += [each.task for each in list(self._under_way.values()) if each.task]
                await asyncio.wait(done, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                self._woken.clear()
        finally:
            self.slots.close()
            self._over.set()
            self._stopping.set()
            for _ in range(2):  # what was handed over until now begins, to be given back
                await asyncio.sleep(0)
            mine = list(self._under_way.values())
            for each in mine:
                if not each.ending and each.task is not None:
                    each.task.cancel()
            stopping.cancel()
            tasks: list[asyncio.Task[Any]] = [each.task for each in mine if each.task is not None]
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            await asyncio.to_thread(self.heartbeat.stop, 10.0)
            self._threads.shutdown(wait=False)
            self._loop = None

    async def _thread(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(call, *arguments, **named))

    async def _claim(self) -> int:
        room = self._most - len(self._under_way) - len(self.slots.kept)
        if room <= 0:
            self._more = True
            return 0
        try:
            claimed = await self._thread(
                self._claims.take,
                room,
                self._mine,
                graphs=self._graphs.names,
                most_of_assistant=self._most_of_assistant,
            )
        except SurgetankError as error:
            if not isinstance(error, DatabaseUnavailable):
                self._tell(error, traceback.format_exc())
            return 0
        for run in claimed:
            self._under_way[str(run.run_id)] = under_way = UnderWay(run)
            self._start(under_way)
        self._more = len(claimed) == room or self._most_of_assistant is not None
        return len(claimed)

    # -- one run

    async def _run(self, each: UnderWay) -> None:
        run, sender = each.run, self._sending.of(each.run)
        each.functions = Functions()  # it has begun
        if (each.lost or each.cancelled) and each.task is not None:
            each.task.cancel()  # raised where it waits first
        try:
            with run_span(run):
                ended, values = await self._execute(run, sender)
            if ended is not Status.PENDING:
                end: dict[str, Any] = {"status": wire_status(ended)}
                if values is not None:
                    end["values"] = values
                if ended is Status.AWAITING_CHECKPOINT:
                    end["waits"] = True
                await sender.send(END, dumps(end))
                await sender.flush()
                await self._forget(run, ended)
        except LeaseLost:
            return  # whoever has it records how it ends
        except SurgetankError as error:
            self._claims.leave(run.run_id)
            self._tell(error, traceback.format_exc())
        finally:
            self._under_way.pop(str(run.run_id), None)
            if self._more:  # else nobody waits for its room
                self._woken.set()

    async def _forget(self, run: Run, ended: Status) -> None:
        """The state of a run without a thread goes with it, unless it waits for people."""
        waits = ended is Status.AWAITING_CHECKPOINT
        if self._discard is not None and run.kwargs.get("on_completion") == "delete" and not waits:
            await self._discard(run.thread_id)

    async def _execute(self, run: Run, sender: Sender) -> tuple[Status, Any]:
        """How the run ended; the values of a run whose thread goes with it."""
        if run.cancel_action is not None:  # its worker died before it could
            self._mark_ending(run)
            return await self._cancelled(run), None
        limit = run.timeout_s if run.timeout_s is not None else self._timeout_s
        deadline = asyncio.timeout(limit)
        try:
            async with deadline:
                outcome = await self._outcome(run, sender)
        except TimeoutError as error:
            late = deadline.expired()
            message = f"It took longer than {limit} s." if late else _shown(error)
            await self._functions_returned(run)
            return await self._failed(run, sender, error, message, timed_out=late), None
        except asyncio.CancelledError:
            await self._stopped(run, sender)
            raise
        except LeaseLost:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the graph is the application's: its failure is the run's end
            await self._functions_returned(run)
            if isinstance(error, _AWAY) and (
                run.attempts < _MOST_TRIES or not self._has_begun(run)
            ):
                return await self._later(run), None
            return await self._failed(run, sender, error, _shown(error)), None
        if outcome.waits:
            waiting = Status.AWAITING_CHECKPOINT
            mark = partial(self._statuses.mark_awaiting_checkpoint, interrupts=outcome.asked)
            return await self._end(run, waiting, mark), self._kept(run, outcome)
        ended = await self._end(run, Status.COMPLETED, self._statuses.mark_completed)
        return ended, self._kept(run, outcome)

    @staticmethod
    def _kept(run: Run, outcome: Outcome) -> Any:
        return outcome.values if run.kwargs.get("on_completion") == "delete" else None

    async def _outcome(self, run: Run, sender: Sender) -> Outcome:
        config = config_of(run, owner_key=self._owner_key)
        if spans := callbacks_for(run):
            config["callbacks"] = spans
        said = run.kwargs.get(AUTH_USER) or {"identity": run.owner}
        user = ProjectUser(said) if said["identity"] is not None else None
        async with self._graphs.open(
            run.graph, config, context=run.kwargs.get("context"), user=user
        ) as graph:
            await take_thread(graph.checkpointer, run)
            self._note_begun(run)
            change = await check_structure(graph, run, config)
            if change is not None:
                await self._thread(self._on_change, run, change)
                refuse_stuck(run, change)
            return await execute(graph, run, marked(config, graph), sender)

    async def _failed(
        self,
        run: Run,
        sender: Sender,
        error: BaseException,
        message: str,
        *,
        timed_out: bool = False,
    ) -> Status:
        """Try it again later if it may be, else it has failed."""
        retries = run.kwargs.get("retries")
        if not timed_out and isinstance(retries, int) and run.attempts <= retries:
            return await self._later(run)
        shown = {
            "error": "TimeoutError" if timed_out else type(error).__name__,
            "message": str(error) or message,
        }
        await sender.send("error", dumps(shown | ({"message": message} if timed_out else {})))
        return await self._end(
            run, Status.FAILED, self._statuses.mark_failed, message, timed_out=timed_out
        )

    async def _later(self, run: Run) -> Status:
        """Try it again in a while, from its last checkpoint."""
        pause = min(_RETRY_MOST_S, _RETRY_S * 2.0 ** min(run.attempts - 1, 10))
        return await self._end(run, Status.PENDING, self._statuses.give_back, retry_s=pause)

    async def _end(
        self, run: Run, status: Status, mark: Callable[..., str], *arguments: Any, **named: Any
    ) -> Status:
        """Record its end; that it was cancelled, when somebody was promised so meanwhile."""
        self._mark_ending(run)
        rest = await self._thread(mark, run, *arguments, **named)
        if rest == ASKED:
            return await self._cancelled(run)
        if rest in (_BUSY, ENDED):  # its thread has a next one
            self._more = True
        self._meters.ended(run, status)
        note_end(status)
        if self._on_end is not None:
            await self._thread(self._on_end, run, status)
        if run.kwargs.get("webhook"):
            self._webhook_due()
        return status

    def _note_begun(self, run: Run) -> None:
        if (under_way := self._under_way.get(str(run.run_id))) is not None:
            under_way.begun = True

    def _has_begun(self, run: Run) -> bool:
        """Whether nodes of it may have been run here."""
        under_way = self._under_way.get(str(run.run_id))
        return under_way is not None and under_way.begun

    def _mark_ending(self, run: Run) -> None:
        """From here on nobody may cut it off."""
        if (under_way := self._under_way.get(str(run.run_id))) is not None:
            under_way.ending = True

    async def _stopped(self, run: Run, sender: Sender) -> None:
        """It was asked to end, somebody else has it, or this worker stops."""
        under_way = self._under_way.get(str(run.run_id))
        if under_way is None or under_way.lost:
            return
        under_way.ending = True
        with suppress(LeaseLost, DatabaseUnavailable):  # the reaper deals with it
            await asyncio.shield(self._let_go(run, sender, cancelled=under_way.cancelled))

    async def _let_go(self, run: Run, sender: Sender, *, cancelled: bool) -> None:
        await self._functions_returned(run)
        if cancelled:
            await self._say_cancelled(run, sender)
        else:
            await self._end(run, Status.PENDING, self._statuses.give_back)

    async def _functions_returned(self, run: Run) -> None:
        """What the graph began on threads goes on though it is over: wait, for nothing else may run in
        its thread meanwhile."""
        under_way = self._under_way.get(str(run.run_id))
        if under_way is None or under_way.functions is None:
            return
        under_way.ending = True
        within_s = self._function_wait_s
        if not await under_way.functions.returned(within_s, self._stopping, _STOP_S):
            still = ThreadBusy(
                f"A function of run {run.run_id} goes on in thread {run.thread_id!r}, though the run is over.",
                remedy="give what it calls a time limit; what it does may overlap with the next run.",
            )
            self._tell(still, "")

    async def _say_cancelled(self, run: Run, sender: Sender) -> None:
        await self._cancelled(run)
        await sender.send(END, dumps({"status": wire_status(Status.CANCELLED)}))
        await sender.flush()

    async def _cancelled(self, run: Run) -> Status:
        current = await self._thread(self._queue.get, run.run_id)
        if current.cancel_action is CancelAction.ROLLBACK and self._saver is not None:
            await take_thread(self._saver, run)  # nothing comes after what is deleted
            try:
                await self._saver.adelete_for_runs([str(run.run_id)])
            except DatabaseUnavailable:
                raise  # it is tried again by who takes it over
            except SurgetankError as error:  # what stays is rebuilt from them: told, and kept
                self._tell(error, traceback.format_exc())
        return await self._end(run, Status.CANCELLED, self._statuses.mark_cancelled)


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
