"""System errors: occurrences and what people do about them, folded into groups. Pure.

The buffer carries `ErrorReport`s and `ErrorAction`s, partitioned by fingerprint. `fold` makes a
group of them, and is the only place that knows the rules: the sink folds onto a row of
`system_errors`, a reader folds what is still hot.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from surgetank.encode import jsontext
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.events.types import Severity, timestamp

STREAM = "system_errors"
KEY = b"e"
# the thread in `notes` was deleted: nothing may refer to it any more
FORGET_THREAD = "forget_thread"
HEALED_BY = "surgetank"  # who resolves what is over by itself
UNREADABLE = "unreadable_record"
MAX_STACK = 64 * 1024
MAX_CONTEXT = 256 * 1024
_NAMESPACE = uuid.UUID("5b0f7b1e-3c1d-5d0c-9d55-8f8a1f3ad0b2")
_FRAME = re.compile(r'^\s*File "([^"]+)", line \d+, in (\S+)', re.MULTILINE)
_FOREIGN = re.compile(r"site-packages|dist-packages|lib/python\d|<frozen")
_VARYING = re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-fA-F]{8,}\b|\d+|'[^']*'|\"[^\"]*\"")


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """One occurrence, or `count` of them in a storm. `at` is seconds since the epoch; `context` any
    values, sanitized when it is packed.
    """

    error_type: str
    message: str
    severity: Severity = Severity.ERROR
    thread_id: str | None = None
    stack_trace: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    at: float = 0.0
    count: int = 1

    def pack(self) -> bytes:
        """The occurrence as the buffer carries it."""
        context, _ = jsontext.dumps_object(self.context)
        if len(context) > MAX_CONTEXT:
            context = jsontext.dumps({"cut": f"a context of {len(context)} bytes is not kept"})
        head, _ = dumps_jsonb(
            [
                "report",
                self.error_type,
                self.severity.value,
                self.thread_id,
                self.message[:MAX_STACK],
                self.stack_trace[-MAX_STACK:],
                self.fingerprint,
                self.at,
                self.count,
            ]
        )
        return head[:-1] + b"," + context + b"]"


@dataclass(frozen=True, slots=True)
class ErrorAction:
    """What somebody did about a group: `resolve`, `reopen`, `snooze` (until), `delete` (a resolved
    one)."""

    kind: str
    actor: str
    at: float
    notes: str = ""
    until: float | None = None

    def pack(self) -> bytes:
        """The action as the buffer carries it."""
        return dumps_jsonb(["action", self.kind, self.actor, self.at, self.notes, self.until])[0]


def unpack(data: bytes) -> ErrorReport | ErrorAction:
    """What one record holds. Raises `ValueError` for bytes that are neither a report nor an
    action."""
    try:
        tag, *rest = jsontext.loads(data)
        if tag == "action":
            action = ErrorAction(*rest)
            if action.kind in ACTIONS or action.kind == FORGET_THREAD:
                return action
            raise ValueError(f"an unknown action {action.kind[:40]!r}")  # noqa: TRY301 - as all below
        error_type, severity, thread_id, message, stack_trace, mark, at, count, context = rest
        if not isinstance(context, dict):
            raise TypeError("the context is no object")  # noqa: TRY301
        return ErrorReport(
            error_type=error_type,
            message=message,
            severity=Severity(severity),
            thread_id=thread_id,
            stack_trace=stack_trace,
            context=context,
            fingerprint=mark,
            at=float(at),
            count=int(count),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"a record that is no system error ({error})") from error


def unpack_or_show(fingerprint: str, data: bytes) -> ErrorReport | ErrorAction:
    """What one record holds, for readers: bytes that can't be read are shown as an error that says
    so."""
    try:
        return unpack(data)
    except ValueError as error:
        return ErrorReport(
            UNREADABLE, f"A system error in the buffer can't be read: {error}.",
            context={"bytes": len(data), "begins": jsontext.preview(data)}, fingerprint=fingerprint,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Occurrences with one fingerprint: a row of `system_errors`. Message, stack and context are
    the newest's."""

    id: str
    fingerprint: str
    error_type: str
    severity: Severity
    thread_id: str | None
    error_message: str
    stack_trace: str
    error_context: Mapping[str, Any]
    created_at: float
    last_seen: float
    occurrences: int = 1
    resolved_at: float | None = None
    resolved_by: str | None = None
    resolution_notes: str | None = None
    regressions: int = 0
    regressed_at: float | None = None
    previous_resolution: Mapping[str, Any] | None = None
    snoozed_until: float | None = None
    snoozed_by: str | None = None

    @property
    def resolved(self) -> bool:
        """Whether somebody resolved it and it has not come back."""
        return self.resolved_at is not None

    @property
    def healed(self) -> bool:
        """Whether it was resolved by itself: its cause is over, and what waited is saved."""
        return self.resolved and self.resolved_by == HEALED_BY

    def to_dict(self, *, full: bool = True) -> dict[str, Any]:
        """The group as people get it; without stack trace and context unless `full`."""
        body: dict[str, Any] = {
            name: getattr(self, name)
            for name in self.__slots__
            if full or name not in ("stack_trace", "error_context")
        }
        for name in ("created_at", "last_seen", "resolved_at", "regressed_at", "snoozed_until"):
            body[name] = timestamp(body[name]) if body[name] is not None else None
        return {
            **body,
            "severity": self.severity.value,
            "first_seen": body["created_at"],
            "resolved": self.resolved,
        }


