"""`Surgetank`: the one place where the parts are put together.

Without arguments everything is embedded: the buffer is a file in the home folder, PostgreSQL comes from a wheel and
keeps its data there too. A flush thread runs until the engine is closed.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from surgetank.buffer.sqlite import BufferLimits, SQLiteBuffer
from surgetank.database.embedded import EmbeddedPostgres
from surgetank.database.migrate import MigratedDatabase
from surgetank.encode.envelope import STREAM as CHECKPOINTS
from surgetank.exceptions import ConfigurationError, JobNotFound, MissingExtra, SurgetankError
from surgetank.flush.breaker import CircuitBreaker
from surgetank.flush.job import Clockwork, StreamFlusher
from surgetank.flush.observer import FlushObserver, Observers
from surgetank.flush.policy import RetryPolicy, StreamPolicy
from surgetank.flush.scheduler import Scheduler, problem_of
from surgetank.model import FlushJob, JobStatus, ParkedEntry, PartitionOutcome
from surgetank.report import SinkStatus, Status, notices
from surgetank.settings import Settings, load_settings
from surgetank.sinks.postgres import PostgresCheckpointSink
from surgetank.telemetry import log

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from surgetank.checkpoints.saver import SurgetankSaver

_PROBLEMS_KEPT = 20


class Surgetank:
    """A write-behind store: buffer, flush engine and database.

    `home` is the folder of buffer and embedded database, `database_url` a PostgreSQL 14+ (none: embedded),
    `buffer_url` another place for the buffer; further settings as in `surgetank.settings.Settings`. Use it with
    `with` or `async with`, or call `open()` and `close()`.

        with Surgetank() as tank:
            graph = builder.compile(checkpointer=tank.checkpointer())

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
        self._parts: _Parts | None = None
        self._lock = threading.RLock()
        self._observers: list[FlushObserver] = [_LogObserver()]

    # -- life

    def open(self) -> Surgetank:
        """Open the buffer, start the embedded database if there is no other, start flushing. Idempotent."""
        with self._lock:
            if self._parts is None:
                self._parts = _Parts(
                    self.settings, self._clock, self._observers, start_database=self._start_database
                )
                if self.settings.flush_in_process:
                    self._parts.scheduler.start()
        return self

    def close(self) -> None:
        """Drain what can be drained within `shutdown_timeout`, then let go of everything. Idempotent.

        What could not be drained stays in the buffer and is flushed by the next process that opens it.
        """
        with self._lock:
            parts, self._parts = self._parts, None
        if parts is not None:
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

    # -- use

    def checkpointer(self, *, serde: SerializerProtocol | None = None) -> SurgetankSaver:
        """A LangGraph checkpointer on this store. Raises `MissingExtra` without langgraph."""
        try:
            from surgetank.checkpoints.cold import ColdReader  # noqa: PLC0415 - needs the extra
            from surgetank.checkpoints.saver import SurgetankSaver  # noqa: PLC0415
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("surgetank"):
                raise
            raise MissingExtra("langgraph", "langgraph", "The checkpointer") from error
        parts = self.parts
        return SurgetankSaver(
            parts.buffer,
            ColdReader(parts.database),
            serde=serde,
            max_value_bytes=self.settings.max_value_bytes,
        )

    def flush(
        self, stream: str | None = None, partition: str | None = None, *, trigger: str = "manual"
    ) -> FlushJob:
        """Flush what waits now, also what is not due yet, and wait for it. Never raises for a failed flush: the
        job says what became of it (`job.ok`). Raises `ConfigurationError` for an unknown stream.
        """
        flusher = self._flusher(stream or CHECKPOINTS)
        last = self.parts.buffer.last_seq(flusher.stream, partition)
        return flusher.run(trigger, partition=partition, up_to_seq=last)

    def run_ended(self, thread_id: str) -> None:
        """Say that a run on this thread has ended: it is flushed at once, in the background.

        LangGraph tells a checkpointer nothing of a run's end, so whoever started the run says it. Without it the
        thread is flushed by age. Does nothing where only workers flush.
        """
        if self.parts.scheduler.running:
            self.parts.scheduler.run_ended(CHECKPOINTS, thread_id)

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
        told = notices(depth, failing, parked, sinks, now=now, critical_after_s=self.settings.critical_after)
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
            problems=tuple(parts.problems) + tuple(f"{n}: {m}" for n, m in parts.observers.failures[-5:]),
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
    ) -> None:
        self.settings = settings
        self.problems: deque[str] = deque(maxlen=_PROBLEMS_KEPT)
        self.observers = Observers(*observers, _Reviver(self))
        self.embedded: EmbeddedPostgres | None = None
        self.buffer = _open_buffer(settings, clock)
        try:
            self.database = self._open_database(settings, start=start_database)
        except BaseException:
            self.buffer.close()
            raise
        sink = PostgresCheckpointSink(self.database, cache_bytes=settings.flush_cache_bytes)
        works = Clockwork(clock)
        flusher = StreamFlusher(
            CHECKPOINTS,
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
            works=works,
            node=settings.node,
            lease_ttl_s=settings.lease_ttl,
        )
        self.flushers: dict[str, StreamFlusher] = {CHECKPOINTS: flusher}
        self.scheduler = Scheduler(
            self.buffer, [flusher], clock=clock, tick_s=settings.flush_tick, on_problem=self._problem
        )

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
        message = problem_of(error)
        if not self.problems or self.problems[-1] != message:
            self.problems.append(message)
        log.error("flush_thread_problem", error=message, stack_trace=trace)

    def sink_status(self, stream: str, *, ping: bool) -> SinkStatus:
        """The state of a stream's sink."""
        flusher = self.flushers[stream]
        view = flusher.breaker.view()
        reachable: bool | None = None
        version, error = None, view.last_error
        if ping and self.embedded is not None and not self.embedded.is_running():
            reachable = False
            error = "the embedded PostgreSQL is not running (applications and `surgetank flush` start it)"
        elif ping:
            try:
                version, reachable = flusher.sink.ping(), True
            except SurgetankError as problem:
                reachable, error = False, problem.what
        return SinkStatus(
            stream, flusher.sink.name, self.database.address, view.state.value, view.retry_at, error,
            reachable, version,
        )  # fmt: skip

    def close(self, *, drain: bool) -> None:
        """Stop flushing, drain once more if asked and possible, close everything."""
        timeout_s = self.settings.shutdown_timeout
        started = self.scheduler.running
        self.scheduler.stop(timeout_s)
        try:
            if drain and started:
                self._drain(timeout_s)
        finally:
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
    )


class _LogObserver:
    """Tells the log. Other channels are added as observers."""

    def partition_failed(self, job: FlushJob, outcome: PartitionOutcome) -> None:
        failure = outcome.failure
        assert failure is not None
        log.warning(
            "partition_postponed", stream=outcome.stream, partition=outcome.partition, kind=failure.kind.value,
            error=failure.message, attempt=outcome.attempts, retry_at=outcome.next_attempt_at, job=job.id,
        )  # fmt: skip

    def entry_parked(self, job: FlushJob, entry: ParkedEntry) -> None:
        log.error(
            "entry_parked", stream=entry.stream, partition=entry.partition, seq=entry.seq, parked=entry.id,
            error=entry.failure.message, job=job.id,
        )  # fmt: skip

    def partition_recovered(self, job: FlushJob, outcome: PartitionOutcome) -> None:
        log.info("partition_recovered", stream=outcome.stream, partition=outcome.partition, job=job.id)

    def job_finished(self, job: FlushJob) -> None:
        if job.status is JobStatus.FAILED:
            log.error("flush_job_failed", job=job.id, stream=job.stream, error=job.result.get("message"))
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
