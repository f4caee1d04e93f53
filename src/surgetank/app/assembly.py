"""What an open engine consists of: buffer, database, sinks, flushers, telling, spilling, and how
they end together.

Which thread owns what. Everything else is shared: it is immutable, or guarded by the lock that
stands beside it.

- `surgetank-flush` (`Scheduler`) runs due jobs. A call of `flush()` runs one on its caller's thread. A job's turns,
its outcomes and its `Delivery` (what it has learned of the sink) belong to the thread that runs it; flushers, sinks and
`CircuitBreaker` (its lock) are shared by all. `surgetank-heartbeat` shares a job's leases (`_Held`, its lock),
`surgetank-table-heartbeat` those of a table. `surgetank-table-take` reads the rows of a table for it, and ends with it.
- `surgetank-housekeeping` checks the buffer's file, spills, announces, and tidies the buffer, in
this order. Spilling waits for no sink and no database; resolving a system error whose cause is over
asks the database, for as long as a read may take. A sink that is frozen holds up none of it.
- Short threads: `surgetank-revive` starts an embedded server that went, `surgetank-reach` connects,
  `surgetank-presence` says in the database that this process works, `surgetank-sql` runs a query,
  `surgetank-alerts-ask` asks the database what alerts are about, `surgetank-handover` writes what
  event loops handed over, `surgetank-append` (a pool) what is too large for them. Who needs their
  result waits for so long as it may, and goes on without it.
- `surgetank-upkeep` asks the database: progress, copies, homes beside ours, what is old enough to go.
- `surgetank-retention` (`Sweeper`) prunes; `surgetank-alerts` sends; `surgetank-forward` makes events of the audit.
- `surgetank-live-tables` (`Tail`, its lock) reads changes of tables while live queries follow them.
- Runs: `surgetank-run-loop` (claims, graphs), `surgetank-run-stop`, `surgetank-run-heartbeat`,
  `surgetank-run-upkeep`, `surgetank-runs` (a pool: what waits for the database), `surgetank-function` (a
  pool: nodes), `surgetank-listen`; `surgetank-webhooks` and its `surgetank-webhook` (a pool).
- Counters (`Meters`, the notifier's deliveries) are copied under their locks by whoever asks for metrics.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg

from surgetank.app import flushers
from surgetank.app.backends import (
    clock_of,
    embedded_of,
    open_alert_book,
    open_buffer,
    open_cold,
    open_database,
    open_door,
    open_events,
    open_streams,
    server_of,
    streams_exist,
)
from surgetank.app.backlog import backlog_of
from surgetank.app.buffer_watch import BufferWatch
from surgetank.app.flush_log import FlushLog
from surgetank.app.forwarding import Forwarding
from surgetank.app.guards import Guards, destination
from surgetank.app.homes import ensure_home
from surgetank.app.housekeeping import Housekeeping
from surgetank.app.live import LiveQueries
from surgetank.app.presence import Presence
from surgetank.app.run_room import RunRoom
from surgetank.app.sink_watch import SinkWatch
from surgetank.app.storage import limits_of
from surgetank.app.table_room import OpenTables, TableRoom
from surgetank.buffer.binding import Binding
from surgetank.database.pool import Database
from surgetank.exceptions import FallbackUnavailable, SurgetankError
from surgetank.flush.belonging import Belonging
from surgetank.flush.breaker import BreakerState
from surgetank.flush.events import FlushListener, Listeners
from surgetank.flush.flusher import Flusher
from surgetank.flush.scheduler import Scheduler, problem_of
from surgetank.flush.tidying import Tidying
from surgetank.model import PartitionState
from surgetank.notify.report import SinkStatus
from surgetank.notify.reporting import Reporting
from surgetank.service import Service
from surgetank.settings import Settings
from surgetank.streams.checkpoints.copies.check import CopyCheck
from surgetank.streams.checkpoints.retention.sweep import Retention
from surgetank.streams.checkpoints.retention.sweeper import Sweeper
from surgetank.streams.checkpoints.stream import CHECKPOINTS, into_saver
from surgetank.streams.installed import STREAMS
from surgetank.streams.stream import Backends, Stream, Streams, migrations_of
from surgetank.telemetry import log
from surgetank.workflows.retention import retention_of_runs

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from surgetank.streams.checkpoints.cold.reader import Cold

_PROBLEMS_KEPT = 20
_AFTER_INTERRUPT_S = 0.4


class Parts:
    """What an open engine consists of."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float],
        listeners: Sequence[FlushListener],
        *,
        start_database: bool,
        saver: BaseCheckpointSaver[Any] | None = None,
        serde: SerializerProtocol | None = None,
        password: Callable[[], str] | None = None,
        streams: Sequence[Stream] = (),
    ) -> None:
        self.settings = settings
        self._saver, self._serde = saver, serde
        checkpoints = CHECKPOINTS if saver is None else into_saver(saver, serde)
        self.streams = Streams(
            [*(checkpoints if s is CHECKPOINTS else s for s in STREAMS), *streams]
        )
        self.problems: deque[str] = deque(maxlen=_PROBLEMS_KEPT)
        if settings.buffer_url is None or settings.buffer_is_shared:
            ensure_home(settings.home)
        self.buffer = open_buffer(settings, clock, self.streams)
        self.clock = clock = clock_of(self.buffer, clock)
        self.door = open_door(settings)
        self.tables = TableRoom(self, self._tables_opened)
        self.live = LiveQueries(self.tables.open, most=settings.sql_live_queries)
        self.backlog = backlog_of(self.buffer, self.tables.hot)
        self.run_room = RunRoom(
            partial(open_streams, settings, clock, self.buffer), partial(streams_exist, settings)
        )
        try:
            belonging = Belonging(self.buffer, destination(settings), on_moved=self._database_moved)
            self.embedded = embedded_of(settings)
            if self.embedded is not None and start_database:
                self.embedded.start()
            self.database = open_database(
                settings,
                self.embedded,
                gate=belonging,
                migrations=migrations_of(self.streams.values()),
                password=password,
            )
        except BaseException:
            self.buffer.close()
            raise
        try:
            made_of = Backends(self.database, self.buffer, settings, clock)
            sinks = {
                name: stream.make_sink(made_of)
                for name, stream in self.streams.items()
                if stream.make_sink is not None
            }
            addresses = {
                name: self.database.address if stream.in_database else sinks[name].name
                for name, stream in self.streams.items()
            }
            self._addresses = addresses
            self.reporting = Reporting(
                self.backlog,
                self.database,
                open_events(settings, clock, self.buffer),
                open_alert_book(settings, clock, self.buffer),
                settings,
                streams=self.streams,
                addresses=addresses,
                clock=clock,
            )
        except BaseException:
            self._let_go()
            raise
        self.reporting.also_forget = self.run_room.forget_thread
        self.buffer_watch = BufferWatch(
            self.buffer, self.database, server_of(settings), node=settings.node, clock=clock
        )
        self.reporting.leave_out(self.buffer_watch.is_cause_of)
        self.listeners = Listeners(
            FlushLog().on_flush, *listeners, self.reporting.notifier.on_flush
        )
        self.forwarding = Forwarding(self, self.tell_of_runs)
        self.listeners.add(self.forwarding.on_flush)
        self.presence = Presence(self.database, node=settings.node, buffer_id=self.buffer.id)
        self.listeners.add(self.presence.on_flush)
        self.run_retention = retention_of_runs(self.database, settings)
        self.guards = Guards(
            self.buffer, self.database, self.reporting, belonging, settings, streams=self.streams,
            clock=clock, restores=checkpoints.in_database,
        )  # fmt: skip
        self.flushers: dict[str, Flusher] = {
            stream: flushers.make_flusher(self, stream, sink, self.buffer)
            for stream, sink in sinks.items()
        }
        elsewhere = [name for name, stream in self.streams.items() if not stream.in_database]
        self._sinks = SinkWatch(
            lambda: self.flushers, addresses, self.embedded, elsewhere=elsewhere, clock=clock
        )
        self.scheduler = Scheduler(
            self.buffer,
            list(self.flushers.values()),
            tick_s=settings.flush_tick,
            on_problem=self._problem,
        )
        self._flushes = self.presence.role("flush", self._held)
        tidying = Tidying(self.buffer, clock=clock, on_lost=self.reporting.notifier.worker_lost)
        self.spills = flushers.spill_watch(self, on_problem=self._spill_problem)
        self.copies = CopyCheck(self.buffer, open_cold(self.database), clock=clock)
        # Two, because a database that hangs must not hold up spilling and telling.
        self.housekeeping = Housekeeping(
            "surgetank-housekeeping",
            [self._check_buffer, self._spill, self._announce, tidying.step],
            on_problem=self._housekeeping_problem,
        )
        self.upkeep = Housekeeping(
            "surgetank-upkeep",
            [self._check_progress, self._check_copies, self.flush_beside, self._forget_old],
            on_problem=self._housekeeping_problem,
        )
        self.retention = Retention(
            self.buffer,
            self.database,
            clock=clock,
            node=settings.node,
            forget_events=self.reporting.forget_thread,
        )
        self.sweeper = (
            Sweeper(
                self.retention,
                limits,
                interval_s=settings.retain_interval,
                on_problem=self._sweep_problem,
            )
            if (limits := limits_of(settings))
            else None
        )

    def flush_beside(self, stop: threading.Event) -> None:
        if self._saver is None and not self._away():
            flushers.flush_beside(self, stop)

    def _database_moved(self, before: Binding, now: Binding) -> None:
        self.guards.moved(before, now)

    def check_copies(self) -> None:
        """Look whether copies of threads still show what the database has, if that is due."""
        if (
            self._saver is None
            and self.flushers[CHECKPOINTS.name].breaker.state() is BreakerState.CLOSED
        ):
            try:
                self.copies.run_if_due()
            except (SurgetankError, psycopg.Error) as error:
                log.info("copies_not_checked", error=str(error))

    def _tables_opened(self, tables: OpenTables) -> None:
        # Another mapping: other threads go through the one that there was.
        self.flushers = {**self.flushers, tables.flusher.stream: tables.flusher}
        self.scheduler.add(tables.flusher)

    def tell_of_tables(self, error: SurgetankError) -> None:
        """Tables that can't be opened: what waits in them is not flushed."""
        self._tell("tables", error, "")

    def start(self) -> None:
        """Flush in the background, and look for what retention deletes if there are limits."""
        for service in self._services():
            service.start()

    def _services(self) -> list[Service]:
        """What runs in the background where this process flushes, in the order in which it ends."""
        sweeper: list[Service] = [self.sweeper] if self.sweeper is not None else []
        background: list[Service] = [
            self.forwarding,
            self.upkeep,
            self.housekeeping,
            self.scheduler,
        ]
        return [*sweeper, *background, self._flushes]

    def _held(self) -> Mapping[str, int]:
        return {"partitions": sum(flusher.holding for flusher in self.flushers.values())}

    @property
    def cold(self) -> Cold:
        """What is read beside the buffer."""
        return self.cold_through(None)

    def cold_through(self, database: Database | None) -> Cold:
        """The same, by other connections if it is in the database."""
        return open_cold(database or self.database, self._saver, self._serde)

    def _problem(self, error: BaseException, trace: str) -> None:
        """Something in the flush thread that is no flush failure (the disk, a bug): told and shown
        in status."""
        self._tell("flush_thread", error, trace)

    def _sweep_problem(self, error: BaseException, trace: str) -> None:
        self._tell("retention", error, trace)

    def _spill_problem(self, error: SurgetankError) -> None:
        self._tell("fallback", error, "".join(traceback.format_exception(error)))

    def _tell(self, where: str, error: BaseException, trace: str) -> None:
        if self.buffer_watch.is_cause_of(error):
            return
        message = problem_of(error)
        if not self.problems or self.problems[-1] != message:
            self.problems.append(message)
        self.reporting.problem(error, where=where, trace=trace)

    def tell_of_runs(self, error: BaseException, trace: str) -> None:
        """Something a worker of runs met beside its runs: told and shown in the status."""
        self._tell("runs", error, trace)

    def _housekeeping_problem(self, error: BaseException, trace: str) -> None:
        self._tell("housekeeping", error, trace)

    def _away(self) -> list[str]:
        """Streams whose sink is not known to be there."""
        return [
            s
            for s, flusher in self.flushers.items()
            if flusher.breaker.state() is not BreakerState.CLOSED
        ]

    def _check_buffer(self, _: threading.Event) -> None:
        lost = self.buffer_watch.step()
        if lost is not None:
            self._tell("buffer", lost, "")
        self.reporting.alerts.keep_running()

    def _spill(self, _: threading.Event) -> None:
        # Before telling: what telling has to append needs room as well.
        self.spills.step(self._away())

    def _announce(self, _: threading.Event) -> None:
        self.guards.travels.end_old()
        self.reporting.tell_all(self.flushers)

    def _check_progress(self, _: threading.Event) -> None:
        if not self._away():
            self.guards.check_progress()

    def _check_copies(self, _: threading.Event) -> None:
        if not self._away():
            self.check_copies()

    def _forget_old(self, stop: threading.Event) -> None:
        self.reporting.forget_old(self.flushers)
        self.run_room.maintain()
        if (tables := self.tables.if_there()) is not None:
            tables.hot.maintain()
            if not self._away():
                tables.upkeep.round(stop)
        if not self._away():
            self.run_retention.run_if_due(self.clock())

    def erase_tables(self, user: str) -> tuple[int, int]:
        """Remove a user from all tables; see `OpenTables.erase_user`."""
        self.live.forget_user(user)
        tables = self.tables.if_there()
        return tables.erase_user(user) if tables is not None else (0, 0)

    def housekeep(self) -> None:
        """All that is done about once a second in the background, once and now."""
        self.housekeeping.round()
        self.upkeep.round()

    def sink_recovered(self, stream: str) -> None:
        """One stream's sink is back: the others that are flushed to the same place are tried at
        once."""
        for other, flusher in self.flushers.items():
            if other != stream and self._addresses[other] == self._addresses[stream]:
                flusher.breaker.probe_now()
                self.backlog.retry_now(other, spread_s=2.0)
        self.scheduler.wake()

    def sink_statuses(self, *, ping: bool, failing: Sequence[PartitionState]) -> list[SinkStatus]:
        """The state of every sink. A database that several streams share is asked once."""
        return self._sinks.statuses(ping=ping, failing=failing, flushes=self.scheduler.running)

    def sink_status(self, stream: str) -> SinkStatus:
        """The state of one stream's sink, which is not asked."""
        failing = self.buffer.states(stream, failing=True, limit=20)
        return next(
            s for s in self.sink_statuses(ping=False, failing=failing) if s.stream == stream
        )

    def close(self, *, drain: bool) -> None:
        """Stop flushing, drain once more if asked and possible, close everything. Within
        `shutdown_timeout`: then what the database has not answered is given up.
        """
        limit = time.monotonic() + self.settings.shutdown_timeout
        over = threading.Event()

        def end() -> None:
            over.set()
            self.database.interrupt()

        timer = threading.Timer(self.settings.shutdown_timeout, end)
        timer.daemon = True
        timer.start()
        started = self.scheduler.running
        try:
            self.reporting.alerts.stop(0.0)  # it may end while the rest does
            for service in self._services():  # all are asked before one is waited for
                service.stop(0.0)
            for service in self._services():
                service.stop(_left(limit))
            if drain and started:
                self._drain(over)
            self.presence.close(_left(limit))
        finally:
            timer.cancel()
            self.database.interrupt()  # whoever still waits for it, waits in vain
            self.reporting.close(_left(limit))
            self._let_go(_left(limit))

    def _let_go(self, within_s: float = 60.0) -> None:
        self.run_room.close()
        if self.door is not None:
            self.door.close()
        self.live.close()
        self.tables.close()
        self.buffer.close()
        self.database.close()
        if self.embedded is not None:
            self.embedded.stop(within_s)

    def _drain(self, over: threading.Event) -> None:
        for flusher in self.flushers.values():
            last = self.backlog.last_seq(flusher.stream)
            if last == 0 or over.is_set():
                continue
            job = flusher.run("shutdown", up_to_seq=last, stop=over)
            if not job.ok:
                left = self.buffer.depth().entries
                log.warning("left_in_buffer", entries=left, path=self.buffer.name, job=job.id)
            if self.database.is_known_away:
                break  # the other streams would wait for it one after the other
        self.buffer.maintain()
        try:
            self.spills.clean()
        except FallbackUnavailable as error:  # whoever flushes next does it
            log.info("spilled_files_left", error=error.what)


def _left(limit: float) -> float:
    """Seconds until the limit, and a little more: what is interrupted then still has to end."""
    return max(0.0, limit - time.monotonic()) + _AFTER_INTERRUPT_S
