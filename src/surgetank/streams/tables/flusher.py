"""The flusher of tables: leases one table after the other, takes what waits, and has it written and acknowledged.

It has the face of `flush.flusher.Flusher`. A job of the schedule is one table; a flush by hand is one job for all that
was asked for. A job can be killed by its id: it ends after the group that is being written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pyarrow as pa

from surgetank.buffer.jobs import JobLog
from surgetank.database.pool import Database
from surgetank.exceptions import BufferProblem, LeaseLost
from surgetank.flush.breaker import BreakerState, CircuitBreaker
from surgetank.flush.classify import classify, combine
from surgetank.flush.events import FlushListener, JobFinished, outcome_events
from surgetank.flush.job import Clockwork
from surgetank.flush.policy import RetryPolicy
from surgetank.job_result import JobResult
from surgetank.model import FlushJob, JobStatus, PartitionOutcome
from surgetank.streams.tables.cold.protocol import ColdTables, UserErased
from surgetank.streams.tables.definition import STREAM, Table, TablePolicy
from surgetank.streams.tables.delivery import Surroundings, TableDelivery, TableFailed
from surgetank.streams.tables.hot.protocol import HotTables, TableLease, Waiting
from surgetank.streams.tables.taking import taking

_UNFINISHED = "stopped before everything was written; the rest stays in the buffer"
_PAUSE_S = 0.02  # between two looks for a table that somebody else is flushing


class TablesSink:
    """Where tables are flushed into, for those who show it and ask whether it is there."""

    name = "postgresql"

    def __init__(self, database: Database) -> None:
        self._database = database

    def ping(self) -> str:
        """Ask the database; what it says of itself."""
        return self._database.ping()


@dataclass(frozen=True, slots=True)
class FlushDefaults:
    """When a table is flushed whose own policy says nothing."""

    rows: int = 10_000
    interval_s: float = 60.0

    def is_due(self, waiting: Waiting, now: float) -> bool:
        """Whether it is time: so many mutations wait, or the oldest waits for so long."""
        policy: TablePolicy = waiting.table.policy
        rows = self.rows if policy.rows is None else policy.rows
        interval = self.interval_s if policy.interval_s is None else policy.interval_s
        return waiting.changes >= rows or now - waiting.oldest_at >= interval


@dataclass(slots=True)
class _Running:
    """A job that runs: what it holds, and whether it is to end."""

    job: FlushJob
    stop: threading.Event
    killed: threading.Event = field(default_factory=threading.Event)
    lease: TableLease | None = None
    outcomes: list[PartitionOutcome] = field(default_factory=list)
    unfinished: bool = False
    problem: BufferProblem | None = None

    @property
    def stopped(self) -> bool:
        """Whether it was asked to end."""
        return self.stop.is_set() or self.killed.is_set()


class TableFlusher:
    """Flushes the hot rows of tables into files. Several may work on the same rows at once."""

    stream = STREAM

    def __init__(
        self,
        hot: HotTables,
        cold: ColdTables,
        jobs: JobLog,
        *,
        sink: TablesSink,
        retry: RetryPolicy,
        breaker: CircuitBreaker,
        listener: FlushListener,
        clockwork: Clockwork,
        node: str,
        defaults: FlushDefaults | None = None,
        lease_ttl_s: float = 15.0,
        on_recovered: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.sink = sink
        self.breaker = breaker
        self.policy = defaults or FlushDefaults()
        self.node = node
        self._hot = hot
        self._jobs = jobs
        self._around = Surroundings(
            hot=hot,
            cold=cold,
            breaker=breaker,
            retry=retry,
            clockwork=clockwork,
            on_recovered=lambda: on_recovered(STREAM),
        )
        self._listener = listener
        self._clockwork = clockwork
        self._ttl_s = lease_ttl_s
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}

    @property
    def holding(self) -> int:
        """How many tables it has leased now."""
        return sum(running.lease is not None for running in list(self._running.values()))

    def run_if_due(self, stop: threading.Event) -> FlushJob | None:
        """Flush tables that are due, each in a job of its own; returns the last. None when nothing
        was due or the breaker is open."""
        last: FlushJob | None = None
        state = self.breaker.state()
        if state is BreakerState.OPEN:
            return None
        # While the sink is suspected, one table is the probe, and it need not be due.
        probe = state is not BreakerState.CLOSED or self.breaker.is_suspect()
        now = self._clockwork.clock()
        for waiting in self._hot.waiting():
            if stop.is_set() or self.breaker.state() is BreakerState.OPEN:
                break
            if not probe and not self.policy.is_due(waiting, now):
                continue
            lease = self._hot.lease(waiting.table, owner=self.node, ttl_s=self._ttl_s, force=probe)
            if lease is None:
                continue
            name = waiting.table.full_name
            last = self._run("schedule", [waiting.table], name, stop=stop, lease=lease)
            if probe:
                break
        return last

    def run(
        self,
        trigger: str,
        *,
        partition: str | None = None,
        only: Sequence[str] | None = None,
        up_to_seq: int | None = None,
        retry_of: str | None = None,
        stop: threading.Event | None = None,
    ) -> FlushJob:
        """Flush everything that waits in one job: of all tables, or of the table that `partition`
        names (a table's full name, or a user's rows in it), or of those that `only` names. With
        `up_to_seq` tables that somebody else is flushing are waited for."""
        named = [partition] if only is None else only
        tables = [
            each.table
            for each in self._hot.waiting()
            if any(_concerns(each_name, each.table) for each_name in named)
        ]
        return self._run(
            trigger,
            tables,
            partition,
            retry_of=retry_of,
            stop=stop or threading.Event(),
            patient=up_to_seq is not None,
            force=True,
        )

    def run_ended(self, partitions: Sequence[str], stop: threading.Event) -> FlushJob:
        """Flush the tables of these partitions in one job."""
        tables = [
            each.table
            for each in self._hot.waiting()
            if any(_concerns(partition, each.table) for partition in partitions)
        ]
        alone = partitions[0] if len(partitions) == 1 else None
        return self._run("run_end", tables, alone, stop=stop, force=True)

    def kill(self, job_id: str) -> bool:
        """Ask a job to end after the group that it is writing. False where no such job runs
        here."""
        with self._lock:
            running = self._running.get(job_id)
        if running is None:
            return False
        running.killed.set()
        return True

    # -- a job

    def _run(
        self,
        trigger: str,
        tables: Sequence[Table],
        partition: str | None,
        *,
        stop: threading.Event,
        retry_of: str | None = None,
        lease: TableLease | None = None,
        patient: bool = False,
        force: bool = False,
    ) -> FlushJob:
        now = self._clockwork.clock()
        job = FlushJob(
            id=self._clockwork.new_id(),
            stream=self.stream,
            trigger=trigger,
            status=JobStatus.RUNNING,
            created_at=now,
            started_at=now,
            node=self.node,
            partition=partition,
            retry_of=retry_of,
            result=JobResult(heartbeat_at=now),
        )
        running = _Running(job, stop, lease=lease)
        with self._lock:
            self._running[job.id] = running
        current: Table | None = None
        try:
            self._jobs.save_job(job)
            with self._heartbeat(running):
                for current in tables:
                    if running.stopped:
                        running.unfinished = True
                        break
                    if self.breaker.state() is BreakerState.OPEN and running.outcomes:
                        break  # the sink is down: asking for each table would only hammer it
                    self._flush_table(current, running, patient=patient, force=force)
        except BufferProblem as error:
            name = current.full_name if current is not None else partition or self.stream
            running.outcomes.append(PartitionOutcome(self.stream, name, failure=classify(error)))
        finally:
            if (left := running.lease) is not None:
                running.lease = None
                self._hot.release(left)
            with self._lock:
                del self._running[job.id]
        return self._finish(running)

    def _flush_table(self, table: Table, running: _Running, *, patient: bool, force: bool) -> None:
        """Lease a table until nothing is left to take, or its users failed."""
        delivery = TableDelivery(table, running.job, self._around)
        try:
            while not running.stopped:
                lease = running.lease or self._lease(table, running, patient=patient, force=force)
                if lease is None:
                    break
                running.lease, force = lease, False
                if not self._flush_lease(delivery, lease, running):
                    break
                running.lease = None
                self._hot.release(lease)
                if delivery.held:
                    break
            else:
                running.unfinished = True
        finally:
            outcomes = delivery.outcomes()
            running.outcomes += outcomes
            for outcome in outcomes:
                for event in outcome_events(running.job, outcome):
                    self._listener(event)

    def _lease(
        self, table: Table, running: _Running, *, patient: bool, force: bool
    ) -> TableLease | None:
        """The lease of a table; with `patient` it is waited for while somebody else has it."""
        deadline = self._clockwork.clock() + 2 * self._ttl_s
        while True:
            lease = self._hot.lease(table, owner=self.node, ttl_s=self._ttl_s, force=force)
            if lease is not None or not (patient and force):
                return lease
            waits = any(each.table.id == table.id for each in self._hot.waiting())
            late = self._clockwork.clock() >= deadline
            if not waits or late or running.stopped or running.stop.wait(_PAUSE_S):
                return None

    def _flush_lease(self, delivery: TableDelivery, lease: TableLease, running: _Running) -> bool:
        """Flush what a lease covers. False where nothing more can be done for the table."""
        progress, after = lease.progress, 0
        rows: pa.Table | None = None
        try:
            with taking(self._hot, self._around.cold, delivery.table, lease) as groups:
                while after < lease.through:
                    if running.stopped:
                        running.unfinished = True
                        return False
                    group, gone = groups.after(after), (delivery.held, len(delivery.behind))
                    rows = group.rows
                    progress = delivery.deliver(
                        lease, progress, rows, group.through, taken_at=group.snapshot
                    )
                    after = max(group.through, after + 1)
                    if gone != (delivery.held, len(delivery.behind)):
                        groups.forget()
        except UserErased:
            return True  # what is left is taken again
        except LeaseLost as error:
            # Nothing failed: whoever has the table now does the work and reports it.
            running.lease = None
            running.outcomes.append(
                PartitionOutcome(self.stream, delivery.table.full_name, failure=classify(error))
            )
            return False
        except TableFailed as error:
            if error.sink:
                sure = error.failure.kind.value == "fatal"
                self.breaker.failure(error.failure.message, sure=sure)
            running.lease = None
            assert rows is not None
            delivery.fail(lease, rows, error.failure)
            return False
        return True

    def _finish(self, running: _Running) -> FlushJob:
        status, result = combine(running.outcomes)
        now = self._clockwork.clock()
        unfinished = running.stopped and running.unfinished and status is JobStatus.COMPLETED
        result = replace(
            result,
            warnings=(*(result.warnings or ()), *([_UNFINISHED] if unfinished else [])),
            seconds=round(now - (running.job.started_at or now), 6),
            stopped=True if running.stopped else None,
            heartbeat_problem=str(running.problem) if running.problem is not None else None,
        )
        job = running.job.finished(status, now, result)
        self._jobs.save_job(job)
        self._listener(JobFinished(job))
        return job

    @contextmanager
    def _heartbeat(self, running: _Running) -> Iterator[None]:
        """Renew the lease and the job's heartbeat while a long write goes on."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self._ttl_s / 3):
                try:
                    if (lease := running.lease) is not None:
                        self._hot.renew(lease, ttl_s=self._ttl_s)
                    alive = JobResult(heartbeat_at=self._clockwork.clock())
                    self._jobs.save_job(replace(running.job, result=alive))
                except LeaseLost:
                    pass  # the flushing thread meets the fence at its next step
                except BufferProblem as error:
                    running.problem = error

        thread = threading.Thread(target=beat, name="surgetank-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _concerns(partition: str | None, table: Table) -> bool:
    """Whether a partition is a table's: its full name, or with a user behind it."""
    return partition is None or partition.partition("/")[0] == table.full_name
