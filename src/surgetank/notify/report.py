"""What people are told about the state of saving. Pure: out of what buffer and breaker know,
nothing is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from surgetank.events.types import Incident
from surgetank.model import BufferDepth, FlushJob, PartitionState
from surgetank.notify import wording
from surgetank.notify.health import Health, Level, SinkFacts
from surgetank.notify.incidents import NEARLY_FULL, Facts, Trouble, judge
from surgetank.streams.errors.groups import flush_reference
from surgetank.streams.stream import Streams


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
    if isinstance(value, Mapping):
        return {str(k): to_plain_data(v) for k, v in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return {name: to_plain_data(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [to_plain_data(v) for v in value]
    return value


def notices(
    facts: Facts,
    depth: BufferDepth,
    *,
    streams: Streams,
    fallback: FallbackStatus | None = None,
    forks: Sequence[Incident] = (),
) -> tuple[Notice, ...]:
    """The banners that operators should see now; empty when all is well."""
    made = [_of_trouble(trouble, facts.now) for trouble in judge(facts, streams)]
    if depth.disk_full:
        free = f"{depth.disk_free} bytes are free"
        made.append(Notice("critical", None, wording.DISK_FULL, detail=free))
    elif depth.fullness >= NEARLY_FULL:
        made.append(Notice("critical", None, wording.filling(depth)))
    if fallback is not None:
        made += _of_fallback(fallback)
    made += [
        Notice(fork.severity.value, None, fork.message, fork.since, fork.detail) for fork in forks
    ]
    return tuple(made)


def _of_trouble(trouble: Trouble, now: float) -> Notice:
    failure = trouble.failure
    return Notice(
        severity=trouble.severity.value,
        thread_id=trouble.thread_id,
        message=wording.for_operators(trouble, now),
        since=trouble.since,
        detail=failure.message,
        reference=flush_reference(failure.kind.value, failure.error_type, failure.sqlstate),
    )


def _of_fallback(fallback: FallbackStatus) -> list[Notice]:
    locations, made = ", ".join(fallback.addresses), []
    if fallback.entries:
        message = wording.spilled(fallback.entries, locations)
        made.append(Notice("critical", None, message, fallback.since))
    if fallback.reachable is False:
        message = wording.fallback_unusable(locations, holds_some=bool(fallback.entries))
        made.append(Notice("critical", None, message, None, fallback.error or ""))
    return made
