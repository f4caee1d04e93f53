"""News of flushes, of damage and of what nobody expected, put together for the notifier. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgetank.events.types import EventType, Incident, Severity
from surgetank.exceptions import SurgetankError
from surgetank.model import LOST_TAIL, Damage, Failure, Fork, ParkedEntry
from surgetank.notify import wording
from surgetank.notify.incidents import Subject, Trouble
from surgetank.notify.news import News
from surgetank.streams.errors.groups import flush_group

_SALVAGE = (
    "look at the disk; `surgetank doctor --salvage FOLDER` copies all of the buffer that is whole."
)

_SERVER = (
    "see why the server lost it: its log, `appendonly`, or a failover to a replica that was behind. All later "
    "entries are kept; runs of threads that are concerned go on from what was saved."
)


def news_context(trouble: Trouble) -> dict[str, Any]:
    """What operators are told of trouble beside its message. A sink's names no partition: which
    one was the first to fail says nothing."""
    return {
        "stream": trouble.stream,
        **({"partition": trouble.partition} if trouble.partition is not None else {}),
        **({"affected": trouble.affected} if trouble.subject is Subject.SINK else {}),
        **_of_parked(trouble.parked),
        "attempts": trouble.attempts,
        "entries": trouble.entries,
        "bytes": trouble.bytes,
        "failing_since": trouble.since,
    }


def _of_parked(entry: ParkedEntry | None) -> dict[str, Any]:
    if entry is None:
        return {}
    return {"seq": entry.seq, "parked_id": entry.id, "retries": entry.retries}


def flush_news(incident: Incident, failure: Failure, context: Mapping[str, Any]) -> News:
    """News of trouble with saving."""
    critical = incident.severity is Severity.CRITICAL
    type_ = EventType.FLUSH_CRITICAL if critical else EventType.FLUSH_ERROR
    delivered = {
        **context,
        "failure_kind": failure.kind.value,
        "exception": failure.error_type,
        "sqlstate": failure.sqlstate,
        "remedy": failure.remedy,
    }
    return News(
        message=incident.message,
        severity=incident.severity,
        thread_id=incident.thread_id,
        event=type_,
        error_type=type_.value,
        detail=failure.message,
        stack_trace=failure.stack_trace,
        context=delivered,
        group=flush_group(failure.kind.value, failure.error_type, failure.sqlstate),
        public=incident.public,
    )


def news_of_fork(fork: Fork, message: str, context: Mapping[str, Any]) -> News:
    """Two buffers wrote to one thread."""
    return News(
        message,
        Severity.CRITICAL,
        fork.thread_id,
        error_type="thread_forked",
        detail=wording.FORK_REMEDY,
        context={**context, **fork._asdict(), "remedy": wording.FORK_REMEDY},
        group=("thread_forked", fork.thread_id),
    )


def news_of_damage(damage: Damage, thread: str | None, context: Mapping[str, Any]) -> News:
    """What the buffer found damaged."""
    return News(
        message=wording.damaged(damage),
        severity=Severity.CRITICAL,
        thread_id=thread or None,
        event=EventType.FLUSH_CRITICAL,
        error_type="buffer_damaged",
        detail=damage.what,
        context={
            **context,
            "stream": damage.stream,
            "partition": damage.partition,
            "remedy": _SERVER if damage.what.startswith(LOST_TAIL) else _SALVAGE,
        },
        group=(damage.stream, damage.partition),
    )


def news_of_problem(
    error: BaseException, trace: str, *, where: str, context: Mapping[str, Any]
) -> News:
    """Something unexpected outside a flush: an error of its own."""
    what, remedy = f"{type(error).__name__}: {error}", ""
    if isinstance(error, SurgetankError):
        what, remedy = error.what, error.remedy
    return News(
        what,
        Severity.CRITICAL,
        error_type=f"{where}_problem",
        detail=remedy,
        stack_trace=trace,
        context={**context, "remedy": remedy},
        group=(where, type(error).__name__),
    )
