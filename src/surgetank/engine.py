"""`Surgetank`: the one place where the parts are put together.

Without arguments everything is embedded: the buffer is a file in the home folder, PostgreSQL comes from a wheel and
keeps its data there too. A flush thread runs until the engine is closed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from surgetank import ambient
from surgetank.buffer.events import EventLog
from surgetank.buffer.sqlite import BufferLimits, SQLiteBuffer
from surgetank.checkpoints.retention import Limits
from surgetank.checkpoints.storage import StorageReport, storage
from surgetank.checkpoints.sweep import Retention, RetentionReport
from surgetank.checkpoints.sweeper import Sweeper
from surgetank.database.embedded import EmbeddedPostgres
from surgetank.database.migrate import MigratedDatabase
from surgetank.encode.envelope import OPERATION_KEY
from surgetank.encode.envelope import STREAM as CHECKPOINTS
from surgetank.encode.errors import STREAM as ERRORS
from surgetank.encode.errors import ErrorReport
from surgetank.events import RunEvent, Severity
from surgetank.exceptions import (
    ConfigurationError,
    FallbackUnavailable,
    JobNotFound,
    MissingExtra,
    SurgetankError,
)
from surgetank.fallback.files import SpillFiles
from surgetank.flush.breaker import BreakerState, CircuitBreaker
from surgetank.flush.job import Clockwork, StreamFlusher
from surgetank.flush.meters import Meters
from surgetank.flush.observer import FlushObserver, Observers
from surgetank.flush.policy import RetryPolicy, SpillPolicy, StreamPolicy
from surgetank.flush.scheduler import Scheduler, problem_of
from surgetank.flush.spill import Spiller
from surgetank.model import FlushJob, JobStatus, ParkedEntry, PartitionOutcome
from surgetank.notify.capture import ThreadLogHandler, ThreadLogProcessor
from surgetank.notify.desk import Desk
from surgetank.notify.errors import SystemErrors
from surgetank.notify.logs import LogPage
from surgetank.notify.runs import origin
from surgetank.notify.spills import SpillWatch
from surgetank.recovery import Progress, Recovery
from surgetank.report import SinkStatus, Status, notices
from surgetank.settings import Settings, load_settings
from surgetank.sinks.postgres import PostgresCheckpointSink
from surgetank.sinks.protocol import Sink
from surgetank.telemetry import log

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from surgetank.checkpoints.cold import Cold
    from surgetank.checkpoints.saver import SurgetankSaver

_PROBLEMS_KEPT = 20


class Surgetank:
    """A write-behind store: buffer, flush engine and database.

    `home` is the folder of buffer and embedded database, `database_url` a PostgreSQL 14+ (none: embedded),
    `buffer_url` another place for the buffer; further settings as in `surgetank.settings.Settings`. Use it with
    `with` or `async with`, or call `open()` and `close()`.

        with Surgetank() as tank:
            graph = builder.compile(checkpointer=tank.checkpointer())

    `sink` is another durable store for checkpoints than the database: any LangGraph saver; `surgetank.sinks.saver` says
    what it can't give. `serde` is the serializer of checkpointers that name none; with a `sink` it is that of all.

    `start_database=False` uses an embedded PostgreSQL only if it already runs: for tools that just look.

    Raises `ConfigurationError`, `MissingExtra`, `BufferUnavailable`, `BufferCorrupt`. A database that is down is no
    error: the engine opens, accepts, and flushes when the database comes.
    """

    def __init__(
        self,
        home: str | Path | None = None,
        *,
        database_url: str | None = None,
        buffer_url: str | None = None,
        sink: BaseCheckpointSaver[Any] | None = None,
        serde: SerializerProtocol | None = None,
        clock: Callable[[], float] = time.time,
        start_database: bool = True,
        **settings: Any,
    ) -> None:
        self.settings: Settings = load_settings(
            home=Path(home).expanduser() if home is not None else None,
            database_url=database_url,
            buffer_url=buffer_url,
            **settings,
        )
        self._clock = clock
        self._start_database = start_database
        self._sink = sink
        self._serde = serde
        self._parts: _Parts | None = None
        self._lock = threading.RLock()
        self.meters = Meters()
        self._observers: list[FlushObserver] = [_LogObserver(), self.meters]

    # -- life

    def open(self) -> Surgetank:
        """Open the buffer, start the embedded database if there is no other, start flushing. Idempotent."""
        with self._lock:
            if self._parts is None:
                self._parts = _Parts(
                    self.settings,
                    self._clock,
                    self._observers,
                    start_database=self._start_database,
                    saver=self._sink,
                    serde=self._serde,
                )
                if self.settings.flush_in_process:
                    self._parts.start()
                    self._parts.desk.alerts.keep_running()
                ambient.enter(self)
        return self

    def close(self) -> None:
        """Drain what can be drained within `shutdown_timeout`, then let go of everything. Idempotent.

        What could not be drained stays in the buffer and is flushed by the next process that opens it.
        """
        with self._lock:
            parts, self._parts = self._parts, None
        if parts is not None:
            ambient.leave(self)
            parts.close(drain=self.settings.flush_in_process and self.settings.flush_on_close)

    def __enter__(self) -> Surgetank:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Surgetank:
        return await asyncio.to_thread(self.open)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    @property
    def parts(self) -> _Parts:
        """The opened parts: buffer, database, flushers. For tools and tests."""
        self.open()
        assert self._parts is not None
        return self._parts

    def add_observer(self, observer: FlushObserver) -> None:
        """Tell this observer about failed, recovered and finished flushes."""
        self._observers.append(observer)
        if self._parts is not None:
            self._parts.observers.add(observer)

    def now(self) -> float:
        """The engine's clock: seconds since the epoch."""
        return self._clock()

    # -- use

    def checkpointer(self, *, serde: SerializerProtocol | None = None) -> SurgetankSaver:
        """A LangGraph checkpointer on this store. Raises `MissingExtra` without langgraph."""
        try:
            from surgetank.checkpoints.saver import SurgetankSaver  # noqa: PLC0415 - needs the extra
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("surgetank"):
                raise
            raise MissingExtra("langgraph", "langgraph", "The checkpointer") from error
        if self._sink is not None and serde is not None and serde is not self._serde:
            raise ConfigurationError(
                "A flush into a saver has to read what checkpointers write, so they all have one serializer.",
                remedy="give it to the engine: Surgetank(sink=..., serde=...).",
            )
        return SurgetankSaver(
            self.parts.buffer,
            self.parts.cold,
            serde=serde or self._serde,
            max_value_bytes=self.settings.max_value_bytes,
        )

    def flush(
        self, stream: str | None = None, partition: str | None = None, *, trigger: str = "manual"
    ) -> FlushJob:
        """Flush what waits now, also what is not due yet, and wait for it. Never raises for a failed flush: the
        job says what became of it (`job.ok`).

        Without `stream`, every stream is flushed, each by a job of its own; returned is the first that did not go
        through, else that of the checkpoints. `partition` is then a thread. Raises `ConfigurationError` for an
        unknown stream.
        """
        jobs = [self._flush(name, partition, trigger) for name in self._streams(stream, partition)]
        return next((job for job in jobs if not job.ok), jobs[0])

    def _streams(self, stream: str | None, partition: str | None) -> Iterator[str]:
        """Lazily: what flushing one stream has to tell waits in the next ones."""
        if stream is not None:
            yield stream
            return
        yield CHECKPOINTS
        for name in self.parts.flushers:
            if name != CHECKPOINTS and self.parts.buffer.last_seq(name, partition):
                yield name

    def _flush(self, stream: str, partition: str | None, trigger: str) -> FlushJob:
        flusher = self._flusher(stream)
        return flusher.run(
            trigger, partition=partition, up_to_seq=self.parts.buffer.last_seq(stream, partition)
        )

    def run_ended(self, thread_id: str) -> None:
        """Say that a run on this thread has ended: it is flushed at once, in the background.

        LangGraph tells a checkpointer nothing of a run's end, so whoever started the run says it. Without it the
        thread is flushed by age. Does nothing where only workers flush.
        """
        if self.parts.scheduler.running:
            self.parts.scheduler.run_ended(CHECKPOINTS, thread_id)

    # -- telling

    def emit_log(
        self,
        message: str,
        *,
        thread_id: str | None = None,
        level: int | str = "info",
        logger: str = "",
        user_id: str | None = None,
        wait: bool = True,
        fields: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> int:
        """Write a line into a thread's log, and tell it live; returns its number in the log.

        Inside a node of a graph the thread is known; elsewhere give `thread_id`, or use `surgetank.working_for`.
        Further keywords become the line's fields. Raises `ConfigurationError` without a thread, `BufferFull`,
        `BufferUnavailable`.
        """
        line = self.parts.desk.runs.log(
            message, thread_id=thread_id, level=level, logger=logger, user_id=user_id, wait=wait,
            fields={**(fields or {}), **more},
        )  # fmt: skip
        return line.seq

    def broadcast_run_event(
        self, event: str | Mapping[str, Any], *, thread_id: str | None = None, **fields: Any
    ) -> RunEvent:
        """Tell an event to everybody who follows the thread (WebSocket, SSE), in every process; kept for replay.

        `event` is its type, or a mapping with `type` and fields. Raises `ConfigurationError` without a thread,
        `EntryRejected` above 256 KB, `BufferUnavailable`.
        """
        return self.parts.desk.runs.event(event, thread_id=thread_id, fields=fields)

    def log_system_error(
        self,
        error_type: str,
        message: str,
        *,
        severity: str | Severity = Severity.ERROR,
        thread_id: str | None = None,
        error: BaseException | None = None,
        stack_trace: str | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> str:
        """Report an error of your own type to the operators (`system_errors`); returns the id of its group.

        `error` gives the stack trace, unless `stack_trace` does. Alike errors become one group with a count.
        Raises `BufferFull`, `BufferUnavailable`, and `ValueError` for an unknown severity.
        """
        if stack_trace is None:
            stack_trace = "".join(traceback.format_exception(error)) if error is not None else ""
        thread_id = thread_id or origin(self.settings.owner_key).thread_id
        return self.errors.report(
            ErrorReport(error_type, message, Severity(severity), thread_id, stack_trace, context or {})
        )

    def logs(self, thread_id: str, **wanted: Any) -> LogPage:
        """Lines of a thread's log, hot and cold (`after`, `before`, `limit`, `levels` as in `ThreadLogs.read`)."""
        return self.parts.desk.logs.read(thread_id, **wanted)

    @property
    def errors(self) -> SystemErrors:
        """The system errors: find, look at, resolve."""
        return self.parts.desk.errors

    @property
    def events(self) -> EventLog:
        """The run events of this buffer."""
        return self.parts.desk.events

    def log_handler(self, level: int = logging.NOTSET) -> ThreadLogHandler:
        """A handler for `logging` that copies records into the log of the thread they were made for."""
        return ThreadLogHandler(self.emit_log, level=level, owner_key=self.settings.owner_key)

    def log_processor(self) -> ThreadLogProcessor:
        """The same for structlog: put it among the processors, before the renderer."""
        return ThreadLogProcessor(self.emit_log, owner_key=self.settings.owner_key)

    def _flusher(self, stream: str) -> StreamFlusher:
        flusher = self.parts.flushers.get(stream)
        if flusher is None:
            raise ConfigurationError(
                f"There is no stream {stream!r}.", remedy=f"streams: {', '.join(self.parts.flushers)}."
            )
        return flusher

    def jobs(
        self, *, limit: int = 50, stream: str | None = None, status: str | None = None
    ) -> list[FlushJob]:
        """Flush jobs, newest first."""
        return self.parts.buffer.jobs(limit=limit, stream=stream, status=status)

    def job(self, job_id: str) -> FlushJob:
        """One flush job, by its id or the beginning of it. Raises `JobNotFound`."""
        found = self.parts.buffer.job(job_id)
        if found is None:
            alike = [j for j in self.jobs(limit=self.settings.jobs_kept) if j.id.startswith(job_id)]
            found = alike[0] if len(alike) == 1 and job_id else None
        if found is None:
            raise JobNotFound(f"There is no flush job {job_id!r}.", remedy="see `surgetank jobs list`.")
        return found

    def retry_job(self, job_id: str) -> FlushJob:
        """Flush again what a job was about, now. Raises `JobNotFound`."""
        job = self.job(job_id)
        self.parts.buffer.retry_now(job.stream, job.partition)
        last = self.parts.buffer.last_seq(job.stream, job.partition)
        return self._flusher(job.stream).run(
            "retry", partition=job.partition, up_to_seq=last, retry_of=job.id
        )

    def parked(self) -> list[ParkedEntry]:
        """Entries that the database refused, oldest first."""
        return self.parts.buffer.parked()

    def retry_parked(self, ids: Iterable[int] | None = None) -> FlushJob | None:
        """Try parked entries again (all by default); None when there was nothing to try."""
        chosen = list(ids) if ids is not None else [entry.id for entry in self.parked()]
        return self.flush(trigger="retry") if self.parts.buffer.unpark(chosen) else None

    def storage(self, *, thread: str | None = None, top: int = 10) -> StorageReport:
        """Bytes by kind, channel and thread, the growth of the `top` largest threads (or of one), what pruning would
        free, and what retention did last. Never raises for a database that is down: the report says so.
        """
        parts = self.parts
        return storage(
            parts.buffer,
            parts.database,
            limits=limits_of(self.settings),
            now=self._clock(),
            thread=thread,
            top=top,
        )

    def retain(
        self,
        *,
        age: float | None = None,
        keep: int | None = None,
        max_bytes: int | None = None,
        threads: Sequence[str] | None = None,
        dry_run: bool = False,
    ) -> RetentionReport:
        """Delete old checkpoints of the threads (all by default): those older than `age` seconds, those beyond the
        `keep` newest of their namespace, and the oldest of threads over `max_bytes`.

        The newest checkpoint of each namespace and what a kept one is rebuilt from stay, and so does what still
        waits in the buffer. The deletions are flushed like everything else. With `dry_run` the report says exactly
        what would go. Raises `DatabaseUnavailable`, `BufferFull`, `ConfigurationError`.
        """
        return self.parts.retention.apply(Limits(age, keep, max_bytes), threads, dry_run=dry_run)

    def delete_idle_threads(
        self, older_than: float, *, threads: Sequence[str] | None = None, dry_run: bool = False
    ) -> RetentionReport:
        """Delete whole threads whose newest checkpoint is more than `older_than` seconds old. Raises like `retain`."""
        return self.parts.retention.delete_idle_threads(older_than, threads, dry_run=dry_run)

    def recovery(
        self, url: str | None = None, *, lost: Collection[str] = (), progress: Progress = lambda *_: None
    ) -> Recovery:
        """A look through a fallback location (by default the configured one), to recover what no buffer has any more.

        `lost` are ids of buffers that are gone for good, or "all". Raises `ConfigurationError` without a location,
        `MissingExtra`.
        """
        buffer, database = self.parts.buffer, self.parts.database
        if url is None and buffer.files.address is None:
            raise ConfigurationError(
                "There is no fallback location to recover from.",
                remedy="name it with `--from`, or set SURGETANK_FALLBACK_URL.",
            )
        store = buffer.files.open(url) if url is not None else buffer.files.store()
        return Recovery(buffer, store, database, lost=lost, progress=progress)

    def status(self, *, ping: bool = False, jobs: int = 5) -> Status:
        """How full the buffer is, how far behind the database, what fails, and what users should be told.

        `ping` also asks the database who it is, which takes a moment when it is down.
        """
        parts, now = self.parts, self._clock()
        depth = parts.buffer.depth()
        sinks = tuple(parts.sink_status(stream, ping=ping) for stream in parts.flushers)
        failing = tuple(parts.buffer.states(failing=True, limit=100))
        parked = parts.buffer.parked()
        oldest = [s.oldest_at for s in depth.streams if s.oldest_at is not None and s.entries]
        fallback = parts.spills.status(ping=ping)
        told = notices(
            depth, failing, parked, sinks, now=now, critical_after_s=self.settings.critical_after,
            fallback=fallback,
        )  # fmt: skip
        return Status(
            at=now,
            node=self.settings.node,
            home=str(self.settings.home),
            buffer_path=str(parts.buffer.path),
            durability=parts.buffer.durability,
            buffer=depth,
            lag_s=max(0.0, now - min(oldest)) if oldest else 0.0,
            sinks=sinks,
            failing=failing,
            parked=len(parked),
            jobs=tuple(parts.buffer.jobs(limit=jobs)),
            notices=told,
            flushing=parts.scheduler.running,
            fallback=fallback,
            problems=(
                *parts.problems,
                *(f"{n}: {m}" for n, m in parts.observers.failures[-5:]),
                *parts.desk.problems(),
            ),
        )


class _Parts:
    """What an open engine consists of."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float],
        observers: list[FlushObserver],
        *,
        start_database: bool,
        saver: BaseCheckpointSaver[Any] | None = None,
        serde: SerializerProtocol | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._saver, self._serde = saver, serde
        self.problems: deque[str] = deque(maxlen=_PROBLEMS_KEPT)
        self.observers = Observers(*observers)
        self.embedded: EmbeddedPostgres | None = None
        self.buffer = _open_buffer(settings, clock)
        try:
            self.database = self._open_database(settings, start=start_database)
        except BaseException:
            self.buffer.close()
            raise
        try:
            self.desk = Desk(self.buffer, self.database, settings, clock=clock)
        except BaseException:
            self._let_go()
            raise
        self.observers.add(self.desk.notifier)
        self.observers.add(_Reviver(self))  # last: reviving takes a second, telling does not
        sinks: dict[str, Sink] = {
            CHECKPOINTS: self._checkpoint_sink(),
            **Desk.sinks(self.database),
        }
        self.flushers = {stream: self._flusher(stream, sink, clock) for stream, sink in sinks.items()}
        self.desk.places |= {stream: self._place(stream) for stream in self.flushers}
        self.scheduler = Scheduler(
            self.buffer,
            list(self.flushers.values()),
            clock=clock,
            tick_s=settings.flush_tick,
            on_problem=self._problem,
            on_lost=self.desk.notifier.worker_lost,
            chore=self._chore,
        )
        self.spills = self._spill_watch()
        self.retention = Retention(self.buffer, self.database, clock=clock, node=settings.node)
        self.sweeper = (
            Sweeper(
                self.retention, limits, interval_s=settings.retain_interval, on_problem=self._sweep_problem
            )
            if (limits := limits_of(settings))
            else None
        )

    def _flusher(self, stream: str, sink: Sink, clock: Callable[[], float]) -> StreamFlusher:
        settings = self.settings
        return StreamFlusher(
            stream,
            self.buffer,
            sink,
            policy=StreamPolicy(
                entries=settings.flush_entries,
                bytes=settings.flush_bytes,
                age_s=settings.flush_age,
                batch_entries=settings.flush_batch_entries,
                batch_bytes=settings.flush_batch_bytes,
            ),
            retry=RetryPolicy(base_s=settings.retry_base, max_s=settings.retry_max),
            breaker=CircuitBreaker(clock, max_s=settings.breaker_max),
            observer=self.observers,
            works=Clockwork(clock),
            node=settings.node,
            lease_ttl_s=settings.lease_ttl,
        )

    def _spill_watch(self) -> SpillWatch:
        settings = self.settings
        spiller = Spiller(
            self.buffer,
            # Not the errors: they are few, and must be seen whatever is away.
            tuple(stream for stream in self.flushers if stream != ERRORS),
            SpillPolicy(after_s=settings.fallback_after, fill=settings.fallback_fill),
            clock=self.clock,
            node=settings.node,
            ttl_s=settings.lease_ttl,
            on_problem=self._spill_problem,
        )
        return SpillWatch(spiller, self.buffer, self.desk.notifier, self.desk.events, clock=self.clock)

    def start(self) -> None:
        """Flush in the background, and look for what retention deletes if there are limits."""
        self.scheduler.start()
        if self.sweeper is not None:
            self.sweeper.start()

    @property
    def cold(self) -> Cold:
        """What is read beside the buffer."""
        from surgetank.checkpoints.cold import ColdReader  # noqa: PLC0415 - needs the extra

        if self._saver is None:
            return ColdReader(self.database)
        from surgetank.checkpoints.cold_saver import SaverCold  # noqa: PLC0415 - needs the extra
        from surgetank.checkpoints.serde import faithful  # noqa: PLC0415 - needs the extra

        return SaverCold(self._saver, faithful(self._serde))

    def _checkpoint_sink(self) -> Sink:
        cache_bytes = self.settings.flush_cache_bytes
        if self._saver is None:
            return PostgresCheckpointSink(self.database, cache_bytes=cache_bytes)
        from surgetank.checkpoints.hot import HotLookup  # noqa: PLC0415 - needs the extra
        from surgetank.checkpoints.serde import faithful  # noqa: PLC0415 - needs the extra
        from surgetank.sinks.saver import SaverSink  # noqa: PLC0415 - needs the extra

        serde, hot = faithful(self._serde), HotLookup(self.buffer)
        return SaverSink(self._saver, serde, hot, cache_bytes=cache_bytes, clock=self.clock)

    def _open_database(self, settings: Settings, *, start: bool) -> MigratedDatabase:
        if settings.database_url is not None:
            url = settings.database_url.get_secret_value()
        else:
            self.embedded = EmbeddedPostgres(settings.home)
            if start:
                self.embedded.start()
            url = self.embedded.url
        return MigratedDatabase(
            url, max_size=settings.database_connections, connect_timeout_s=settings.connect_timeout
        )

    def _problem(self, error: BaseException, trace: str) -> None:
        """Something in the flush thread that is no flush failure (the disk, a bug): told and shown in status."""
        self._tell("flush_thread", error, trace)

    def _sweep_problem(self, error: BaseException, trace: str) -> None:
        self._tell("retention", error, trace)

    def _spill_problem(self, error: SurgetankError) -> None:
        self._tell("fallback", error, "".join(traceback.format_exception(error)))

    def _tell(self, where: str, error: BaseException, trace: str) -> None:
        message = problem_of(error)
        if not self.problems or self.problems[-1] != message:
            self.problems.append(message)
        self.desk.problem(error, where=where, trace=trace)

    def _chore(self) -> None:
        self.desk.alerts.keep_running()
        # Spilling before telling: what telling has to append needs room as well.
        away = [
            s for s, flusher in self.flushers.items() if flusher.breaker.state() is not BreakerState.CLOSED
        ]
        self.spills.chore(away)
        self.desk.chore(self.flushers)

    def _place(self, stream: str) -> str:
        """Where a stream is flushed to."""
        in_saver = self._saver is not None and stream == CHECKPOINTS
        return self.flushers[stream].sink.name if in_saver else self.database.address

    def sink_status(self, stream: str, *, ping: bool) -> SinkStatus:
        """The state of a stream's sink."""
        flusher = self.flushers[stream]
        view = flusher.breaker.view()
        reachable: bool | None = None
        version, error = None, view.last_error
        in_saver = self._saver is not None and stream == CHECKPOINTS
        if ping and not in_saver and self.embedded is not None and not self.embedded.is_running():
            reachable = False
            error = "the embedded PostgreSQL is not running (applications and `surgetank flush` start it)"
        elif ping:
            try:
                version, reachable = flusher.sink.ping(), True
            except SurgetankError as problem:
                reachable, error = False, problem.what
        return SinkStatus(
            stream, flusher.sink.name, self._place(stream), view.state.value, view.retry_at, error,
            reachable, version,
        )  # fmt: skip

    def close(self, *, drain: bool) -> None:
        """Stop flushing, drain once more if asked and possible, close everything."""
        timeout_s = self.settings.shutdown_timeout
        started = self.scheduler.running
        self.desk.alerts.stop(0.0)  # it may end while the rest does
        if self.sweeper is not None:
            self.sweeper.stop(timeout_s)
        self.scheduler.stop(timeout_s)
        try:
            if drain and started:
                self._drain(timeout_s)
        finally:
            self.desk.close()
            self._let_go()

    def _let_go(self) -> None:
        self.buffer.close()
        self.database.close()
        if self.embedded is not None:
            self.embedded.stop()

    def _drain(self, timeout_s: float) -> None:
        for flusher in self.flushers.values():
            last = self.buffer.last_seq(flusher.stream)
            if last == 0:
                continue
            stop = threading.Event()
            timer = threading.Timer(timeout_s, stop.set)
            timer.daemon = True
            timer.start()
            try:
                job = flusher.run("shutdown", up_to_seq=last, stop=stop)
            finally:
                timer.cancel()
            if not job.ok:
                left = self.buffer.depth().entries
                log.warning("left_in_buffer", entries=left, path=str(self.buffer.path), job=job.id)
        self.buffer.maintain()
        try:
            self.spills.clean()
        except FallbackUnavailable as error:  # whoever flushes next does it
            log.info("spilled_files_left", error=error.what)


def limits_of(settings: Settings) -> Limits:
    """The limits of retention; all off by default."""
    return Limits(settings.retain_age, settings.retain_keep, settings.retain_bytes)


def _open_buffer(settings: Settings, clock: Callable[[], float]) -> SQLiteBuffer:
    return SQLiteBuffer(
        settings.buffer_path,
        durability=settings.durability,
        limits=BufferLimits(
            max_bytes=settings.buffer_max_bytes,
            max_entries=settings.buffer_max_entries,
            when_full=settings.buffer_when_full,
            block_timeout_s=settings.buffer_block_timeout,
        ),
        clock=clock,
        jobs_kept=settings.jobs_kept,
        files=SpillFiles(url.get_secret_value() if (url := settings.fallback_url) is not None else None),
        inline_keys=frozenset((OPERATION_KEY,)),
    )


class _LogObserver:
    """Tells the log how jobs ended. What went wrong is told by the notifier."""

    def partition_failed(self, job: FlushJob, outcome: PartitionOutcome) -> None:
        failure = outcome.failure
        assert failure is not None
        log.debug(
            "partition_postponed", stream=outcome.stream, partition=outcome.partition, kind=failure.kind.value,
            error=failure.message, attempt=outcome.attempts, retry_at=outcome.next_attempt_at, job=job.id,
        )  # fmt: skip

    def entry_parked(self, job: FlushJob, entry: ParkedEntry) -> None:
        """The notifier's."""

    def values_replaced(self, job: FlushJob, outcome: PartitionOutcome) -> None:
        """The notifier's."""

    def partition_recovered(self, job: FlushJob, outcome: PartitionOutcome) -> None:
        """The notifier's."""

    def job_finished(self, job: FlushJob) -> None:
        if job.status is JobStatus.FAILED:
            # Each attempt of an outage fails; the notifier tells of it once, and louder.
            log.info("flush_job_failed", job=job.id, stream=job.stream, error=job.result.get("message"))
        else:
            log.debug(
                "flush_job_completed", job=job.id, stream=job.stream, rows=job.result.get("rows_flushed")
            )


class _Reviver:
    """Starts the embedded PostgreSQL again when it crashed. One that was stopped in order stays stopped."""

    def __init__(self, parts: _Parts) -> None:
        self._parts = parts

    def partition_failed(self, job: FlushJob, outcome: PartitionOutcome) -> None:
        embedded = self._parts.embedded
        if embedded is not None and embedded.crashed():
            log.error(
                "embedded_postgres_crashed",
                job=job.id,
                partition=outcome.partition,
                log=str(embedded.log_path),
            )
            embedded.start()

    def entry_parked(self, job: FlushJob, entry: ParkedEntry) -> None:
        """Nothing to revive."""

    def values_replaced(self, job: FlushJob, outcome: PartitionOutcome) -> None:
        """Nothing to revive."""

    def partition_recovered(self, job: FlushJob, outcome: PartitionOutcome) -> None:
        """Nothing to revive."""

    def job_finished(self, job: FlushJob) -> None:
        """Nothing to revive."""


class OpenSaver:
    """A saver with an engine of its own; behind `SurgetankSaver.from_conn_string`."""

    def __init__(self, serde: SerializerProtocol | None, **settings: Any) -> None:
        self._tank = Surgetank(**settings)
        self._serde = serde

    def __enter__(self) -> SurgetankSaver:
        return self._tank.open().checkpointer(serde=self._serde)

    def __exit__(self, *exc: object) -> None:
        self._tank.close()

    async def __aenter__(self) -> SurgetankSaver:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self._tank.close)
