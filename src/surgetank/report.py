"""What people are told about the state of saving. Pure: out of what buffer and breaker know, nothing is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from surgetank.model import BufferDepth, FailureKind, FlushJob, ParkedEntry, PartitionState

SAFE = "Everything is kept in the buffer"


@dataclass(frozen=True, slots=True)
class Notice:
    """A banner for a user: severity `warning` or `critical`, and in plain words what happened, what is safe and what
    to do. `detail` is the technical reason, for an operator.
    """

    severity: str
    thread_id: str | None
    message: str
    since: float | None = None
    detail: str = ""


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
    problems: tuple[str, ...] = field(default=())

    @property
    def healthy(self) -> bool:
        """True when nothing needs attention."""
        return not self.notices and not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON. Stack traces stay in the jobs."""
        plain: dict[str, Any] = to_plain_data(self)
        for state in plain["failing"]:
            if state["failure"]:
                state["failure"].pop("stack_trace", None)
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
    now: float,
    critical_after_s: float,
) -> tuple[Notice, ...]:
    """The banners that users should see now; empty when all is well."""
    told: list[Notice] = []
    for sink in sinks:
        waiting = next((s for s in depth.streams if s.stream == sink.stream), None)
        if sink.breaker != "closed" and waiting is not None and waiting.entries:
            long = waiting.oldest_at is not None and now - waiting.oldest_at > critical_after_s
            told.append(
                Notice(
                    "critical" if long else "warning",
                    None,
                    f"Saving is delayed: the database can't be reached. {SAFE} ({waiting.entries} entries) and is"
                    " saved by itself when the database is back; you can go on working.",
                    waiting.oldest_at,
                    sink.last_error or "",
                )
            )
    told += [_of_partition(state, now, critical_after_s) for state in failing]
    told += [_of_parked(entry) for entry in parked]
    if depth.bytes > 0.8 * depth.max_bytes or depth.entries > 0.8 * depth.max_entries:
        share = max(depth.bytes / depth.max_bytes, depth.entries / depth.max_entries)
        told.append(
            Notice("critical", None, f"The buffer is {share:.0%} full; at 100 % new writes wait or fail.")
        )
    return tuple(told)


def _of_partition(state: PartitionState, now: float, critical_after_s: float) -> Notice:
    failure = state.failure
    assert failure is not None
    since = state.failing_since or now
    critical = failure.kind is not FailureKind.TRANSIENT or now - since > critical_after_s
    if failure.kind is FailureKind.FATAL:
        what = "can't be saved before an operator has acted"
        action = failure.remedy or "see the detail, then `surgetank flush`."
    else:
        what = "is saved later: the database could not take it just now"
        action = f"The next attempt follows by itself in {max(0.0, state.next_attempt_at - now):.0f} s."
    return Notice(
        "critical" if critical else "warning",
        state.partition,
        f"The thread {state.partition!r} {what}. {SAFE} ({state.entries} entries). {action}",
        since,
        failure.message,
    )


def _of_parked(entry: ParkedEntry) -> Notice:
    return Notice(
        "critical",
        entry.partition,
        f"One entry of the thread {entry.partition!r} was refused by the database and set aside. It is kept and stays"
        f" readable; see `surgetank parked show {entry.id}`.",
        entry.parked_at,
        entry.failure.message,
    )