@dataclass(frozen=True, slots=True)
class Audit:
    """One change of a group, for the audit table."""

    action: str
    actor: str
    at: float
    notes: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


def group_id(fingerprint: str) -> str:
    """The id of the group with this fingerprint, the same in every process and buffer."""
    return str(uuid.uuid5(_NAMESPACE, fingerprint))


def fingerprint(
    error_type: str, message: str, stack_trace: str = "", *, key: Iterable[str] | None = None
) -> str:
    """What makes occurrences one group: `key` if given, else the type, the exception's class and
    the functions of the application's own frames; without a stack trace, the message with its
    varying parts left out.
    """
    parts = [error_type, *key] if key is not None else [error_type, *_shape(message, stack_trace)]
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "replace")).hexdigest()[:32]


def flush_group(kind: str, error_type: str, sqlstate: str | None) -> tuple[str, ...]:
    """What makes failures to save one group: a database that is away is one thing, however many
    threads wait for it and however it is noticed.
    """
    return ("flush", kind) if kind == "transient" else ("flush", error_type, sqlstate or "")


def flush_reference(kind: str, error_type: str, sqlstate: str | None) -> str:
    """The id of the system error that such a failure is reported as, known before it is
    reported."""
    return group_id(fingerprint("", "", key=flush_group(kind, error_type, sqlstate)))


def _shape(message: str, stack_trace: str) -> list[str]:
    frames = _FRAME.findall(stack_trace)
    own = [(file, function) for file, function in frames if not _FOREIGN.search(file)] or frames
    if not own:
        return [_VARYING.sub("*", message)[:500]]
    last = stack_trace.rstrip().rsplit("\n", 1)[-1].partition(":")[0]
    return [last, *(f"{'/'.join(file.split('/')[-2:])}:{function}" for file, function in own[-8:])]


def fold(
    group: ErrorGroup | None, item: ErrorReport | ErrorAction
) -> tuple[ErrorGroup | None, Audit | None]:
    """The group after one more occurrence or action, and what the audit table gets of it."""
    if isinstance(item, ErrorReport):
        return _occur(group, item)
    if group is None:
        return None, None
    if item.kind == FORGET_THREAD:
        mentions = group.thread_id == item.notes
        return replace(group, thread_id=None, error_context={}) if mentions else group, None
    after = ACTIONS[item.kind](group, item)
    if after is group:
        return group, None
    detail = {"until": timestamp(item.until)} if item.until is not None else {}
    return after, Audit(item.kind, item.actor, item.at, item.notes, detail)


