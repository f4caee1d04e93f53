"""What people are told about the state of saving. Pure: out of what buffer and breaker know,
nothing is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from surgetank.events.types import Incident
from surgetank.model import BufferDepth, Failure, FailureKind, FlushJob, ParkedEntry, PartitionState
from surgetank.notify.health import Health, Level, SinkFacts
from surgetank.streams.errors.groups import flush_reference
from surgetank.streams.stream import Streams

SAFE = "Everything is kept in the buffer"


@dataclass(frozen=True, slots=True)
class Notice:
    """A banner for a user: severity `warning` or `critical`, and in plain words what happened, what
    is safe and what to do. `detail` is the technical reason, for an operator; `reference` is the id
    of the system error, to be quoted.
    """

    severity: str
    thread_id: str | None
    message: str
    since: float | None = None
    detail: str = ""
    reference: str = ""


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """One sink: who answers there, and the state of its breaker."""

    stream: str
    name: str
    address: str
    breaker: str
    retry_at: float | None
    last_error: str | None
    reachable: bool | None = None
    version: str | None = None
    refused: bool = False
    stopped: bool = False

    @property
    def facts(self) -> SinkFacts:
        """What counts for the judgement."""
        return SinkFacts(self.stream, self.reachable, self.breaker, self.refused, self.stopped)


@dataclass(frozen=True, slots=True)
class FallbackStatus:
    """What was spilled: where to (the configured location first), how much, and since when."""

    addresses: tuple[str, ...]
    files: int
    entries: int
    bytes: int
    since: float | None
    reachable: bool | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The whole picture at one moment."""

    at: float
    node: str
    home: str
    buffer_path: str
    durability: str
    buffer: BufferDepth
    lag_s: float
    sinks: tuple[SinkStatus, ...]
    failing: tuple[PartitionState, ...]
    parked: int
    jobs: tuple[FlushJob, ...]
    notices: tuple[Notice, ...]
    flushing: bool
    health: Health
    problems: tuple[str, ...] = field(default=())
    fallback: FallbackStatus | None = None
    support_url: str | None = None

    @property
    def healthy(self) -> bool:
        """True when nothing needs attention."""
        return self.health.level is Level.OK

    def __repr__(self) -> str:
        waits = f"{self.buffer.entries} entries wait (lag {self.lag_s:.1f} s)"
        return f"<Status {self.health.level.value}: {waits}, {len(self.failing)} failing, {self.parked} parked>"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON. Stack traces stay in the jobs."""
        plain: dict[str, Any] = to_plain_data(self)
        for state in plain["failing"]:
            if state["failure"]:
                state["failure"].pop("stack_trace", None)
        plain["health"] |= {"level": self.health.level.value, "exit_code": self.health.exit_code}
        return {**plain, "healthy": self.healthy}


def to_plain_data(value: Any) -> Any:
    """Dataclasses, enums, tuples and mappings as plain values for JSON."""
    if hasattr(value, "__dataclass_fields__"):
        return to_plain_data(asdict(value))
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): to_plain_data(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain_data(v) for v in value]
    return value


def notices(
    depth: BufferDepth,
    failing: Sequence[PartitionState],
    parked: Sequence[ParkedEntry],
    sinks: Sequence[SinkStatus],
    *,
    streams: Streams,
    now: float,
    critical_after_s: float,
    fallback: FallbackStatus | None = None,
    forks: Sequence[Incident] = (),
) -> tuple[Notice, ...]:
    """The banners that users should see now; empty when all is well."""
    made = _of_sinks(depth, failing, sinks, now, critical_after_s)
    made += [
        _of_partition(state, streams, now, critical_after_s)
        for state in _gravest(failing, streams)
        if streams.by_partition(state.stream)
        or _rank(state)
        or not made  # one notice tells of a database that is away
    ]
    made += [_of_parked(entry, streams) for entry in parked]
    if depth.disk_full:
        made.append(
            Notice(
                "critical", None,
                f"The disk that holds the buffer is full: nothing new is accepted. {SAFE} and is "
                f"flushed meanwhile."
                " Free some space on that disk, or move SURGETANK_HOME to a larger one.",
                detail=f"{depth.disk_free} bytes are free",
            )
        )  # fmt: skip
    elif depth.bytes > 0.8 * depth.max_bytes or depth.entries > 0.8 * depth.max_entries:
        share = max(depth.bytes / depth.max_bytes, depth.entries / depth.max_entries)
        made.append(
            Notice(
                "critical",
                None,
                f"The buffer is {share:.0%} full; at 100 % new writes wait or fail.",
            )
        )
    if fallback is not None:
        made += _of_fallback(fallback)
    made += [
        Notice(fork.severity.value, None, fork.message, fork.since, fork.detail) for fork in forks
    ]
    return tuple(made)


def _of_sinks(
    depth: BufferDepth,
    failing: Sequence[PartitionState],
    sinks: Sequence[SinkStatus],
    now: float,
    critical_after_s: float,
) -> list[Notice]:
    """One notice for a database that is away, however many streams wait for it. A fatal failure is
    no outage: what it is about is told with its partitions.
    """
    fatal = {
        s.stream for s in failing if s.failure is not None and s.failure.kind is FailureKind.FATAL
    }
    away = {s.stream: s for s in sinks if s.breaker != "closed" and s.stream not in fatal}
    waiting = [d for d in depth.streams if d.stream in away and d.entries]
    if not waiting:
        return []
    since = min((d.oldest_at for d in waiting if d.oldest_at is not None), default=None)
    long = since is not None and now - since > critical_after_s
    reasons = (away[d.stream].last_error for d in waiting)
    return [
        Notice(
            severity="critical" if long else "warning",
            thread_id=None,
            message=f"Saving is delayed: the database can't be reached. {SAFE} "
            f"({sum(d.entries for d in waiting)} entries) and"
            " is saved by itself when the database is back; you can go on working.",
            since=since,
            detail=next((reason for reason in reasons if reason), ""),
            reference=flush_reference(FailureKind.TRANSIENT.value, "", None),
        )
    ]


def _gravest(failing: Sequence[PartitionState], streams: Streams) -> list[PartitionState]:
    """One state for each concern (a thread, a user, a whole stream): the one that an operator must
    see."""
    chosen: dict[str, PartitionState] = {}
    for state in failing:
        key = streams.concern(state.stream, state.partition).key
        old = chosen.get(key)
        if old is None or (_rank(state) > _rank(old)):
            chosen[key] = state
    return list(chosen.values())


def _rank(state: PartitionState) -> int:
    return 1 if state.failure is not None and state.failure.kind is not FailureKind.TRANSIENT else 0


def _of_partition(
    state: PartitionState, streams: Streams, now: float, critical_after_s: float
) -> Notice:
    failure = state.failure
    assert failure is not None
    since = state.failing_since or now
    critical = failure.kind is not FailureKind.TRANSIENT or now - since > critical_after_s
    if failure.kind is FailureKind.FATAL:
        what = "can't be saved before an operator has acted"
        action = failure.remedy or "see the detail, then `surgetank flush`."
    else:
        what = "is saved later: the database could not take it just now"
        action = (
            f"The next attempt follows by itself in {max(0.0, state.next_attempt_at - now):.0f} s."
        )
    concern = streams.concern(state.stream, state.partition)
    return Notice(
        severity="critical" if critical else "warning",
        thread_id=concern.thread_id,
        message=f"{concern.label} {what}. {SAFE} ({state.entries} entries). {action}",
        since=since,
        detail=failure.message,
        reference=_reference(failure),
    )


def _reference(failure: Failure) -> str:
    return flush_reference(failure.kind.value, failure.error_type, failure.sqlstate)


def _of_fallback(fallback: FallbackStatus) -> list[Notice]:
    locations, made = ", ".join(fallback.addresses), []
    if fallback.entries:
        made.append(
            Notice(
                "critical",
                None,
                f"{fallback.entries} entries lie in the fallback location {locations}. Nothing is "
                f"lost: they are read from"
                " there and saved by themselves when the database takes them. Keep the location.",
                fallback.since,
            )
        )
    if fallback.reachable is False:
        what = (
            "what lies there can't be read now"
            if fallback.entries
            else "nothing could be spilled there"
        )
        made.append(
            Notice(
                "critical",
                None,
                f"The fallback location {locations} can't be used: {what}.",
                None,
                fallback.error or "",
            )
        )
    return made


def _of_parked(entry: ParkedEntry, streams: Streams) -> Notice:
    concern = streams.concern(entry.stream, entry.partition)
    about = concern.label[0].lower() + concern.label[1:]
    return Notice(
        severity="critical",
        thread_id=concern.thread_id,
        message=f"One entry of {about} was refused by the database and set aside. It is kept and stays"
        f" readable; see `surgetank parked show {entry.id}`.",
        since=entry.parked_at,
        detail=entry.failure.message,
        reference=_reference(entry.failure),
    )
