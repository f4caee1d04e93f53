"""A line of a thread's log, as the buffer carries it. Pure.

Lines are JSON, sanitized when they are made: whatever a program logs, PostgreSQL takes it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from surgetank.encode import jsontext
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.events.types import timestamp
from surgetank.exceptions import UnknownName

STREAM = "thread_logs"
KEY = b"l"
DELETED = b"d"  # note: the entry with which the thread was deleted last
LEVELS = ("debug", "info", "warning", "error", "critical")
MAX_MESSAGE = 64 * 1024
_MAX_FIELDS = 256 * 1024


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. `seq` and `buffer_id` are known once the buffer has accepted it; `at` is seconds
    since the epoch."""

    thread_id: str
    message: str
    level: str = "info"
    at: float = 0.0
    logger: str = ""
    user_id: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    seq: int = 0
    buffer_id: str = ""

    def pack(self) -> bytes:
        """The line without thread and number, which stand around it."""
        message = (
            self.message
            if len(self.message) <= MAX_MESSAGE
            else f"{self.message[:MAX_MESSAGE]} [cut]"
        )
        fields, _ = jsontext.dumps_object(self.fields)
        if len(fields) > _MAX_FIELDS:
            fields = jsontext.dumps({"cut": f"fields of {len(fields)} bytes are not kept"})
        head, _ = dumps_jsonb([message, self.level, self.at, self.logger, self.user_id])
        return head[:-1] + b"," + fields + b"]"

    @classmethod
    def unpack(cls, thread_id: str, data: bytes, *, seq: int, buffer_id: str) -> LogLine:
        """The line out of the buffer. Raises `ValueError` for bytes that are none."""
        try:
            message, level, at, logger, user_id, fields = jsontext.loads(data)
            if not isinstance(fields, dict) or level not in LEVELS:
                raise TypeError("its level or its fields are none")  # noqa: TRY301 - as what unpacking raises
            return cls(
                thread_id, message, level, float(at), logger, user_id, fields, seq, buffer_id
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"a record that is no line of a log ({error})") from error

    @classmethod
    def unpack_or_show(cls, thread_id: str, data: bytes, *, seq: int, buffer_id: str) -> LogLine:
        """The line out of the buffer, for readers: bytes that can't be read are shown as a line
        that says so."""
        try:
            return cls.unpack(thread_id, data, seq=seq, buffer_id=buffer_id)
        except ValueError as error:
            shown = {"bytes": len(data), "begins": jsontext.preview(data)}
            message = f"A line of this log can't be read: {error}."
            return cls(thread_id, message, "error", 0.0, "surgetank", None, shown, seq, buffer_id)

    def to_dict(self) -> dict[str, Any]:
        """The line as people get it."""
        return {
            "thread_id": self.thread_id,
            "seq": self.seq,
            "timestamp": timestamp(self.at),
            "level": self.level,
            "logger": self.logger,
            "message": self.message,
            "fields": dict(self.fields),
        }


def level_name(level: int | str) -> str:
    """One of `LEVELS` for a name or a number of the `logging` module. Raises `UnknownName` (a
    `ValueError`)."""
    if isinstance(level, int):
        steps = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
        return LEVELS[sum(level >= step for step in steps)]
    if not isinstance(level, str):
        raise UnknownName(
            f"A log level can't be a {type(level).__name__}.",
            remedy=f"levels: {', '.join(LEVELS)}.",
        )
    name = {"warn": "warning", "fatal": "critical", "exception": "error", "notset": "debug"}.get(
        level.lower(), level.lower()
    )
    if name not in LEVELS:
        raise UnknownName(
            f"There is no log level {level[:80]!r}.", remedy=f"levels: {', '.join(LEVELS)}."
        )
    return name
