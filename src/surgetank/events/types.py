"""Run events: what happened to a thread, told live and kept for replay. Types and fields are fixed
(docs/reference/events.md).

An event has two numbers: `id` grows over the whole event log, `seq` counts 1, 2, 3 ... within its
thread. Either one is where a reader goes on after a break. Front ends know these types from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NotRequired, TypedDict

SINK, REFUSED = "sink:", "refused:"  # keys of incidents about a sink: it is away, it refuses
BUFFER_AWAY = "buffer"  # the key of one that is never stored: the log of incidents is away as well


class EventType(StrEnum):
    """The event types that Surgetank itself sends. Applications may send others of their own."""

    FLUSH_ERROR = "checkpoint_flush_error"
    FLUSH_CRITICAL = "checkpoint_flush_critical_error"
    FLUSH_RECOVERED = "checkpoint_flush_recovered"
    STATUS_UPDATED = "status_updated"
    CHECKPOINT_READY = "checkpoint_ready"
    CHECKPOINT_RESOLVED = "checkpoint_resolved"
    GRAPH_CHANGED = "graph_changed"
    LOG = "log"
    GAP = "gap"


class Severity(StrEnum):
    """How bad something is, for banners and `system_errors`."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for the mildest."""
        return list(Severity).index(self)

    @classmethod
    def of(cls, text: str) -> Severity:
        """The severity of this name, for readers: one that only another version knows is taken for
        the gravest."""
        return cls(text) if text in list(cls) else cls.CRITICAL


class FlushErrorDetails(TypedDict):
    """Why saving fails, without the database's own words. `reference` is the id of the system
    error."""

    error: NotRequired[str]
    reference: NotRequired[str]
    support_url: NotRequired[str]
    stream: NotRequired[str]
    job: NotRequired[str]
    attempts: NotRequired[int]
    parked_id: NotRequired[int]


class FlushEventData(TypedDict):
    """Saving is delayed, fails, or is well again. `affected`: how many threads wait; `derived`: it
    is not in the log."""

    severity: Severity
    message: str
    affected: NotRequired[int]
    derived: NotRequired[bool]
    error_details: NotRequired[FlushErrorDetails]


class GraphChangedData(TypedDict):
    """A run goes on with a graph that is not the one it stopped in."""

    severity: Severity
    message: str


class StatusUpdatedData(TypedDict):
    """A run went on. Show `completed` plain only when `saved` is true."""

    status: str
    run_id: str | None
    workflow_id: str | None
    audit_id: int
    attempt: NotRequired[int]
    saved: NotRequired[bool]


class UserCheckpointEventData(TypedDict):
    """People are asked, or have answered."""

    status: str
    run_id: str | None
    workflow_id: str | None
    audit_id: int
    checkpoint_id: NotRequired[str]
    step_name: NotRequired[str | None]
    kind: NotRequired[str]


class LogData(TypedDict):
    """A line of the thread's log. Long messages are cut."""

    level: str
    logger: str
    message: str
    log_seq: int
    fields: NotRequired[dict[str, Any]]


class GapData(TypedDict):
    """Events between the two numbers are no longer kept: load the current state."""

    thread_id: str | None
    after: int
    missed_to: int
    message: str


# What an event of each type has beside its numbers. Front ends get these as TypeScript.
PAYLOADS: Mapping[EventType, type] = MappingProxyType(
    {
        EventType.FLUSH_ERROR: FlushEventData,
        EventType.FLUSH_CRITICAL: FlushEventData,
        EventType.FLUSH_RECOVERED: FlushEventData,
        EventType.STATUS_UPDATED: StatusUpdatedData,
        EventType.CHECKPOINT_READY: UserCheckpointEventData,
        EventType.CHECKPOINT_RESOLVED: UserCheckpointEventData,
        EventType.GRAPH_CHANGED: GraphChangedData,
        EventType.LOG: LogData,
        EventType.GAP: GapData,
    }
)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that is to be told. `thread_id` is None for what concerns everybody who may see
    operations."""

    type: str
    thread_id: str | None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A row of the audit, by its place in its chain, and the event that tells of it (None:
    nothing)."""

    chain: int
    nth: int
    event: NewEvent | None


@dataclass(frozen=True, slots=True)
class RunEvent:
    """An event as it was told. `at` is seconds since the epoch."""

    id: int
    type: str
    thread_id: str | None
    seq: int
    at: float
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The event as front ends get it: the type's fields stand beside `id`, `seq`, `type` and
        `timestamp`."""
        return {
            **self.data,
            "id": self.id,
            "seq": self.seq,
            "type": self.type,
            "thread_id": self.thread_id,
            "timestamp": timestamp(self.at),
        }


@dataclass(frozen=True, slots=True)
class Gap:
    """History that is gone: a reader who asked for what came after `after` has missed events up to
    `missed_to`."""

    thread_id: str | None
    after: int
    missed_to: int

    def to_dict(self) -> dict[str, Any]:
        """The gap as front ends get it."""
        return {
            "type": EventType.GAP.value,
            "thread_id": self.thread_id,
            "after": self.after,
            "missed_to": self.missed_to,
            "message": "Events are missing here: they are no longer kept. Load the current state "
            "and go on from it.",
        }


@dataclass(frozen=True, slots=True)
class PublicCause:
    """What everybody may read of why something went wrong: a plain cause, and the id of the system
    error, to be quoted.

    What the database said names hosts and users and quotes rows: it is never part of this.
    """

    error: str = ""
    reference: str = ""

    def to_dict(self) -> dict[str, str]:
        """The fields that are known."""
        return {name: value for name, value in asdict(self).items() if value}


@dataclass(frozen=True, slots=True)
class Incident:
    """Trouble that users and operators have been told about and that is not over. One incident is
    one banner.

    `message` and `public` are for everybody, `detail` (the technical reason) for operators.
    `affected` is how many threads it concerns; a sink's trouble concerns all that wait for it.
    """

    key: str
    stream: str
    thread_id: str | None
    severity: Severity
    since: float
    message: str
    detail: str = ""
    public: PublicCause = field(default_factory=PublicCause)
    affected: int = 1

    @property
    def is_of_sink(self) -> bool:
        """Whether it is about a sink, so that threads that wait for that have a banner too; or
        about the buffer, of which all have one."""
        return self.key.startswith((SINK, REFUSED)) or self.key == BUFFER_AWAY


@dataclass(frozen=True, slots=True)
class Original:
    """A value as it was before a projection replaced it: kept in debug mode only, for
    administrators, for a while."""

    stream: str
    partition: str
    job: str
    path: str
    reason: str
    original: str
    at: float


def timestamp(at: float) -> str:
    """RFC 3339 in UTC, with microseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
