"""The shapes of answers about events, logs and system errors, as OpenAPI tells them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from surgetank.events.types import Severity
from surgetank.server.schemas.answers import Page

_EVENT: dict[str, Any] = {
    "id": 4711,
    "seq": 12,
    "type": "checkpoint_flush_error",
    "thread_id": "chat-7",
    "severity": "warning",
    "message": "Saving is delayed: the database is away.",
    "timestamp": "2026-11-21T09:00:00.000000Z",
}
_LINE: dict[str, Any] = {
    "thread_id": "chat-7",
    "seq": 41,
    "timestamp": "2026-11-21T09:00:00.000000Z",
    "level": "info",
    "logger": "app",
    "message": "looked up 3 documents",
    "fields": {"documents": 3},
}
_ERROR: dict[str, Any] = {
    "id": "beda816b-b658-5741-9e07-3872d0d074c4",
    "fingerprint": "0a71f2241e688aa5d50aaf346e892479",
    "error_type": "checkpoint_flush_error",
    "severity": "warning",
    "thread_id": "chat-7",
    "error_message": "Saving is delayed: ...",
    "created_at": "2026-11-21T09:00:00.000000Z",
    "first_seen": "2026-11-21T09:00:00.000000Z",
    "last_seen": "2026-11-21T09:00:05.000000Z",
    "occurrences": 3,
    "resolved": False,
    "resolved_at": None,
    "resolved_by": None,
    "resolution_notes": None,
    "regressions": 0,
    "regressed_at": None,
    "previous_resolution": None,
    "snoozed_until": None,
    "snoozed_by": None,
    "stack_trace": "Traceback (most recent call last): ...",
    "error_context": {"entries": 4, "sqlstate": "57P01"},
}


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Event(BaseModel):
    """A run event: the fields of its type stand beside these."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_EVENT]})

    id: int = Field(description="Grows over all threads.")
    seq: int = Field(description="1, 2, 3 ... within the thread.")
    type: str
    thread_id: str | None
    timestamp: str


class Events(BaseModel):
    """Events of a thread that are kept for replay."""

    model_config = _example(thread_id="chat-7", events=[_EVENT], gap=None, next=12)

    thread_id: str
    events: list[Event]
    gap: dict[str, Any] | None = Field(
        description="What is missing before these events, because it is gone."
    )
    incidents: list[dict[str, Any]] = Field(
        default=[], description="The banners of the thread that are up, as events."
    )
    next: int = Field(description="Pass it as `after` for what comes next.")


class Line(BaseModel):
    """A line of a thread's log."""

    thread_id: str
    seq: int
    timestamp: str
    level: str
    logger: str
    message: str
    fields: dict[str, Any]


class Lines(BaseModel):
    """Lines of a thread's log, in order."""

    model_config = _example(thread_id="chat-7", lines=[_LINE], problem=None, next=41, previous=41)

    thread_id: str
    lines: list[Line]
    problem: str | None = Field(
        description="Why older lines may be missing: the database can't be asked just now."
    )
    incidents: list[dict[str, Any]] = Field(
        default=[], description="The banners of the thread that are up, as events."
    )
    next: int = Field(description="Pass it as `after` for newer lines.")
    previous: int | None = Field(description="Pass it as `before` for older lines.")


class Error(BaseModel):
    """A group of alike errors; message, stack trace and context are the newest's."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ERROR]})

    id: str
    fingerprint: str
    error_type: str
    severity: Severity
    thread_id: str | None
    error_message: str
    stack_trace: str
    error_context: dict[str, Any]
    created_at: str
    first_seen: str
    last_seen: str
    occurrences: int
    resolved: bool
    resolved_at: str | None
    resolved_by: str | None
    resolution_notes: str | None
    regressions: int = Field(description="How often it came back after it had been resolved.")
    regressed_at: str | None
    previous_resolution: dict[str, Any] | None
    snoozed_until: str | None
    snoozed_by: str | None


class Errors(Page):
    """System errors, those that occurred last first."""

    model_config = _example(status="ok", count=1, errors=[_ERROR], next=None, problem=None)

    status: str = Field(description="`ok`, or `partial` while the database can't be asked.")
    count: int = Field(description="How many are in this page.")
    errors: list[Error]
    problem: str | None = Field(description="Why the picture is partial.")


class ErrorThread(BaseModel):
    """A thread that an error touched."""

    thread_id: str
    occurrences: int
    first: float
    last: float


class ErrorChange(BaseModel):
    """Something that was done about an error."""

    at: float
    actor: str
    action: str
    notes: str
    detail: dict[str, Any]


class ErrorDetail(Error):
    """An error with the threads it touched and its audit trail."""

    threads: list[ErrorThread]
    audit: list[ErrorChange]
    problem: str | None


class Resolution(BaseModel):
    """What was found out and done."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"resolution_notes": "The disk was full."}]},
    )

    resolution_notes: str = Field("", max_length=10_000, pattern=r"^[^\x00]*$")


class DeletedErrors(BaseModel):
    """How many resolved errors are gone."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"deleted": 12}]})

    deleted: int


class Snooze(BaseModel):
    """For how long no alerts are sent."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"seconds": 86400, "notes": "known"}]}
    )

    seconds: float = Field(default=86_400.0, gt=0, le=366 * 86_400.0)
    notes: str = Field(default="", max_length=10_000, pattern=r"^[^\x00]*$")


class Count(BaseModel):
    """Errors of one type and severity."""

    error_type: str
    severity: Severity
    groups: int
    occurrences: int
    unresolved: int


class Stats(BaseModel):
    """Errors counted."""

    total: int
    unresolved: int
    occurrences: int
    counts: list[Count]
    problem: str | None


class Bucket(BaseModel):
    """Occurrences in an hour or a day that began at `at` (seconds since the epoch, UTC)."""

    at: float
    error_type: str
    severity: Severity
    occurrences: int


class Trends(BaseModel):
    """Occurrences over time."""

    bucket: str
    trends: list[Bucket]
    problem: str | None


class TroubledThread(BaseModel):
    """A thread with several unresolved errors."""

    thread_id: str
    errors: int
    occurrences: int
    last: float


class TroubledThreads(BaseModel):
    """Threads with several unresolved errors, worst first."""

    threads: list[TroubledThread]


class OriginalValue(BaseModel):
    """A value as it was before a projection replaced it."""

    stream: str
    partition: str
    job: str
    path: str
    reason: str
    original: str
    at: float


class Originals(BaseModel):
    """What projections replaced, newest first."""

    debug_mode: bool = Field(description="Whether more of it is being kept.")
    originals: list[OriginalValue]
