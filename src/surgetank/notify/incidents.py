"""What is wrong with saving, and how bad it is: one judgement for notifier, status and alerts. Pure.

`judge` says what is wrong at one moment, `diff` what that changes in the incidents that people were
told of. A sink that takes nothing is one trouble, however many partitions wait for it: the banner
of each thread is derived from it (`banners.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from surgetank.events.types import REFUSED, SINK, Incident, Severity
from surgetank.flush.classify import is_of_the_sink
from surgetank.model import (
    Failure,
    FailureGroup,
    FailureKind,
    ParkedEntry,
    PartitionState,
    StreamDepth,
)
from surgetank.streams.stream import Streams

ALONE = 20  # so many partitions of a stream that fail alike are told one by one; more are one
NEARLY_FULL = 0.8  # of the buffer: from here on it is told
PARKED = "parked:"
ENDED_ELSEWHERE = FALLBACK, TIME, FORKED = "fallback:", "time:", "fork:"  # by who raises them
_WAITED_S = 1.0  # what waits for less than this is no trouble yet


class Subject(StrEnum):
    """What trouble is about: a sink and all that waits for it, one partition, or one entry."""

    SINK = "sink"
    PARTITION = "partition"
    ENTRY = "entry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known at one moment. `down` maps streams whose sink can't be reached to the reason,
    `waiting` is needed for these, and `known` are the keys of incidents that were told.

    `groups` counts all that fails; `states` are the partitions that are looked at one by one.
    """

    now: float
    critical_after_s: float
    groups: Sequence[FailureGroup] = ()
    waiting: Sequence[StreamDepth] = ()
    down: Mapping[str, str] = field(default_factory=dict)
    states: Sequence[PartitionState] = ()
    parked: Sequence[ParkedEntry] = ()
    known: Collection[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One thing that is wrong. `label` is what it is called for operators; `affected` is how many
    partitions it concerns (of the stream with the most, for streams that share theirs).
    """

    key: str
    subject: Subject
    stream: str
    severity: Severity
    since: float
    failure: Failure
    label: str
    lasting: bool = False
    partition: str | None = None
    thread_id: str | None = None
    affected: int = 1
    unit: str = "partition"  # what those are called
    entries: int = 0
    bytes: int = 0
    attempts: int = 0
    next_attempt_at: float = 0.0
    parked: ParkedEntry | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What a judgement changes: `raised` is new or graver than it was told, `counted` concerns
    another number of partitions, `ended` is over, and `absorbed` is part of a sink's trouble now.
    """

    raised: Sequence[Trouble]
    counted: Sequence[Trouble]
    ended: Sequence[Incident]
    absorbed: Sequence[Incident]


def lasts(since: float, now: float, critical_after_s: float) -> bool:
    """Whether trouble has lasted so long that somebody must act."""
    return now - since > critical_after_s


def severity_of(failure: Failure, *, lasting: bool) -> Severity:
    """A passing failure is a warning until it lasts; any other is critical at once."""
    passing = failure.kind is FailureKind.TRANSIENT and not lasting
    return Severity.WARNING if passing else Severity.CRITICAL


def judge(facts: Facts, streams: Streams) -> list[Trouble]:
    """What is wrong: sinks first, then single partitions, then parked entries."""
    wide = wide_of(facts)
    return [
        *_of_sinks(facts, streams, wide),
        *_of_partitions(facts, streams, wide),
        *(_of_parked(entry, streams) for entry in facts.parked),
    ]


def is_judged(incident: Incident) -> bool:
    """Whether `judge` decides when this incident is over."""
    return not incident.key.startswith(ENDED_ELSEWHERE)


def streams_of(incident: Incident, streams: Streams) -> list[str]:
    """The streams that wait for the sink of an incident."""
    sink = incident.key.partition(":")[2]
    return [name for name in streams if streams.sink_of(name) == sink]


def diff(
    before: Sequence[Incident], now: Sequence[Trouble], facts: Facts, streams: Streams
) -> Changes:
    """What has to be done about it. `before` are the incidents that people were told of, of those
    that are judged."""
    old = {incident.key: incident for incident in before}
    current = {trouble.key for trouble in now}
    over = [incident for incident in before if incident.key not in current]
    failing = {
        streams.concern(state.stream, state.partition).key
        for state in facts.states
        if state.failure is not None or state.stream in facts.down
    }
    raised, counted = list[Trouble](), list[Trouble]()
    for trouble in now:
        known = old.get(trouble.key)
        if known is None or known.severity.rank < trouble.severity.rank:
            raised.append(trouble)
        elif trouble.subject is Subject.SINK and known.affected != trouble.affected:
            counted.append(trouble)
    return Changes(
        raised=raised,
        counted=counted,
        ended=[incident for incident in over if incident.key not in failing],
        absorbed=[incident for incident in over if incident.key in failing],
    )


Alike = tuple[str, FailureKind, str, str | None]


def alike(stream: str, failure: Failure) -> Alike:
    """What two failures have in common that are one for people."""
    return (stream, failure.kind, failure.error_type, failure.sqlstate)


def wide_of(facts: Facts) -> set[Alike]:
    """Failures that are about the sink: by what they say, or because so many partitions have
    them."""
    counts: dict[Alike, int] = {}
    found: set[Alike] = set()
    for stream, failure, partitions in _failures(facts):
        key = alike(stream, failure)
        counts[key] = counts.get(key, 0) + partitions
        if is_of_the_sink(failure) or counts[key] > ALONE:
            found.add(key)
    return found


def _failures(facts: Facts) -> Iterator[tuple[str, Failure, int]]:
    for group in facts.groups:
        yield group.stream, group.failure, group.partitions
    for state in facts.states:
        if state.failure is not None:
            yield state.stream, state.failure, 0  # counted in its group


def _of_sinks(facts: Facts, streams: Streams, wide: set[Alike]) -> Iterator[Trouble]:
    for sink in dict.fromkeys(streams.sink_of(name) for name in streams):
        names = [name for name in streams if streams.sink_of(name) == sink]
        mine = [g for g in facts.groups if g.stream in names and alike(g.stream, g.failure) in wide]
        refused = [group for group in mine if group.failure.kind is FailureKind.FATAL]
        failed = [group for group in mine if group.failure.kind is not FailureKind.FATAL]
        refusing = {group.stream for group in refused}
        key = f"{SINK}{sink}"
        silent = [
            depth
            for depth in facts.waiting
            if depth.stream in names
            and depth.stream in facts.down
            and depth.stream not in refusing  # that is no outage
            and depth.oldest_at is not None
            and depth.entries
            and (key in facts.known or facts.now - depth.oldest_at > _WAITED_S)
        ]
        if refused:
            yield _of_sink(f"{REFUSED}{sink}", refused, [], facts, streams)
        if failed or silent:
            yield _of_sink(key, failed, silent, facts, streams)


def _of_sink(
    key: str,
    groups: Sequence[FailureGroup],
    silent: Sequence[StreamDepth],
    facts: Facts,
    streams: Streams,
) -> Trouble:
    """One trouble for all that waits for a sink."""
    since = min([*(g.since for g in groups), *(d.oldest_at or facts.now for d in silent)])
    if groups:
        failure = max(groups, key=lambda group: group.partitions).failure
    else:
        reason = facts.down[silent[0].stream]
        failure = Failure(FailureKind.TRANSIENT, reason, "DatabaseUnavailable")
    names = dict.fromkeys([*(g.stream for g in groups), *(d.stream for d in silent)])
    counts = {name: _count(name, groups, facts) for name in names}
    affected: dict[str, int] = {}
    for name, (partitions, _, _) in counts.items():
        if streams.by_partition(name):
            subject = streams[name].subject
            affected[subject] = max(affected.get(subject, 0), partitions)
    lasting = lasts(since, facts.now, facts.critical_after_s)
    stream = next(iter(names))
    return Trouble(
        key=key,
        subject=Subject.SINK,
        stream=stream,
        severity=severity_of(failure, lasting=lasting),
        since=since,
        failure=failure,
        label=streams.label_of_sink(stream),
        lasting=lasting,
        affected=sum(affected.values()),
        unit=next(iter(affected)) if len(affected) == 1 else "partition",
        entries=sum(entries for _, entries, _ in counts.values()),
        bytes=sum(size for _, _, size in counts.values()),
        attempts=max((group.attempts for group in groups), default=0),
        next_attempt_at=min((group.next_attempt_at for group in groups), default=0.0),
    )


def _count(stream: str, groups: Iterable[FailureGroup], facts: Facts) -> tuple[int, int, int]:
    """Partitions, entries and bytes of a stream that wait: all of them while its sink is down."""
    for depth in facts.waiting:
        if depth.stream == stream and stream in facts.down:
            return depth.partitions, depth.entries, depth.bytes
    mine = [group for group in groups if group.stream == stream]
    return (
        sum(group.partitions for group in mine),
        sum(group.entries for group in mine),
        sum(group.bytes for group in mine),
    )


def _of_partitions(facts: Facts, streams: Streams, wide: set[Alike]) -> list[Trouble]:
    """The gravest trouble of each concern (a thread, a user, a stream whose partitions mean nothing
    to people)."""
    found: dict[str, Trouble] = {}
    for state in facts.states:
        if state.failure is None or alike(state.stream, state.failure) in wide:
            continue
        trouble = _of_partition(state, state.failure, facts, streams)
        if not streams.by_partition(state.stream) and trouble.severity is Severity.WARNING:
            continue  # it passes, and nobody knows such a partition by name
        old = found.get(trouble.key)
        if old is None or old.severity.rank < trouble.severity.rank:
            found[trouble.key] = trouble
    return list(found.values())


def _of_partition(
    state: PartitionState, failure: Failure, facts: Facts, streams: Streams
) -> Trouble:
    since = state.failing_since if state.failing_since is not None else facts.now
    lasting = lasts(since, facts.now, facts.critical_after_s)
    concern = streams.concern(state.stream, state.partition)
    return Trouble(
        key=concern.key,
        subject=Subject.PARTITION,
        stream=state.stream,
        severity=severity_of(failure, lasting=lasting),
        since=since,
        failure=failure,
        label=concern.label,
        lasting=lasting,
        partition=state.partition,
        thread_id=concern.thread_id,
        entries=state.entries,
        bytes=state.bytes,
        attempts=state.attempts,
        next_attempt_at=state.next_attempt_at,
    )


def _of_parked(entry: ParkedEntry, streams: Streams) -> Trouble:
    concern = streams.concern(entry.stream, entry.partition)
    return Trouble(
        key=f"{PARKED}{entry.id}",
        subject=Subject.ENTRY,
        stream=entry.stream,
        severity=Severity.CRITICAL,
        since=entry.parked_at,
        failure=entry.failure,
        label=concern.label,
        partition=entry.partition,
        thread_id=concern.thread_id,
        entries=1,
        bytes=entry.bytes,
        parked=entry,
    )
