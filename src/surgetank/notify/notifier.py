"""The notifier: what a flush did, told to the people it concerns, once per incident.

What is wrong is judged in `incidents.py`, said in `wording.py`, and told through `channels.py`. Which
incidents are going on is kept beside the buffer (`EventLog`), so that a restart or a second worker
doesn't tell the same thing twice.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypedDict, assert_never

from surgetank.buffer.coordination import Backlog, Parking
from surgetank.buffer.upkeep import Damages
from surgetank.events.protocol import EventLog
from surgetank.events.types import EventType, Incident, Original, Severity
from surgetank.flush.classify import is_of_the_sink
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
    FailureGroup,
    FailureKind,
    FlushJob,
    Fork,
    PartitionOutcome,
    PartitionState,
)
from surgetank.notify import wording
from surgetank.notify.banners import Banners
from surgetank.notify.channels import Telling
from surgetank.notify.flush_news import (
    flush_news,
    news_context,
    news_of_damage,
    news_of_fork,
    news_of_problem,
)
from surgetank.notify.incidents import (
    ALONE,
    FORKED,
    PARKED,
    Alike,
    Facts,
    Trouble,
    alike,
    diff,
    is_judged,
    judge,
    wide_of,
)
from surgetank.notify.news import Channel, News
from surgetank.streams.errors.groups import flush_reference
from surgetank.streams.stream import Streams

_NO_TROUBLE = (
    "LeaseLost",
    "StillWaiting",
)  # another worker has the partition: it tells what becomes of it
FORK_SHOWN_S = 86_400.0
# After so long it is asked again whether a sink's trouble was told: another process may have ended it
_REMEMBERED_S = 5.0


class _Moment(TypedDict):
    now: float
    critical_after_s: float


class _KnownSink(NamedTuple):
    severity: Severity
    at: float


@dataclass(slots=True)
class _Job:
    """What a job under way has reported."""

    recovered: bool = False
    covered: tuple[Failure, float] | None = None  # told of as its sink's, with since when
    alikes: Counter[Alike] = field(default_factory=Counter)


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
        self.telling = Telling(channels, clock)
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
        self._banners = Banners(events, buffer, streams, clock=clock)
        self._jobs: dict[str, _Job] = {}
        self._sinks: dict[str, _KnownSink] = {}
        self._down: dict[str, str] = {}
        self._wide: set[Alike] = set()  # what was about sinks when it was last judged
        # guards what is counted and remembered: flushes, alerts and callers tell from several threads
        self._lock = threading.Lock()

    def tell(self, news: News) -> None:
        """Tell every channel. Never raises for a channel's failure."""
        self.telling.tell(news)

    # -- what flushing reports

    def on_flush(self, event: FlushEvent) -> None:
        """Tell what a flush did, as far as it concerns people.

        It is called for each partition, on the flushing thread: of what concerns a whole sink only
        the first one costs more than a comparison.
        """
        match event:
            case PartitionFailed(job=job, outcome=outcome, failure=failure):
                if failure.error_type not in _NO_TROUBLE:
                    self._partition_failed(job, outcome, failure)
            case PartitionRecovered(job=job):
                with self._lock:
                    self._jobs.setdefault(job.id, _Job()).recovered = True
            case EntryParked(job=job, entry=entry):
                self._judge(Facts(**self._now(), parked=[entry]), job)
            case ValuesReplaced(job=job, outcome=outcome):
                self._values_replaced(job, outcome)
            case PartitionForked(job=job, fork=fork):
                self._forked(job, fork)
            case JobFinished(job=job):
                self._job_finished(job)
            case _:
                assert_never(event)

    def _partition_failed(self, job: FlushJob, outcome: PartitionOutcome, failure: Failure) -> None:
        since = outcome.failing_since or self._clock()
        with self._lock:
            mine = self._jobs.setdefault(job.id, _Job())
            covered = mine.covered
        # thousands of partitions that failed in one transaction have one failure
        if covered is not None and covered[0] is failure and since >= covered[1]:
            return
        group = FailureGroup(
            stream=outcome.stream,
            failure=failure,
            partitions=1,
            entries=0,
            bytes=0,
            since=since,
            attempts=outcome.attempts,
            next_attempt_at=outcome.next_attempt_at or 0.0,
            partition=outcome.partition,
        )
        if self._is_wide(mine, outcome.stream, failure):
            self._sink_failed(job, group)
            mine.covered = (failure, since)
            return
        state = self._buffer.state(outcome.stream, outcome.partition) or PartitionState(
            outcome.stream, outcome.partition, 0, 0, group.since, attempts=outcome.attempts
        )
        failed = replace(state, failure=failure, failing_since=group.since)
        self._judge(Facts(**self._now(), states=[failed]), job)

    def _is_wide(self, job: _Job, stream: str, failure: Failure) -> bool:
        """Whether a failure is about the sink: by what it says, or because so many partitions of
        the job have failed like this."""
        if is_of_the_sink(failure):
            return True
        with self._lock:
            alikes = job.alikes
            alikes[alike(stream, failure)] += 1
            count = alikes[alike(stream, failure)]
            return count > ALONE or alike(stream, failure) in self._wide

    def _sink_failed(self, job: FlushJob, group: FailureGroup) -> None:
        facts = Facts(
            **self._now(),
            # as many as make it the sink's, if its words don't
            groups=[replace(group, partitions=ALONE + 1)],
            down={group.stream: group.failure.message},
        )
        (trouble,) = judge(facts, self._streams)
        with self._lock:
            known = self._sinks.get(trouble.key)
            if (
                known is not None
                and known.severity.rank >= trouble.severity.rank
                and 0 <= facts.now - known.at < _REMEMBERED_S
            ):
                return
            self._sinks[trouble.key] = _KnownSink(trouble.severity, facts.now)
        self._judge(replace(facts, waiting=self._buffer.depth().streams), job)

    def _job_finished(self, job: FlushJob) -> None:
        with self._lock:
            ended = self._jobs.pop(job.id, None)
            mine = self._streams.sink_of(job.stream)
            down = {s: why for s, why in self._down.items() if self._streams.sink_of(s) != mine}
        if ended is not None and ended.recovered:
            self.review(down)

    def _now(self) -> _Moment:
        return {"now": self._clock(), "critical_after_s": self._critical_after_s}

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
            self.tell(news_of_fork(fork, message, self._of_job(job)))

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
        with self._lock:
            self._down = dict(down)
        self.review(down)
        now = self._clock()
        for incident in self.forks():  # it happened, and nothing mends it: it is shown for a while
            if not 0 <= now - incident.since < FORK_SHOWN_S:
                self._events.clear_incident(incident.key)

    def review(self, down: Mapping[str, str]) -> None:
        """Judge all that is known, and tell what has changed."""
        before = [incident for incident in self._events.incidents() if is_judged(incident)]
        groups = self._buffer.failures()
        if not (before or groups or down):
            with self._lock:
                self._wide = set()
            return
        depth = self._buffer.depth()
        facts = Facts(
            **self._now(),
            groups=groups,
            waiting=depth.streams,
            down=down,
            states=self._states(before, groups),
            parked=self._buffer.parked() if any(d.parked for d in depth.streams) else (),
            known=[incident.key for incident in before],
        )
        with self._lock:
            self._wide = wide_of(facts)
        changes = diff(before, judge(facts, self._streams), facts, self._streams)
        for trouble in changes.raised:
            self._raise(trouble, None)
        for trouble in changes.counted:
            self._events.raise_incident(self._incident(trouble))
        for incident in changes.absorbed:
            self._events.clear_incident(incident.key)
        for incident in changes.ended:
            if self._events.clear_incident(incident.key) is not None:
                self._recovered(incident)
        with self._lock:
            for incident in changes.ended:
                self._sinks.pop(incident.key, None)

    def _states(
        self, before: Sequence[Incident], groups: Sequence[FailureGroup]
    ) -> list[PartitionState]:
        """The partitions that incidents are about, and one of each group of a few that fail."""
        wanted: dict[tuple[str, str], None] = {}
        for incident in before:
            if incident.is_of_sink or incident.key.startswith(PARKED):
                continue
            partition = incident.key.partition(":")[2]
            if not self._streams.by_partition(incident.stream):
                failing = self._buffer.states(incident.stream, failing=True, limit=1)
                wanted.update(dict.fromkeys((s.stream, s.partition) for s in failing))
                continue
            for stream in self._streams.sharing(incident.stream):
                wanted[stream, partition] = None
        for group in groups:
            if group.partitions <= ALONE and not is_of_the_sink(group.failure):
                wanted[group.stream, group.partition] = None
        found = (self._buffer.state(stream, partition) for stream, partition in wanted)
        return [state for state in found if state is not None]

    # -- incidents

    def _judge(self, facts: Facts, job: FlushJob) -> None:
        for trouble in judge(facts, self._streams):
            self._raise(trouble, job)

    def _incident(self, trouble: Trouble) -> Incident:
        message = wording.trouble(trouble)
        if trouble.severity is Severity.CRITICAL and self._quote_reference:
            message = wording.quoting(message, trouble.failure)
        return Incident(
            key=trouble.key,
            stream=trouble.stream,
            thread_id=trouble.thread_id,
            severity=trouble.severity,
            since=trouble.since,
            message=message,
            detail=trouble.failure.message,
            public=wording.public(trouble.failure),
            affected=trouble.affected,
        )

    def _raise(self, trouble: Trouble, job: FlushJob | None) -> None:
        """Tell of trouble, unless it has been told already."""
        incident = self._incident(trouble)
        if self._events.raise_incident(incident):
            context = {
                **(self._of_job(job) if job is not None else self._context()),
                **news_context(trouble),
            }
            self.tell(flush_news(incident, trouble.failure, context))

    def _recovered(self, incident: Incident) -> None:
        self._heal_errors(incident)
        thread = incident.thread_id
        if thread is not None and self._banners.of_threads([thread])[thread]:
            return  # its banner stands for something else that is not over
        lasted = max(0.0, self._clock() - incident.since)
        if incident.key.startswith(PARKED):
            message = wording.parked_over(lasted)
        else:
            partition = incident.key.partition(":")[2]
            label = self._streams.concern(incident.stream, partition).label
            message = wording.recovered(incident, label, lasted)
        self.tell(
            News(
                message,
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
