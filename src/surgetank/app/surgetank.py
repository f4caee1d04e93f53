"""`Surgetank`: what an application holds. Its parts are put together in `assembly.py`.

Without arguments everything is embedded: the buffer is a file in the home folder, PostgreSQL comes
from a wheel and keeps its data there too. A flush thread runs until the engine is closed.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from surgetank import telemetry, tracing
from surgetank.app import ambient, receipts
from surgetank.app.assembly import Parts
from surgetank.app.effective import EffectiveSetting, effective
from surgetank.app.erasure import Erasure, ErasureReport, erasure_of
from surgetank.app.guards import destination, engine_settings
from surgetank.app.nouns import Nouns
from surgetank.app.picture import picture_of
from surgetank.app.run_figures import RunFigures
from surgetank.app.schema import migrate_alone
from surgetank.app.store import StoreOptions, SurgetankStore, open_store, options_of
from surgetank.buffer.binding import Binding
from surgetank.encode.limits import check_names
from surgetank.exceptions import (
    ConfigurationError,
    DatabaseUnavailable,
    EngineClosed,
    MissingExtra,
    UnknownName,
)
from surgetank.flush.events import FlushListener
from surgetank.flush.flusher import Flusher
from surgetank.flush.meters import Meters
from surgetank.flush.spans import trace_job
from surgetank.model import FlushJob
from surgetank.notify.report import Status
from surgetank.setting_names import SettingNames
from surgetank.settings import Settings
from surgetank.streams.checkpoints.envelope import STREAM as CHECKPOINTS
from surgetank.streams.checkpoints.retention.plan import Limits
from surgetank.streams.checkpoints.retention.sweep import RetentionReport
from surgetank.streams.installed import STREAMS
from surgetank.streams.stream import Stream
from surgetank.workflows.lifetime import Lifetimes
from surgetank.workflows.meters import RunMeters

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from langgraph.store.base import IndexConfig, TTLConfig

    from surgetank.streams.checkpoints.saver import SurgetankSaver
    from surgetank.workflows.graphs.config import GraphsConfig

_ERASURES_EVERY_S = 60.0  # how often is looked for erasures that can go on


class Surgetank(Nouns):
    """A write-behind store: buffer, flush engine and database.

    `home` is the folder of buffer and embedded database, `database_url` a PostgreSQL 14+ (none:
    embedded), `buffer_url` another place for the buffer; further settings as in
    `surgetank.settings.Settings`. Use it with `with` or `async with`, or call `open()` and
    `close()`.

        with Surgetank() as tank:
            graph = builder.compile(checkpointer=tank.checkpointer())

    `sink` is another durable store for checkpoints than the database: any LangGraph saver;
    `surgetank.streams.checkpoints.any_saver.sink` says what it can't give. `serde` is the
    serializer of checkpointers that name none; with a `sink` it is that of all.

    `database_password` is asked for the database's password before each connection, for servers
    that rotate it; it must answer within seconds.

    `start_database=False` uses an embedded PostgreSQL only if it already runs: for tools that just
    look.

    `streams` are flushed beside Surgetank's own: see `surgetank.streams.stream`.

    Raises `ConfigurationError`, `MissingExtra`, `BufferUnavailable`, `BufferCorrupt`. A database
    that is down is no error: the engine opens, accepts, and flushes when the database comes.
    """

    def __init__(
        self,
        home: str | Path | None = None,
        *,
        database_url: str | None = None,
        buffer_url: str | None = None,
        sink: BaseCheckpointSaver[Any] | None = None,
        serde: SerializerProtocol | None = None,
        database_password: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.time,
        start_database: bool = True,
        streams: Sequence[Stream] = (),
        **settings: Unpack[SettingNames],
    ) -> None:
        given: dict[str, Any] = {
            "home": Path(home).expanduser() if home is not None else None,
            "database_url": database_url, "buffer_url": buffer_url, **settings,
        }  # fmt: skip
        self.settings: Settings = engine_settings(**given)
        self._given = frozenset(name for name, value in given.items() if value is not None)
        self._clock = clock
        self._start_database = start_database
        self._sink = sink
        self._serde = serde
        self._password = database_password
        self._streams_beside = tuple(streams)
        self._store_options = StoreOptions()
        # How long threads live that name no time themselves: what a langgraph.json says of it.
        self.lifetimes = Lifetimes()
        self._parts: Parts | None = None
        self._closed = False
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._erasures_due_at = 0.0
        self.meters = Meters()
        self.run_meters = RunMeters()
        self._run_figures = RunFigures()
        self._listeners: list[FlushListener] = [self.meters.on_flush]
        if self.settings.otel:
            if not tracing.enabled():
                tracing.enable()
            self._listeners.append(trace_job)

    def __repr__(self) -> str:
        state = "open" if self._parts is not None else "closed"
        return f"<Surgetank home={str(self.settings.home)!r} database={destination(self.settings)} {state}>"

    # -- life

    def open(self) -> Surgetank:
        """Open the buffer, start the embedded database if there is no other, start flushing.
        Idempotent.

        A closed engine can be opened again by this call, and by nothing else.
        """
        with self._lock:
            self._closed = False
            if self._parts is None:
                self._pid = os.getpid()
                telemetry.use_json(self.settings.log_format == "json")
                self._parts = Parts(
                    self.settings,
                    self._clock,
                    self._listeners,
                    start_database=self._start_database,
                    saver=self._sink,
                    serde=self._serde,
                    password=self._password,
                    streams=self._streams_beside,
                )
                self._parts.upkeep.add(self._go_on_erasing)
                if self.settings.flush_in_process:
                    self._parts.start()
                    self._parts.reporting.alerts.keep_running()
                ambient.enter(self)
        return self

    def close(self) -> None:
        """Drain what can be drained within `shutdown_timeout`, then let go of everything.
        Idempotent.

        What could not be drained stays in the buffer and is flushed by the next process that opens
        it. Used afterwards, the engine raises `EngineClosed`.
        """
        # a forked child: they are its parent's
        if self._parts is not None and self._pid != os.getpid():
            self._parts, self._kept_runs, self._closed = None, None, True
            self._kept_sql = None
            return
        with self._lock:
            self._closed = True
            parts, self._parts = self._parts, None
            self._kept_runs = None
            self._kept_sql = None
        if parts is not None:
            ambient.leave(self)
            parts.reporting.finish_writing(self.settings.shutdown_timeout)
            parts.close(drain=self.settings.flush_in_process and self.settings.flush_on_close)

    def __enter__(self) -> Surgetank:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Surgetank:
        return await asyncio.to_thread(self.open)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.close)

    @property
    def parts(self) -> Parts:
        """The opened parts: buffer, database, flushers. For tools and tests. Raises
        `EngineClosed`."""
        with self._lock:
            if self._closed:
                raise EngineClosed(
                    "This Surgetank was closed.",
                    remedy="use it inside its `with` block, or call open() again.",
                )
            self.open()
            assert self._parts is not None
            return self._parts

    def _migrate_alone(self) -> list[str]:
        settings = self.settings
        if (
            self._parts is not None
            or self._closed
            or settings.database_url is None
            or settings.buffer_exists
        ):
            return []
        return migrate_alone(settings, [*STREAMS, *self._streams_beside], self._password)

    def add_observer(self, observer: FlushListener) -> None:
        """Call this with every `FlushEvent`, on the flushing thread: it must be quick."""
        self._listeners.append(observer)
        if self._parts is not None:
            self._parts.listeners.add(observer)

    def now(self) -> float:
        """The engine's clock: seconds since the epoch."""
        return self._parts.clock() if self._parts is not None else self._clock()

    # -- use

    def checkpointer(self, *, serde: SerializerProtocol | None = None) -> SurgetankSaver:
        """A LangGraph checkpointer on this store. Raises `MissingExtra` without langgraph."""
        try:
            from surgetank.streams.checkpoints.saver import SurgetankSaver  # noqa: PLC0415 - needs the extra
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("surgetank"):
                raise
            raise MissingExtra("langgraph", "langgraph", "The checkpointer") from error
        kind: type[SurgetankSaver] = SurgetankSaver
        if self.settings.otel:
            from surgetank.streams.checkpoints.traced import TracedSaver  # noqa: PLC0415

            kind = TracedSaver
        if self._sink is not None and serde is not None and serde is not self._serde:
            raise ConfigurationError(
                "A flush into a saver has to read what checkpointers write, so they all have one "
                "serializer.",
                remedy="give it to the engine: Surgetank(sink=..., serde=...).",
            )
        return kind(
            self.parts.buffer,
            self.parts.cold,
            serde=serde or self._serde,
            max_value_bytes=self.settings.max_value_bytes,
            unknown_threads=self.settings.unknown_threads,
            tenant_key=self.settings.tenant_key,
            tell=self.parts.reporting.state_class,
            forget_events=self.parts.reporting.forget_thread,
            prepare=self.parts.database.prepare,
        )

    def store(
        self, *, index: IndexConfig | None = None, ttl: TTLConfig | None = None
    ) -> SurgetankStore:
        """A LangGraph store in this database: what graphs remember beside their threads.

        `index` (LangGraph's `IndexConfig`) embeds the texts of items, and `search(query=...)` finds
        what is near, by pgvector. `ttl` (`TTLConfig`) says how many minutes items live. Raises
        `MissingExtra`, `ConfigurationError` for an index that can't be used.
        """
        options = self._store_options
        return open_store(self.parts, index or options.index, ttl or options.ttl)

    def set_store(self, *, index: IndexConfig | None = None, ttl: TTLConfig | None = None) -> None:
        """What `store()` uses from now on where it is given nothing: so the server's routes have
        the index and the times of the graphs that it runs."""
        self._store_options = StoreOptions(index, ttl)

    def set_store_of(self, config: GraphsConfig) -> None:
        """`set_store` with what the `store` of a `langgraph.json` says. A function of the project
        that it names for `embed` is imported. Raises `ConfigurationError`."""
        self._store_options = options_of(config)
        self.store()  # what can't be used is refused now

    def flush(
        self, stream: str | None = None, partition: str | None = None, *, trigger: str = "manual"
    ) -> FlushJob:
        """Flush what waits now, also what is not due yet, and wait for it. Never raises for a
        failed flush: the job says what became of it (`job.ok`).

        Without `stream`, every stream is flushed, each by a job of its own; returned is the first
        that did not go through, else that of the checkpoints. `partition` is then a thread. Raises
        `ConfigurationError` for an unknown stream.
        """
        _check_threads(partition)
        self.parts.guards.check_progress(force=True)
        jobs = [self._flush(name, partition, trigger) for name in self._streams(stream, partition)]
        return next((job for job in jobs if not job.ok), jobs[0])

    def _streams(self, stream: str | None, partition: str | None) -> Iterator[str]:
        """Lazily: what flushing one stream has to tell waits in the next ones."""
        if stream is not None:
            yield stream
            return
        yield CHECKPOINTS
        for name in self.parts.flushers:
            if name != CHECKPOINTS and self.parts.backlog.last_seq(name, partition):
                yield name

    def _flush(self, stream: str, partition: str | None, trigger: str) -> FlushJob:
        flusher = self._flusher(stream)
        return flusher.run(
            trigger, partition=partition, up_to_seq=self.parts.backlog.last_seq(stream, partition)
        )

    def run_ended(self, thread_id: str) -> None:
        """Say that a run on this thread has ended: it is flushed at once, in the background.

        LangGraph tells a checkpointer nothing of a run's end, so whoever started the run says it.
        Without it the thread is flushed by age. Does nothing where only workers flush.
        """
        if self.parts.scheduler.running:
            self.parts.scheduler.run_ended(CHECKPOINTS, thread_id)

    def wait_saved(self, thread_id: str, timeout: float = 30.0) -> None:
        """The receipt: return when all that was accepted of a thread until now (its state and its
        log) is in the database. Flushes it at once where this process flushes.

        Raises `NotSaved`, which says what hinders it: after `timeout` seconds, or at once when the
        database refused an entry, which waiting doesn't mend. Nothing is lost then: it is still in
        the buffer.
        """
        receipts.wait_saved(self.parts, thread_id, timeout)

    async def await_saved(self, thread_id: str, timeout: float = 30.0) -> None:  # noqa: ASYNC109 - its twin's
        """`wait_saved` for event loops."""
        await receipts.await_saved(self.parts, thread_id, timeout)

    def _flusher(self, stream: str) -> Flusher:
        flusher = self.parts.flushers.get(stream)
        if flusher is None:
            raise UnknownName(
                f"There is no stream {stream!r}.",
                remedy=f"streams: {', '.join(self.parts.flushers)}.",
            )
        return flusher

    def raise_storage_format(self) -> bool:
        """`storage.raise_format`: once after an upgrade, when no older process runs any more."""
        return self.storage.raise_format()

    def retain(
        self,
        *,
        age: float | None = None,
        keep: int | None = None,
        max_bytes: int | None = None,
        threads: Sequence[str] | None = None,
        dry_run: bool = False,
    ) -> RetentionReport:
        """Delete old checkpoints of the threads (all by default): those older than `age` seconds,
        those beyond the `keep` newest of their namespace, and the oldest of threads over
        `max_bytes`.

        The newest checkpoint of each namespace and what a kept one is rebuilt from stay, and so
        does what still waits in the buffer. The deletions are flushed like everything else. With
        `dry_run` the report says exactly what would go. Raises `DatabaseUnavailable`, `BufferFull`,
        `ConfigurationError`.
        """
        _check_threads(*(threads or ()))
        return self.parts.retention.apply(Limits(age, keep, max_bytes), threads, dry_run=dry_run)

    def delete_idle_threads(
        self, older_than: float, *, threads: Sequence[str] | None = None, dry_run: bool = False
    ) -> RetentionReport:
        """Delete whole threads whose newest checkpoint is more than `older_than` seconds old.
        Raises like `retain`."""
        return self.parts.retention.delete_idle_threads(older_than, threads, dry_run=dry_run)

    @property
    def _other_saver(self) -> bool:
        return self._sink is not None

    def erase_user(self, user: str, *, by: str = "application") -> ErasureReport:
        """Erase all data of a user: threads, lines, tokens, and what errors, jobs and events say of
        them.

        It takes effect in the files too, which are rewritten at the end. Idempotent; killed on the
        way, or with a report that is `running`, it goes on in the background where this buffer is
        flushed, or when it is called again. `by` is who does it, for the audit. Raises
        `DatabaseUnavailable`, `EntryRejected`.
        """
        return self._erasure().erase(user, by)

    def effective_settings(self) -> list[EffectiveSetting]:
        """Every setting as it is in force, and where it comes from. Secrets are masked."""
        return effective(self.settings, self._given)

    def _erasure(self) -> Erasure:
        return erasure_of(
            self.parts, lambda: self.flush(trigger="erasure"), other_saver=self._other_saver
        )

    def _go_on_erasing(self, _: threading.Event) -> None:
        now = self._clock()
        if now >= self._erasures_due_at:
            self._erasures_due_at = now + _ERASURES_EVERY_S
            with suppress(DatabaseUnavailable):
                self._erasure().go_on()

    def adopt(self) -> Binding:
        """Let the buffer belong to the configured database, whatever it belonged to. Raises
        `DatabaseUnavailable`."""
        return self.parts.guards.adopt()

    def status(self, *, ping: bool = False, jobs: int = 5) -> Status:
        """How full the buffer is, how far behind the database, what fails, and what users should be
        told.

        `ping` also asks the database who it is, which takes a moment when it is down.
        """
        return picture_of(self.parts, ping=ping, jobs=jobs)


def _check_threads(*names: str | None) -> None:
    """Refuse what can't be the name of a thread."""
    for name in names:
        if name is not None:
            check_names(name, [("$.thread_id", name)])
