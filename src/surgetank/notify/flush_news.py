"""News of flushes, of damage and of what nobody expected, put together for the notifier. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgetank.events.types import EventType, Severity
from surgetank.exceptions import SurgetankError
from surgetank.model import Damage, Failure
from surgetank.notify import wording
from surgetank.notify.news import News
from surgetank.streams.errors.groups import flush_group

_SALVAGE = (
    "look at the disk; `surgetank doctor --salvage FOLDER` copies all of the buffer that is whole."
)


def flush_news(
    message: str,
    severity: Severity,
    thread: str | None,
    failure: Failure,
    context: Mapping[str, Any],
) -> News:
    type_ = EventType.FLUSH_CRITICAL if severity is Severity.CRITICAL else EventType.FLUSH_ERROR
    delivered = {
        **context,
        "failure_kind": failure.kind.value,
        "exception": failure.error_type,
        "sqlstate": failure.sqlstate,
        "remedy": failure.remedy,
    }
    group = flush_group(failure.kind.value, failure.error_type, failure.sqlstate)
    return News(
        message=message,
        severity=severity,
        thread_id=thread,
        event=type_,
        error_type=type_.value,
        detail=failure.message,
        stack_trace=failure.stack_trace,
        context=delivered,
        group=group,
        public=wording.public(failure),
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
            "remedy": _SALVAGE,
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
