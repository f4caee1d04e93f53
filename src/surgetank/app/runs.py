"""`tank.runs`: graphs that are run by workers, each run accepted, claimed and ended in the
database."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from surgetank import tracing
from surgetank.app.crons import CronClock, open_crons
from surgetank.app.presence import Presence
from surgetank.app.run_room import RunRoom
from surgetank.app.webhooks import Webhooks
from surgetank.database.pool import Database
from surgetank.events.streams import StreamLog
from surgetank.exceptions import DatabaseUnavailable, MissingExtra
from surgetank.notify.news import News
from surgetank.service import Service
from surgetank.settings import Settings
from surgetank.workflows.approvals.manager import CheckpointManager
from surgetank.workflows.expiry import ThreadExpiry
from surgetank.workflows.lifetime import Lifetimes
from surgetank.workflows.meters import RunMeters
from surgetank.workflows.queue import QUOTAS, RunQueue
from surgetank.workflows.runs import CancelAction, NewRun, Run, Strategy
from surgetank.workflows.status import Status

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from surgetank.streams.checkpoints.saver import SurgetankSaver
    from surgetank.workflows.crons import Crons
    from surgetank.workflows.execution import Graphs
    from surgetank.workflows.worker import Graph, RunWorker


class Runs:
    """Runs of this database. Everything raises `DatabaseUnavailable`."""

    def __init__(
        self,
        database: Database,
        room: RunRoom,
        settings: Settings,
        *,
        tell: Callable[[BaseException, str], None],
        announce: Callable[[News], None],
        make_saver: Callable[[], SurgetankSaver],
        webhooks: Callable[[], Webhooks],
        meters: RunMeters,
        buffer_id: str | None = None,
        each_second: Sequence[Callable[[], object]] = (),
        changed: Callable[[], None] = lambda: None,
        lifetimes: Callable[[], Lifetimes] = Lifetimes,
        presence: Presence,
    ) -> None:
        self._queue = RunQueue(
            database,
            lease_s=settings.run_lease,
            node=settings.node,
            buffer_id=buffer_id,
            changed=changed,
            quotas={name: getattr(settings, name) for name in QUOTAS},
            thread_ttl=lifetimes().default,
        )
        self._lifetimes = lifetimes
        self._presence = presence
        self._database = database
        self._checkpoints = CheckpointManager(database, node=settings.node)
        self.node = settings.node
        self._room = room
        self._settings = settings
        self._tell = tell
        self._announce = announce
        self._webhooks = webhooks
        self._meters = meters
        self._make_saver = make_saver
        self._each_second = tuple(each_second)

    def accept(self, new: NewRun, *, actor: str) -> Run:
        """Accept a run for a worker: it is safe when this returns. One that is known is returned.

        Raises `ThreadBusy` (strategy `reject`), `ThreadNotFound`, `InvalidTransition`,
        `WebhookRefused`; for answers to what the thread asks people `CheckpointNotFound`,
        `CheckpointAnswered`, `DecisionRefused`.
        """
        # An answer takes the way of all answers, whoever sends it.
        answers = self._checkpoints.accept if new.kwargs.get("command") else None
        return self._accept(new, answers, actor=actor)

    def accept_again(self, new: NewRun, *, actor: str) -> Run:
        """Accept a run with what one that failed was given: the answers in it were taken before.
        Raises what `accept` raises."""
        return self._accept(new, None, actor=actor)

    def _accept(self, new: NewRun, answers: Callable[..., Run | None] | None, *, actor: str) -> Run:
        if (webhook := new.kwargs.get("webhook")) is not None:
            self._webhooks().check_url(str(webhook))
        if context := tracing.carrier():
            new = replace(new, kwargs={**new.kwargs, tracing.KEY: context})
        run = answers(new, actor=actor) if answers is not None else None
        run, begun = (run, False) if run is not None else self._accept_new(new, actor=actor)
        request = tracing.current()
        request.set("run_id", str(run.run_id))
        request.set("thread_id", run.thread_id)
        if not begun:
            self._room.wake(cancels=new.strategy in (Strategy.INTERRUPT, Strategy.ROLLBACK))
        return run

    def _accept_new(self, new: NewRun, *, actor: str) -> tuple[Run, bool]:
        """And whether it has begun in this process."""
        slot = self._room.slot_for(new)
        if slot is None:
            return self._queue.accept(new, actor=actor), False
        try:
            run, claimed = self._queue.accept_and_claim(new, slot.worker, actor=actor)
        except BaseException as error:
            slot.free(new.run_id, unsure=isinstance(error, DatabaseUnavailable))
            raise
        if claimed is None:
            slot.free(new.run_id)
        elif slot.take(claimed):
            self._room.begun(slot)
            return run, True
        else:
            self._queue.end(claimed, Status.PENDING, actor=slot.worker)
        return run, False

    def get(self, run_id: uuid.UUID) -> Run:
        """One run. Raises `RunNotFound`."""
        return self._queue.get(run_id)

    def of_thread(
        self,
        thread_id: str,
        *,
        statuses: Collection[Status] | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Run]:
        """Runs of a thread, newest first."""
        return self._queue.of_thread(thread_id, statuses=statuses, limit=limit, offset=offset)

    def unfinished(
        self, thread_id: str | None = None, *, owner: str | None = None, limit: int = 1000
    ) -> list[Run]:
        """Runs that are not over, the oldest first, of one thread or owner or of all."""
        return self._queue.unfinished(thread_id, owner=owner, limit=limit)

    def delete(self, run_id: uuid.UUID, *, actor: str) -> None:
        """Forget a run that has ended. Raises `RunNotFound`, `ThreadBusy` for one that has not."""
        self._queue.delete(run_id, actor=actor)

    def cancel(
        self, run_id: uuid.UUID, *, actor: str, action: CancelAction = CancelAction.INTERRUPT
    ) -> bool:
        """Ask a run to end; True when it has ended by that, False when its worker must do so.

        Raises `RunNotFound`, `InvalidTransition` when it ended before.
        """
        ended = self._queue.cancel(run_id, action, actor=actor)
        self._room.wake()
        return ended

    def reap(self) -> dict[uuid.UUID, Status]:
        """Deal with runs whose worker went silent: each is cancelled, pending again, or failed.

        At once, which is for people: right after the database was away it takes runs from living
        workers too. Workers do it by themselves, and wait until all had time to come back.
        """
        return self._queue.reap(actor=self._settings.node)

    def crons(self) -> Crons:
        """Runs that are accepted at their times."""
        return open_crons(self._database, self._queue, self._settings, self._announce)

    def expiry(self) -> ThreadExpiry:
        """Threads whose time to live is over: workers deal with them by themselves."""
        return ThreadExpiry(
            self._database, self._make_saver, self._lifetimes, node=self._settings.node
        )

    def audit(self, workflow_id: uuid.UUID) -> list[dict[str, Any]]:
        """What was done with a workflow, by whom, in order."""
        return self._queue.audit(workflow_id)

    def counts(self) -> dict[Status, tuple[int, float]]:
        """How many runs are pending and running, and for how many seconds the oldest is due."""
        return self._queue.counts()

    @property
    def streams(self) -> StreamLog:
        """What runs send, kept for readers who come back."""
        return self._room.streams

    @property
    def lease_s(self) -> float:
        """How long a worker may be silent."""
        return self._queue.lease_s

    def wake(self) -> None:
        """Let the workers of this process look for runs now."""
        self._room.wake()

    def worker(
        self,
        graphs: Mapping[str, Graph] | Graphs,
        *,
        most: int | None = None,
        saver: BaseCheckpointSaver[Any] | None = None,
        each_second: Sequence[Callable[[], object]] = (),
        on_end: Callable[[Run, Status], None] | None = None,
        webhook_due: Callable[[], None] = lambda: None,
    ) -> RunWorker:
        """A worker of runs for the current event loop: `await worker.work(stop)`.

        `graphs` maps the name of an assistant to its compiled graph, with our checkpointer; or it
        is a `GraphSet`. `saver` deletes what is rolled back, and what is of no thread; ours by
        default. Raises `MissingExtra` without langgraph.
        """
        try:
            from surgetank.workflows.execution import FixedGraphs  # noqa: PLC0415 - needs the extra
            from surgetank.workflows.structure import news_of  # noqa: PLC0415
            from surgetank.workflows.worker import RunWorker  # noqa: PLC0415
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("surgetank"):
                raise
            raise MissingExtra("langgraph", "langgraph", "A worker of runs") from error
        settings = self._settings
        state = saver if saver is not None else self._make_saver()
        return RunWorker(
            self._queue,
            FixedGraphs(graphs) if isinstance(graphs, Mapping) else graphs,
            name=f"{settings.node}/{uuid.uuid4().hex[:8]}",
            saver=state,
            streams=self._room.streams,
            most=most or settings.runs_at_once,
            most_of_assistant=settings.runs_at_once_per_assistant,
            timeout_s=settings.run_timeout,
            function_wait_s=settings.run_function_wait,
            renew_s=self._queue.lease_s / 3,
            owner_key=settings.owner_key,
            tell=self._tell,
            each_second=(
                *self._each_second,
                CronClock(self.crons, self._room.wake).step,
                self.expiry().step,
                *each_second,
            ),
            on_end=on_end,
            webhook_due=webhook_due,
            discard=lambda thread_id: self._room.empty(state, thread_id),
            on_change=lambda run, change: self._announce(news_of(run, change)),
            meters=self._meters,
        )

    def service(
        self, graphs: Graphs, *, most: int | None = None, saver: BaseCheckpointSaver[Any] | None = None,
        each_second: Sequence[Callable[[], object]] = (), on_end: Callable[[Run, Status], None] | None = None,
    ) -> Service:  # fmt: skip
        """A worker on a thread and an event loop of its own, which hears of new runs at once; and
        beside it who sends webhooks."""
        from surgetank.app.run_service import RunService  # noqa: PLC0415 - needs the extra

        webhooks = self._webhooks().service()
        worker = self.worker(
            graphs, most=most, saver=saver, each_second=each_second, on_end=on_end, webhook_due=webhooks.wake
        )  # fmt: skip
        listed = self._presence.role("runs", self._meters.report, claims_as=worker.name)
        return RunService(worker, self._room, self._listen_database(), beside=[webhooks, listed])

    def _listen_database(self) -> Database:
        url = self._settings.database_listen_url
        return Database(url.get_secret_value()) if url is not None else self._database
