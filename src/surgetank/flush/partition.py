"""Delivering a group of slices: write, acknowledge; on failure isolate the bad entry or postpone
the partition.

The group goes to the sink in one transaction. When the sink refuses data the group is halved until
the entry that it refuses stands alone; that one is parked, all others arrive, in their order.

Nothing is parked on the word of an error code alone: a sink that refuses everything is in trouble
itself. So it is tried without the data first (`Sink.probe`), and again the longer it refuses; if it
takes nothing, everything waits, and what was parked since it last took something comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from surgetank.buffer.binding import Fence
from surgetank.buffer.coordination import Ack, Coordination
from surgetank.encode.digest import mark_of
from surgetank.exceptions import BufferCorrupt, EntryRejected, EntryUnreadable, LeaseLost
from surgetank.flush.breaker import BreakerState, CircuitBreaker
from surgetank.flush.classify import classify, refused_everything, scope_of
from surgetank.flush.doubts import Doubts, Found
from surgetank.flush.policy import RetryPolicy, next_attempt
from surgetank.flush.run import Run, Trial
from surgetank.flush.sqlstates import Scope
from surgetank.model import (
    Failure,
    FailureKind,
    Lease,
    ParkedEntry,
)
from surgetank.sinks.protocol import Sink, Slice, Written
from surgetank.sinks.standing import Finding, ProgressDoubtful

_REPLACEMENTS_KEPT = 50
_DOUBTS = 8  # of one partition in one job: each is dealt with once, so this is never reached
# so often an entry waits for a failure that may be anybody's, before it is parked for it
_UNCLEAR_ATTEMPTS = 2


class Delivered(Coordination, Fence, Protocol):
    """What a delivery takes entries out of."""


class Delivery:
    """Brings slices to the sink and records the result in the buffer."""

    def __init__(
        self,
        buffer: Delivered,
        sink: Sink,
        breaker: CircuitBreaker,
        retry: RetryPolicy,
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        on_findings: Callable[[Sequence[Found]], None] = lambda _: None,
        on_recovered: Callable[[], None] = lambda: None,
    ) -> None:
        self._doubts = Doubts(buffer)
        self._on_findings = on_findings
        self._on_recovered = on_recovered
        self._stale: set[str] = set()  # partitions whose entries were read before they changed
        self._buffer = buffer
        self._sink = sink
        self._breaker = breaker
        self._retry = retry
        self._clock = clock
        self._random = random
        self._failure: Failure | None = None
        self._trial = Trial()

    def deliver(self, runs: dict[str, Run], slices: Sequence[Slice]) -> None:
        """Deal with every entry of the slices: written, parked, or its partition postponed.

        `runs` maps partition names to their runs. Raises only what the buffer raises.
        """
        todo: list[Sequence[Slice]] = [slices]
        self._trial = Trial()
        self._stale.clear()
        while todo:
            group = [
                s
                for s in todo.pop()
                if s.entries
                and s.lease.partition not in self._stale
                and not runs[s.lease.partition].closed
            ]
            if group:
                todo += reversed(self._attempt(runs, group))
            down = self._trial.broken
            if down is None and self._breaker.state() is BreakerState.OPEN:
                down = self._failure or self._elsewhere()
            if todo and down is not None:
                for part in (part for rest in todo for part in rest):
                    self._postpone(runs[part.lease.partition], down)
                return

    def _elsewhere(self) -> Failure:
        """Why the breaker is open, when another flush opened it."""
        reason = self._breaker.view().last_error or "the sink can't be reached"
        return Failure(FailureKind.TRANSIENT, reason, "DatabaseUnavailable")

    def unreadable(self, run: Run, error: EntryUnreadable) -> None:
        """Deal with a partition whose next entry can't be read: a damaged entry is parked so that
        it doesn't block its neighbours, for an unreachable fallback location it is tried again
        later.
        """
        failure = classify(error)
        if not error.damaged:
            self._postpone(run, failure)
            return
        try:
            self._park(run, run.lease, error.seq, replace(failure, kind=FailureKind.REJECTED))
        except BufferCorrupt:
            # not even that can be done: its neighbours go on, and an operator has to act
            self._postpone(run, replace(failure, kind=FailureKind.FATAL))

    def _attempt(self, runs: dict[str, Run], slices: Sequence[Slice]) -> list[Sequence[Slice]]:
        """Write once; returns what has to be tried again in smaller groups, in order."""
        try:
            written = self._sink.write(slices, buffer_id=self._buffer.id)
        except LeaseLost as error:
            return self._lost(runs, slices, error)
        except ProgressDoubtful as error:
            return self._doubtful(runs, slices, error)
        except Exception as error:  # noqa: BLE001 - classified, recorded in the buffer and told by the job
            return self._failed(runs, slices, error)
        self._sink_took()
        self._trial.accepted()
        self._acknowledge(runs, slices, written)
        return []

    def _doubtful(
        self, runs: dict[str, Run], slices: Sequence[Slice], error: ProgressDoubtful
    ) -> list[Sequence[Slice]]:
        """Find out what became of the partitions in doubt; the others of the group go on."""
        self._sink_took()  # the sink answered
        doubts = {doubt.partition: doubt for doubt in error.doubts}
        again = [part for part in slices if part.lease.partition not in doubts]
        findings: list[Found] = []
        for part in slices:
            doubt, run = doubts.get(part.lease.partition), runs[part.lease.partition]
            if doubt is None:
                continue
            run.doubts += 1
            if run.doubts > _DOUBTS:
                self._postpone(run, classify(error))
                continue
            try:
                found = self._doubts.judge(part, run.mark, doubt)
            except LeaseLost as lost:
                self._close(run, lost)
                continue
            except EntryUnreadable as unreadable:
                # the witness lies in a fallback location that is away
                self._postpone(run, classify(unreadable))
                continue
            findings.append(found)
            if found.finding is Finding.INTERRUPTED:
                again.append(replace(part, written=found.written))
                continue
            if found.finding is Finding.WENT_BACK:
                run.mark = None
            run.read_again(found.again)
            self._stale.add(part.lease.partition)
        reported = [found for found in findings if found.finding is not Finding.INTERRUPTED]
        if reported:
            self._on_findings(reported)
        return [again] if again else []

    def _acknowledge(
        self, runs: dict[str, Run], slices: Sequence[Slice], written: Sequence[Written]
    ) -> None:
        acks: list[Ack] = []
        for part, result in zip(slices, written, strict=True):
            run = runs[part.lease.partition]
            run.entries += len(part.entries)
            run.rows += result.rows
            run.fork = run.fork or result.fork
            run.bytes += result.size
            run.skipped += result.skipped
            run.mark = result.mark or mark_of(part.entries[-1])
            run.values_replaced += result.values_replaced
            run.replaced += result.replaced[: _REPLACEMENTS_KEPT - len(run.replaced)]
            run.after_seq = part.entries[-1].seq
            release = run.exhausted
            acks.append(
                Ack(
                    part.lease,
                    part.entries,
                    forget=result.forget,
                    maxima=result.maxima,
                    passing=result.passing,
                    keep=result.keep,
                    release=release,
                    mark=run.mark,
                )
            )
            run.closed = run.closed or release
        for lease in self._buffer.ack(acks):
            # The sink has the entries and skips them when the new holder writes them again.
            self._close(
                runs[lease.partition],
                LeaseLost(f"The lease of {lease.partition!r} ran out meanwhile."),
            )

    def _lost(
        self, runs: dict[str, Run], slices: Sequence[Slice], error: LeaseLost
    ) -> list[Sequence[Slice]]:
        if len(slices) > 1:  # find out whose lease it was; the others go on
            return [[part] for part in slices]
        (part,) = slices
        run, seen = runs[part.lease.partition], error.seen.get(part.lease.partition, 0)
        if part.lease.token < run.lease.token:  # it was raised for the first half of the partition
            return [[replace(part, lease=run.lease)]]
        # The sink saw a newer token, but the buffer gave none: it went back in time, and counts
        # from an older one.
        raised = (
            self._buffer.raise_token(run.lease, beyond=seen) if seen > run.lease.token else None
        )
        if raised is not None:
            run.lease, run.raised = raised, True
            return [[replace(part, lease=raised)]]
        self._close(run, error)
        return []

    @staticmethod
    def _close(run: Run, error: LeaseLost) -> None:
        # Nothing failed: whoever holds the lease now does the work and reports it.
        run.failure = replace(classify(error), kind=FailureKind.TRANSIENT)
        run.closed = True

    def _failed(
        self, runs: dict[str, Run], slices: Sequence[Slice], error: Exception
    ) -> list[Sequence[Slice]]:
        failure = self._failure = classify(error)
        scope = scope_of(error)
        if scope is Scope.SINK:
            # One that an operator has to end opens it at once: then a probe finds out, not each
            # partition's slow retry.
            self._breaker.failure(failure.message, sure=failure.kind is FailureKind.FATAL)
            self._postpone_all(runs, slices, failure)
            return []
        if (named := _named_entry(slices, error)) is not None:
            self._sink_took()  # the sink answered
            index, seq = named
            self._park(runs[slices[index].lease.partition], slices[index].lease, seq, failure)
            return [_without(slices, index, seq)]
        if not self._takes_anything(runs, slices, failure, scope):
            return []
        if len(slices) > 1:
            middle = len(slices) // 2
            return [slices[:middle], slices[middle:]]
        part = slices[0]
        run = runs[part.lease.partition]
        if len(part.entries) > 1 and scope is not Scope.PARTITION:
            middle = len(part.entries) // 2
            return [
                [replace(part, entries=part.entries[:middle])],
                [replace(part, entries=part.entries[middle:])],
            ]
        if scope is Scope.PARTITION or (scope is Scope.UNCLEAR and not _is_lasting(run, failure)):
            self._postpone(run, failure, soon=True)
            return []
        entry = self._park(
            run, part.lease, part.entries[0].seq, replace(failure, kind=FailureKind.REJECTED)
        )
        if entry is not None:
            self._trial.parked.append((run, entry))
        return []

    def _takes_anything(
        self, runs: dict[str, Run], slices: Sequence[Slice], failure: Failure, scope: Scope
    ) -> bool:
        """Whether the sink takes anything at all. If not, everything waits and what was parked
        comes back."""
        trial = self._trial
        trial.refusals += 1
        alone = len(slices) == 1 and len(slices[0].entries) == 1 and scope is not Scope.PARTITION
        # this was a probe: it must have an answer
        asked_for_all = self._breaker.state() is not BreakerState.CLOSED
        proven = not alone or trial.proves(scope)
        if trial.refusals < trial.ask_at and proven and not asked_for_all:
            return True
        try:
            self._sink.probe(buffer_id=self._buffer.id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the sink takes nothing
            trial.broken = refused_everything(failure, classify(error))
            self._breaker.failure(trial.broken.message, sure=True)
            self._take_back(trial.broken)
            self._postpone_all(runs, slices, trial.broken)
            return False
        trial.ask_at *= 2
        trial.probed = True
        trial.accepted()
        self._sink_took()
        return True

    def _take_back(self, failure: Failure) -> None:
        """Unpark what was parked since the sink last took something: it was not the data's
        fault."""
        self._buffer.unpark([entry.id for _, entry in self._trial.parked])
        for run, entry in self._trial.parked:
            run.parked.remove(entry)
            self._postpone(run, failure)
        self._trial.parked.clear()

    def _sink_took(self) -> None:
        """The sink took something, or refused it as one that answers."""
        if self._breaker.success():
            self._on_recovered()

    def _postpone_all(
        self, runs: dict[str, Run], slices: Sequence[Slice], failure: Failure
    ) -> None:
        for part in slices:
            self._postpone(runs[part.lease.partition], failure)

    def _postpone(self, run: Run, failure: Failure, *, soon: bool = False) -> None:
        """Try a partition again later; with `soon` not at the slow pace of a fatal failure."""
        if run.closed:
            return
        pace = replace(failure, kind=FailureKind.TRANSIENT) if soon else failure
        decision = next_attempt(pace, run.state.attempts, self._clock(), self._retry, self._random)
        run.failure, run.attempts, run.next_attempt_at = (
            failure,
            decision.attempts,
            decision.next_at,
        )
        run.closed = True
        try:
            self._buffer.postpone(
                run.lease,
                attempts=decision.attempts,
                next_attempt_at=decision.next_at,
                failure=failure,
            )
        except LeaseLost as error:
            self._close(run, error)

    def _park(self, run: Run, lease: Lease, seq: int, failure: Failure) -> ParkedEntry | None:
        try:
            entry = self._buffer.park(lease, seq, failure)
        except LeaseLost as error:
            self._close(run, error)
            return None
        run.parked.append(entry)
        return entry


def _is_lasting(run: Run, failure: Failure) -> bool:
    """Whether the partition has failed in the same way before, and waited."""
    before = run.state.failure
    alike = before is not None and (before.sqlstate, before.error_type) == (
        failure.sqlstate,
        failure.error_type,
    )
    return alike and run.state.attempts >= _UNCLEAR_ATTEMPTS


def _named_entry(slices: Sequence[Slice], error: Exception) -> tuple[int, int] | None:
    """Which entry the sink named as the bad one: the slice's index and the entry's seq."""
    if not isinstance(error, EntryRejected) or error.seq is None:
        return None
    for index, part in enumerate(slices):
        if part.lease.partition == error.partition and any(
            e.seq == error.seq for e in part.entries
        ):
            return index, error.seq
    return None


def _without(slices: Sequence[Slice], index: int, seq: int) -> list[Slice]:
    part = slices[index]
    rest = replace(part, entries=[e for e in part.entries if e.seq != seq])
    return [*slices[:index], rest, *slices[index + 1 :]]