def fold_all(
    group: ErrorGroup | None, items: Sequence[ErrorReport | ErrorAction]
) -> ErrorGroup | None:
    """The group after all these."""
    for item in items:
        group, _ = fold(group, item)
    return group


def _occur(group: ErrorGroup | None, report: ErrorReport) -> tuple[ErrorGroup, Audit | None]:
    if group is None:
        return (
            ErrorGroup(
                id=group_id(report.fingerprint),
                fingerprint=report.fingerprint,
                error_type=report.error_type,
                severity=report.severity,
                thread_id=report.thread_id,
                error_message=report.message,
                stack_trace=report.stack_trace,
                error_context=report.context,
                created_at=report.at,
                last_seen=report.at,
                occurrences=report.count,
            ),
            None,
        )
    # An occurrence older than the resolution only arrived late: it is counted and changes nothing
    # else.
    back = group.resolved_at is not None and report.at > group.resolved_at
    graver = back or report.severity.rank >= group.severity.rank
    newer = report.at >= group.last_seen
    after = replace(
        group,
        occurrences=group.occurrences + report.count,
        created_at=min(group.created_at, report.at),
        last_seen=max(group.last_seen, report.at),
        error_type=report.error_type if graver else group.error_type,
        severity=report.severity if graver else group.severity,
    )
    if newer:
        after = replace(
            after,
            thread_id=report.thread_id,
            error_message=report.message,
            stack_trace=report.stack_trace,
            error_context=report.context,
        )
    if not back:
        return after, None
    previous = {
        "resolved_at": timestamp(group.resolved_at or 0.0),
        "resolved_by": group.resolved_by,
        "resolution_notes": group.resolution_notes,
    }
    after = replace(
        after,
        resolved_at=None,
        resolved_by=None,
        resolution_notes=None,
        regressions=group.regressions + 1,
        regressed_at=report.at,
        previous_resolution=previous,
        snoozed_until=None,
        snoozed_by=None,
    )
    return after, Audit("regressed", "surgetank", report.at, "it came back", previous)


def _resolve(group: ErrorGroup, action: ErrorAction) -> ErrorGroup:
    if group.resolved:
        return group
    return replace(
        group,
        resolved_at=action.at,
        resolved_by=action.actor,
        resolution_notes=action.notes,
        snoozed_until=None,
        snoozed_by=None,
    )


def _reopen(group: ErrorGroup, _: ErrorAction) -> ErrorGroup:
    if not group.resolved:
        return group
    previous = {
        "resolved_at": timestamp(group.resolved_at or 0.0),
        "resolved_by": group.resolved_by,
        "resolution_notes": group.resolution_notes,
    }
    return replace(
        group,
        resolved_at=None,
        resolved_by=None,
        resolution_notes=None,
        previous_resolution=previous,
    )


def _snooze(group: ErrorGroup, action: ErrorAction) -> ErrorGroup:
    return replace(
        group, snoozed_until=action.until, snoozed_by=action.actor if action.until else None
    )


def _delete(group: ErrorGroup, _: ErrorAction) -> ErrorGroup | None:
    return None if group.resolved else group


def without_forgotten(
    items: Sequence[ErrorReport | ErrorAction],
) -> list[ErrorReport | ErrorAction]:
    """The items of a group, those of threads that were deleted later without what led to the
    thread."""
    kept: list[ErrorReport | ErrorAction] = []
    for item in items:
        if isinstance(item, ErrorAction) and item.kind == FORGET_THREAD:
            kept = [
                replace(old, thread_id=None, context={})
                if isinstance(old, ErrorReport) and old.thread_id == item.notes
                else old
                for old in kept
            ]
        kept.append(item)
    return kept


ACTIONS: dict[str, Callable[[ErrorGroup, ErrorAction], ErrorGroup | None]] = {
    "resolve": _resolve, "reopen": _reopen, "snooze": _snooze, "delete": _delete,
}  # fmt: skip
