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
from typing import Any

SINK, REFUSED = "sink:", "refused:"  # keys of incidents about a sink: it is away, it refuses


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
        """Whether it is about a sink, so that threads that wait for that have a banner too."""
        return self.key.startswith((SINK, REFUSED))


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
