"""The notifier: what a flush did, told to the people it concerns, once per incident and through
every channel.

Which incidents are going on is kept beside the buffer (`EventLog`), so that a restart or a second
worker doesn't tell the same thing twice. Channels are told one after the other; one that fails
never stops the next, and its own failure is recorded and told by the others.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, assert_never

from surgetank.buffer.coordination import Backlog, Parking
from surgetank.buffer.upkeep import Damages
from surgetank.events.protocol import EventLog
from surgetank.events.types import EventType, Incident, Original, Severity
from surgetank.flush.events import (
    EntryParked,
    FlushEvent,
    JobFinished,
    PartitionFailed,
    PartitionForked,
    PartitionRecovered,
    ValuesReplaced,
)
from surgetank.model import (
    Failure,
    FailureKind,
    FlushJob,
    Fork,
    ParkedEntry,
    PartitionOutcome,
    PartitionState,
)
from surgetank.notify import wording
from surgetank.notify.flush_news import flush_news, news_of_damage, news_of_problem
from surgetank.notify.news import Channel, News
from surgetank.streams.errors.groups import flush_reference
from surgetank.streams.stream import Streams

_NO_TROUBLE = (
    "LeaseLost",
    "StillWaiting",
)  # another worker has the partition: it tells what becomes of it
_SWEPT = 1000
TIME = "time:"
ENDED_ELSEWHERE = ("fallback:", TIME)  # by `SpillWatch` and `TimeTravels`
FORKED = "fork:"  # keys of incidents about two buffers on one thread
FORK_SHOWN_S = 86_400.0


class Watched(Backlog, Parking, Damages, Protocol):
    """What the notifier looks at."""


class Notifier:
    """Listens to flushes and tells all channels, in the order they were given."""

    def __init__(
        self,
        channels: Sequence[Channel],
        events: EventLog,
        buffer: Watched,
        *,
        streams: Streams,
        clock: Callable[[], float],
        critical_after_s: float,
        keep_originals: bool = False,
        context: Callable[[], Mapping[str, Any]] = dict,
        quote_reference: bool = True,
        heal: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._channels = tuple(channels)
        self._events = events
        self._buffer = buffer
        self._streams = streams
        self._clock = clock
        self._critical_after_s = critical_after_s
        self._keep_originals = keep_originals
        self._context = context
        # in the banner, when there is no address to click at
        self._quote_reference = quote_reference
        self._heal = heal
        self.failures: deque[tuple[float, str, str]] = deque(maxlen=100)
        self._deliveries: dict[tuple[str, bool], int] = {}
        # flushes, alerts and callers of their own tell from several threads
        self._counting = threading.Lock()

    @property
    def channels(self) -> list[str]:
        """Names of the channels, in the order in which they are told."""
        return [channel.name for channel in self._channels]

    # -- telling

    def tell(self, news: News) -> None:
        """Tell every channel. Never raises for a channel's failure: that is recorded, and told in
        its turn."""
        self._tell(news, self._channels)

    def _tell(self, news: News, channels: Sequence[Channel]) -> None:
        for channel in channels:
            try:
                channel.tell(news)
                self._count(channel.name, ok=True)
            except Exception as error:  # noqa: BLE001 - isolation is the promise; the failure is kept and told
                self._count(channel.name, ok=False)
                self._channel_failed(channel, error, channels)

    def _channel_failed(
        self, channel: Channel, error: Exception, delivered: Sequence[Channel]
    ) -> None:
        self.failures.append((self._clock(), channel.name, f"{type(error).__name__}: {error}"))
        others = [other for other in delivered if other is not channel]
        # what fails while it tells of a failure is only recorded
        if len(delivered) == len(self._channels):
            news = News(
                f"The notification channel {channel.name!r} failed: {error}",
                Severity.ERROR,
                error_type="notification_failed",
                detail=str(error),
                stack_trace="".join(traceback.format_exception(error)),
                group=(channel.name, type(error).__name__),
            )
            self._tell(news, others)

    def _count(self, channel: str, *, ok: bool) -> None:
        with self._counting:
            self._deliveries[channel, ok] = self._deliveries.get((channel, ok), 0) + 1

    @property
    def deliveries(self) -> dict[tuple[str, bool], int]:
        """How often each channel was told, by whether it took it."""
        with self._counting:
            return dict(self._deliveries)

    # -- what flushing reports

    def on_flush(self, event: FlushEvent) -> None:
        """Tell what a flush did, as far as it concerns people."""
        match event:
            case PartitionFailed(job=job, outcome=outcome, failure=failure):
                if failure.error_type not in _NO_TROUBLE:
                    self._partition_failed(job, outcome, failure)
            case PartitionRecovered(outcome=outcome):
                self._end_incident(outcome.stream, outcome.partition)
            case EntryParked(job=job, entry=entry):
                self._entry_parked(job, entry)
            case ValuesReplaced(job=job, outcome=outcome):
                self._values_replaced(job, outcome)
            case PartitionForked(job=job, fork=fork):
                self._forked(job, fork)
            case JobFinished():
                pass  # the job's record tells it
            case _:
                assert_never(event)

    def _partition_failed(self, job: FlushJob, outcome: PartitionOutcome, failure: Failure) -> None:
        since = outcome.failing_since or self._clock()
        state = self._buffer.state(outcome.stream, outcome.partition)
        self._trouble(
            outcome.stream,
            outcome.partition,
            failure,
            since,
            state,
            job=job,
            attempts=outcome.attempts,
        )

    def _entry_parked(self, job: FlushJob, entry: ParkedEntry) -> None:
        """An entry was set aside: always critical, and news of its own."""
        thread = self._streams.thread_of(entry.stream, entry.partition)
        message = wording.parked(entry)
        if self._quote_reference:
            message = wording.quoting(message, entry.failure)
        incident = Incident(
            key=f"parked:{entry.id}",
            stream=entry.stream,
            thread_id=thread,
            severity=Severity.CRITICAL,
            since=entry.parked_at,
            message=message,
            detail=entry.failure.message,
            public=wording.public(entry.failure),
        )
        if self._events.raise_incident(incident):
            context = {
                **self._of_job(job),
                "partition": entry.partition,
                "seq": entry.seq,
                "parked_id": entry.id,
                "bytes": entry.bytes,
                "entries": 1,
                "retries": entry.retries,
            }
            self.tell(flush_news(message, Severity.CRITICAL, thread, entry.failure, context))

    def _values_replaced(self, job: FlushJob, outcome: PartitionOutcome) -> None:
        """Values that JSON can't carry were replaced in projections: a line at WARNING in the
        thread's log."""
        thread = self._streams.thread_of(outcome.stream, outcome.partition)
        if self._keep_originals:
            self._events.keep_originals(
                [
                    Original(
                        stream=outcome.stream,
                        partition=outcome.partition,
                        job=job.id,
                        path=r.path,
                        reason=r.reason,
                        original=r.original,
                        at=self._clock(),
                    )
                    for r in outcome.replaced
                ]
            )
        context = {
            "job": job.id,
            "replaced": [f"{r.path}: {r.reason}" for r in outcome.replaced[:20]],
        }
        self.tell(News(wording.replaced(outcome), Severity.WARNING, thread, context=context))

    def _forked(self, job: FlushJob, fork: Fork) -> None:
        """Two buffers wrote to one thread: an incident of its own, for operators."""
        now, message = self._clock(), wording.forked(fork)
        incident = Incident(
            key=f"{FORKED}{fork.thread_id}",
            stream=job.stream,
            thread_id=None,
            severity=Severity.CRITICAL,
            since=now,
            message=message,
        )
        if self._events.raise_incident(incident):
            context = {**self._of_job(job), **fork._asdict(), "remedy": wording.FORK_REMEDY}
            self.tell(
                News(
                    message,
                    Severity.CRITICAL,
                    fork.thread_id,
                    error_type="thread_forked",
                    detail=wording.FORK_REMEDY,
                    context=context,
                    group=("thread_forked", fork.thread_id),
                )
            )

    def worker_lost(self, job: FlushJob) -> None:
        """A worker went silent in the middle of a job."""
        self.tell(
            News(
                str(job.result.get("message", "A worker went silent.")),
                Severity.WARNING,
                error_type="flush_worker_lost",
                context=self._of_job(job),
                group=(job.stream,),
            )
        )

    def forks(self) -> list[Incident]:
        """Threads that two buffers wrote to lately."""
        return [
            incident for incident in self._events.incidents() if incident.key.startswith(FORKED)
        ]

    # -- time passes

    def sweep(self, down: Mapping[str, str]) -> None:
        """Escalate what lasts, raise what waits for a sink that is down, end what is over.

        `down` maps the streams whose sink can't be reached just now to the reason. To be called
        about once a second.
        """
        now = self._clock()
        for stream, reason in down.items():
            for state in self._buffer.states(stream, limit=_SWEPT):
                if state.failure is None and now - state.oldest_at > 1.0:
                    failure = Failure(FailureKind.TRANSIENT, reason, "DatabaseUnavailable")
                    self._trouble(stream, state.partition, failure, state.oldest_at, state)
        parked: set[int] | None = None
        for incident in self._events.incidents():
            if incident.key.startswith(ENDED_ELSEWHERE):
                continue
            # it happened, and nothing mends it: it is shown for a while
            if incident.key.startswith(FORKED):
                if not 0 <= now - incident.since < FORK_SHOWN_S:
                    self._events.clear_incident(incident.key)
                continue
            partition = incident.key.partition(":")[2]
            if incident.key.startswith("parked:"):
                if parked is None:
                    parked = {entry.id for entry in self._buffer.parked()}
                self._end_parked(incident, is_over=int(partition) not in parked)
                continue
            alive = self._worst(incident, partition, down)
            if alive is None:
                self._end_incident(incident.stream, partition)
            elif (
                incident.severity is not Severity.CRITICAL
                and now - incident.since > self._critical_after_s
            ):
                failure = alive.failure or Failure(
                    FailureKind.TRANSIENT, incident.detail, "DatabaseUnavailable"
                )
                self._trouble(alive.stream, partition, failure, incident.since, alive)

    def _worst(
        self, incident: Incident, partition: str, down: Mapping[str, str]
    ) -> PartitionState | None:
        """The state that keeps an incident alive: something waits and failed, or its sink is
        down."""
        states: list[PartitionState] = []
        if not self._streams.by_partition(incident.stream):
            states = self._buffer.states(incident.stream, failing=True, limit=1)
        else:
            for stream in self._streams.sharing(incident.stream):
                state = self._buffer.state(stream, partition)
                states += [state] if state is not None else []
        alive = (s for s in states if s.failure is not None or (s.stream in down and s.entries))
        return next(alive, None)

    # -- incidents

    def _trouble(
        self,
        stream: str,
        partition: str,
        failure: Failure,
        since: float,
        state: PartitionState | None,
        *,
        job: FlushJob | None = None,
        attempts: int = 0,
    ) -> None:
        key, thread, label = self._streams.concern(stream, partition)
        lasting = self._clock() - since > self._critical_after_s
        hard = failure.kind is not FailureKind.TRANSIENT or lasting
        if not self._streams.by_partition(stream) and not hard:
            return  # a passing outage is told by the partitions that it concerns, not once more of the stream
        severity = Severity.CRITICAL if hard else Severity.WARNING
        message = wording.trouble(thread, label, failure, state, lasting=lasting)
        if hard and self._quote_reference:
            message = wording.quoting(message, failure)
        if not self._events.raise_incident(
            Incident(
                key=key,
                stream=stream,
                thread_id=thread,
                severity=severity,
                since=since,
                message=message,
                detail=failure.message,
                public=wording.public(failure),
            )
        ):
            return
        context = {
            **(self._of_job(job) if job is not None else self._context()),
            "stream": stream,
            "partition": partition,
            "attempts": attempts or (state.attempts if state else 0),
            "entries": state.entries if state else 0,
            "bytes": state.bytes if state else 0,
            "failing_since": since,
        }
        self.tell(flush_news(message, severity, thread, failure, context))

    def _end_incident(self, stream: str, partition: str) -> None:
        """End the incident of a partition that is well again, unless another stream of its thread
        still fails."""
        if self._streams.by_partition(stream) and any(
            state is not None and state.failure is not None
            for state in (
                self._buffer.state(other, partition) for other in self._streams.sharing(stream)
            )
        ):
            return
        concern = self._streams.concern(stream, partition)
        incident = self._events.clear_incident(concern.key)
        if incident is not None:
            self._recovered(incident, concern.label)

    def _end_parked(self, incident: Incident, *, is_over: bool) -> None:
        if is_over and self._events.clear_incident(incident.key) is not None:
            self._recovered(incident, "What was set aside")

    def _recovered(self, incident: Incident, label: str) -> None:
        self._heal_errors(incident)
        if incident.thread_id is not None and any(
            other.thread_id == incident.thread_id for other in self._events.incidents()
        ):
            return  # its banner stands for something else that is not over
        lasted = max(0.0, self._clock() - incident.since)
        self.tell(
            News(
                wording.recovered(incident, label, lasted),
                Severity.INFO,
                incident.thread_id,
                EventType.FLUSH_RECOVERED,
                context={"since": incident.since, "lasted_s": round(lasted, 3)},
            )
        )

    def tell_damage(self) -> None:
        """Tell what the buffer found damaged since the last call."""
        found = self._buffer.damage(new=True)
        for damage in found:
            thread = self._streams.thread_of(damage.stream, damage.partition)
            self.tell(news_of_damage(damage, thread, self._context()))
        if found:
            self._buffer.damage_announced([damage.id for damage in found])

    def _heal_errors(self, incident: Incident) -> None:
        """The system errors that told of it are over, unless something else that lasts was told by
        the same."""
        mine = {
            incident.public.reference,
            flush_reference(FailureKind.TRANSIENT.value, "", None),
        } - {""}
        for reference in mine - {other.public.reference for other in self._events.incidents()}:
            self._heal(reference)

    def _of_job(self, job: FlushJob) -> dict[str, Any]:
        return {
            **self._context(),
            "stream": job.stream,
            "job": job.id,
            "trigger": job.trigger,
            "node": job.node,
        }

    def problem(self, error: BaseException, trace: str, *, where: str) -> None:
        """Something unexpected outside a flush (the flush thread, a monitor): an error of its
        own."""
        self.tell(news_of_problem(error, trace, where=where, context=self._context()))
