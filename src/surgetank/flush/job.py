"""One flush job: lease what is due, read a bounded group, deliver it, record the honest outcome.

Memory is bounded by the group (`batch_bytes` plus about one entry), however much waits. Partitions
take turns (`rotation.py`), and what becomes due while a job runs has its turn next, so that a huge one
can't starve a small one.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Protocol

from surgetank.buffer.binding import Fence
from surgetank.buffer.coordination import Coordination, Due, Leased
from surgetank.buffer.jobs import JobLog
from surgetank.exceptions import BufferProblem
from surgetank.flush.breaker import BreakerState, CircuitBreaker
from surgetank.flush.classify import classify, combine
from surgetank.flush.doubts import Found
from surgetank.flush.events import FlushListener, JobFinished, outcome_events
from surgetank.flush.partition import Delivery
from surgetank.flush.policy import RetryPolicy, StreamPolicy
from surgetank.flush.rotation import Rotation
from surgetank.flush.run import Run
from surgetank.job_result import JobResult
from surgetank.model import Failure, FailureKind, FlushJob, JobStatus, Lease, PartitionOutcome
from surgetank.sinks.protocol import Sink

_SPREAD_S = 2.0  # thousands of partitions that waited for a sink come back within this time
_UNFINISHED = "stopped before everything was written; the rest stays in the buffer"


@dataclass(frozen=True, slots=True)
class Clockwork:
    """Time, chance and identity, passed in so that a test can hold them still."""

    clock: Callable[[], float]
    random: Callable[[], float] = Random().random  # noqa: S311 - jitter, not a secret
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex


class FlushedBuffer(Coordination, Fence, JobLog, Protocol):
    """What a flush needs: coordination, a fence, and the record of its jobs."""


class StreamFlusher:
    """Flushes one stream of a buffer into one sink. Several may work on the same buffer at once."""

    def __init__(
        self,
        stream: str,
        buffer: FlushedBuffer,
        sink: Sink,
        *,
        policy: StreamPolicy,
        retry: RetryPolicy,
        breaker: CircuitBreaker,
        listener: FlushListener,
        clockwork: Clockwork,
        node: str,
        lease_ttl_s: float = 15.0,
        on_findings: Callable[[Sequence[Found]], None] = lambda _: None,
        on_recovered: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.stream = stream
        self.sink = sink
        self.breaker = breaker
        self.policy = policy
        self.node = node
        self._buffer = buffer
        self._listener = listener
        self._clockwork = clockwork
        self._ttl_s = lease_ttl_s
        self._on_recovered = on_recovered
        self._held: list[_Held] = []  # by the jobs that run
        # One for each call: flushes by hand and in the background run at once, and each learns of
        # the sink for itself.
        self._new_delivery = partial(
            Delivery, buffer, sink, breaker, retry,
            clock=clockwork.clock, random=clockwork.random, on_findings=on_findings,
            on_recovered=self._recovered,
        )  # fmt: skip

    @property
    def holding(self) -> int:
        """How many partitions it has leased now."""
        return sum(len(held.all()) for held in list(self._held))

    def run_if_due(self, stop: threading.Event) -> FlushJob | None:
        """Flush what crossed a threshold of the policy; None when nothing did or the breaker is
        open."""
        state = self.breaker.state()
        if state is BreakerState.OPEN:
            return None
        policy = self.policy
        # A half-open breaker lets one small probe through, whose partition need not be due: it asks
        # for all of them.
        probe = state is not BreakerState.CLOSED
        limit = 1 if probe else policy.batch_partitions
        due = Due(
            entries=policy.entries, bytes=policy.bytes, age_s=policy.age_s, limit=limit, force=probe,
            enough_entries=policy.batch_entries, enough_bytes=policy.batch_bytes,
            share_entries=policy.share_entries, share_bytes=policy.share_bytes,
        )  # fmt: skip
        leased = self._lease(due)
        if not leased and self.breaker.is_suspect():
            probe, leased = True, self._lease(replace(due, force=True, limit=1))
        if not leased:
            return None

        def join(unserved: int) -> list[Leased]:
            room = policy.batch_entries - unserved
            return self._lease(replace(due, enough_entries=room)) if room > 0 else []

        if probe:
            return self._run("schedule", leased, None, None, stop)
        return self._run("schedule", leased, None, None, stop, join=join)

    def _recovered(self) -> None:
        """The sink takes things again: all that waited for it is due, whatever its own next attempt
        was."""
        self._buffer.retry_now(self.stream, spread_s=_SPREAD_S)
        self._on_recovered(self.stream)

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
        """Flush everything that waits (of one partition, or of `only` some), also what is not due
        yet, in one job.

        With `up_to_seq` the job ends when nothing up to that seq waits unleased; what is accepted
        later may still go along.
        """
        due = Due(
            partition=partition, partitions=only, force=True, limit=self.policy.batch_partitions
        )
        stop = stop or threading.Event()

        def again(done: set[str]) -> list[Leased]:
            """Lease what is left; wait for partitions that another worker is flushing."""
            deadline = self._clockwork.clock() + 2 * self._ttl_s
            while up_to_seq is None or self._left(up_to_seq, partition, only) - done:
                leased = self._lease(due)
                self._buffer.release([x.lease for x in leased if x.lease.partition in done])
                fresh = [x for x in leased if x.lease.partition not in done]
                late = not self._clockwork.clock() < deadline
                if fresh or up_to_seq is None or late or stop.wait(0.02):
                    return fresh
            return []

        return self._run(
            trigger, self._lease(due), partition, retry_of, stop, again=again, up_to_seq=up_to_seq,
            only=only,
        )  # fmt: skip

    def run_ended(self, partitions: Sequence[str], stop: threading.Event) -> FlushJob:
        """Flush what waits of these partitions, whose runs have ended, in one job."""
        due = Due(partitions=partitions, force=True, limit=self.policy.batch_partitions)
        alone = partitions[0] if len(partitions) == 1 else None
        return self._run("run_end", self._lease(due), alone, None, stop)

    def _left(self, up_to_seq: int, partition: str | None, only: Sequence[str] | None) -> set[str]:
        left = self._buffer.waiting(self.stream, up_to_seq=up_to_seq, partition=partition)
        return set(left) if only is None else set(left).intersection(only)

    def _lease(self, due: Due) -> list[Leased]:
        return self._buffer.lease(self.stream, due, owner=self.node, ttl_s=self._ttl_s)

    def _run(
        self,
        trigger: str,
        leased: list[Leased],
        partition: str | None,
        retry_of: str | None,
        stop: threading.Event,
        *,
        again: Callable[[set[str]], list[Leased]] | None = None,
        join: Callable[[int], list[Leased]] | None = None,
        up_to_seq: int | None = None,
        only: Sequence[str] | None = None,
    ) -> FlushJob:
        """`again` leases what is left when all turns were taken, `join` what became due
        meanwhile, so that there is a group of it with those that have had no turn."""
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
        outcomes: list[PartitionOutcome] = []
        held = _Held([x.lease for x in leased])
        self._held.append(held)
        try:
            self._buffer.save_job(job)
            with self._heartbeat(job, held):
                while not stop.is_set():
                    self._flush(job, leased, held, stop, outcomes, join)
                    if self.breaker.state() is BreakerState.OPEN:
                        break  # the sink is down: asking for each partition would only hammer it
                    failed = {o.partition for o in outcomes if o.failure is not None}
                    leased = again(failed) if again is not None else []
                    if not leased:
                        break
                    held.add([x.lease for x in leased])
                outcomes += self._left_behind(outcomes, up_to_seq, partition, only)
        except BufferProblem as error:
            outcomes += _interrupted(outcomes, [*(x.lease for x in leased), *held.all()], error)
        finally:
            self._held.remove(held)
            self._give_back(held)
        return self._finish(job, outcomes, held, stopped=stop.is_set())

    def _left_behind(
        self,
        outcomes: Sequence[PartitionOutcome],
        up_to_seq: int | None,
        partition: str | None,
        only: Sequence[str] | None,
    ) -> list[PartitionOutcome]:
        """What the job was asked to flush and another worker still holds: told, never left out
        silently."""
        if up_to_seq is None:
            return []
        left = self._left(up_to_seq, partition, only) - {
            o.partition for o in outcomes if o.failure is not None
        }
        holders = {name: self._buffer.state(self.stream, name) for name in sorted(left)}
        down = self.breaker.view().last_error if self.breaker.state() is BreakerState.OPEN else None
        return [
            PartitionOutcome(
                self.stream,
                name,
                failure=Failure(
                    FailureKind.TRANSIENT,
                    f"not tried: {down}"
                    if down
                    else f"held by {state.leased_by or 'nobody'} all the while",
                    "StillWaiting",
                    remedy="" if down else "flush again, or let the background flush do it.",
                ),
            )
            for name, state in holders.items()
            if state is not None
        ]

    def _flush(
        self,
        job: FlushJob,
        leased: Sequence[Leased],
        held: _Held,
        stop: threading.Event,
        outcomes: list[PartitionOutcome],
        join: Callable[[int], list[Leased]] | None,
    ) -> None:
        """Flush what was leased; adds what became of each partition, also when the buffer fails on
        the way."""
        delivery = self._new_delivery()
        rotation = Rotation(self._buffer, self.policy, leased, delivery.unreadable)
        deadline = self._clockwork.clock() + self.policy.job_s
        try:
            while rotation and not stop.is_set():
                done = self._take_turn(rotation, held, delivery)
                # One that ended with a parked entry was neither acknowledged nor postponed: its lease
                # is still held.
                if kept := [run.lease for run in done if not run.closed]:
                    self._buffer.release(kept)
                for run in done:
                    held.drop(run.lease)
                    self._report(job, run, outcomes)
                if self.breaker.state() is BreakerState.OPEN:
                    break
                if join is not None:
                    if self._clockwork.clock() >= deadline and rotation.all_served:
                        break
                    joined = join(rotation.unserved)
                    held.add([x.lease for x in joined])
                    rotation.join(joined)
        finally:
            held.unfinished = held.unfinished or bool(rotation)
            for run in rotation.runs.values():
                self._report(job, run, outcomes)

    @staticmethod
    def _take_turn(rotation: Rotation, held: _Held, delivery: Delivery) -> list[Run]:
        """Bring the next group to the sink; returns the partitions that are done with.

        A function of its own, so that one group's entries are let go before the next one's are
        read.
        """
        group, members = rotation.next_group()
        if group:
            delivery.deliver(rotation.runs, group)
            held.add([run.lease for run in members if run.raised])
        return rotation.requeue(members)

    def _report(self, job: FlushJob, run: Run, outcomes: list[PartitionOutcome]) -> None:
        """Add what became of a partition to the job, and report it."""
        if run.touched:
            outcomes.append(run.outcome())
            for event in outcome_events(job, outcomes[-1]):
                self._listener(event)

    def _give_back(self, held: _Held) -> None:
        leases = held.all()
        if leases:
            self._buffer.release(leases)

    def _finish(
        self, job: FlushJob, outcomes: list[PartitionOutcome], held: _Held, *, stopped: bool
    ) -> FlushJob:
        status, result = combine(_merged(outcomes))
        now = self._clockwork.clock()
        unfinished = stopped and held.unfinished and status is JobStatus.COMPLETED
        result = replace(
            result,
            warnings=(*(result.warnings or ()), *([_UNFINISHED] if unfinished else [])),
            seconds=round(now - (job.started_at or now), 6),
            stopped=True if stopped else None,
            heartbeat_problem=str(held.problem) if held.problem is not None else None,
        )
        job = job.finished(status, now, result)
        self._buffer.save_job(job)
        self._listener(JobFinished(job))
        return job

    @contextmanager
    def _heartbeat(self, job: FlushJob, held: _Held) -> Iterator[None]:
        """Renew the leases and the job's heartbeat while a long write goes on."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self._ttl_s / 3):
                try:
                    self._buffer.renew(held.all(), ttl_s=self._ttl_s)
                    self._buffer.save_job(
                        replace(job, result=JobResult(heartbeat_at=self._clockwork.clock()))
                    )
                except BufferProblem as error:
                    # The flushing thread meets the same problem at its next step and records it
                    # there; leases that run out meanwhile are fenced.
                    held.problem = error

        thread = threading.Thread(target=beat, name="surgetank-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


class _Held:
    """The leases that a job holds, shared with its heartbeat."""

    def __init__(self, leases: Sequence[Lease]) -> None:
        self._lock = threading.Lock()
        self._leases = {lease.partition: lease for lease in leases}
        self.problem: BufferProblem | None = None
        self.unfinished = False

    def add(self, leases: Sequence[Lease]) -> None:
        with self._lock:
            self._leases |= {lease.partition: lease for lease in leases}

    def drop(self, lease: Lease) -> None:
        with self._lock:
            self._leases.pop(lease.partition, None)

    def all(self) -> list[Lease]:
        with self._lock:
            return list(self._leases.values())


def _merged(outcomes: Sequence[PartitionOutcome]) -> list[PartitionOutcome]:
    """One outcome per partition, when a job took a partition more than once."""
    merged: dict[str, PartitionOutcome] = {}
    for new in outcomes:
        old = merged.get(new.partition)
        if old is not None:
            new = replace(  # noqa: PLW2901
                new,
                entries=old.entries + new.entries,
                rows=old.rows + new.rows,
                bytes=old.bytes + new.bytes,
                parked=old.parked + new.parked,
                replaced=old.replaced + new.replaced,
                values_replaced=old.values_replaced + new.values_replaced,
                parked_entries=old.parked_entries + new.parked_entries,
                skipped=old.skipped + new.skipped,
                fork=old.fork or new.fork,
            )
        merged[new.partition] = new
    return list(merged.values())


def _interrupted(
    outcomes: Sequence[PartitionOutcome], leases: Sequence[Lease], error: BufferProblem
) -> list[PartitionOutcome]:
    """The partitions that the buffer's own failure kept from being dealt with."""
    failure = classify(error)
    done = {o.partition for o in outcomes if o.failure is not None}
    streams = {x.partition: x.stream for x in leases if x.partition not in done}
    return [
        PartitionOutcome(stream, partition, failure=failure)
        for partition, stream in streams.items()
    ]
