"""What applications tell of their runs: log lines and events."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from surgetank.encode import limits
from surgetank.encode.sanitize import sanitize_for_json
from surgetank.events.protocol import EventLog
from surgetank.events.types import EventType, NewEvent, RunEvent
from surgetank.exceptions import EntryRejected, InvalidRequest, SurgetankError
from surgetank.handover import HandOver
from surgetank.offloop import on_loop
from surgetank.streams.logs.line import LogLine, level_name
from surgetank.streams.logs.origin import origin
from surgetank.streams.logs.store import ThreadLogs

MAX_EVENT_BYTES = 256 * 1024
_TYPE = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_OURS = (EventType.GAP.value, EventType.LOG.value, "subscribed")
_RESERVED = ("id", "seq", "type", "thread_id", "timestamp")


class RunReporter:
    """Log lines and run events of threads. Safe to use from several threads."""

    def __init__(
        self,
        logs: ThreadLogs,
        events: EventLog,
        *,
        clock: Callable[[], float],
        owner_key: str = "user_id",
    ) -> None:
        self._logs = logs
        self._events = events
        self._clock = clock
        self._owner_key = owner_key
        self.failures: deque[tuple[float, str]] = deque(maxlen=100)
        self.hand_over = HandOver(self._lost)

    def log(
        self,
        message: str,
        *,
        thread_id: str | None = None,
        level: int | str = "info",
        logger: str = "",
        user_id: str | None = None,
        fields: Mapping[str, Any] | None = None,
        at: float | None = None,
        wait: bool = True,
    ) -> LogLine:
        """Accept a line of a thread's log and tell it live; returned with its number.

        On an event loop it never waits: while another process holds the buffer, the line is handed
        to a thread and returned with the number 0, and at the buffer's limit `BufferFull` comes at
        once.

        Without `thread_id`, the thread of the running LangGraph graph or of `working_for`. Raises
        `InvalidRequest` when there is none, `EntryRejected`, `BufferFull`, `BufferUnavailable`.
        """
        thread_id, user_id = self._whose(thread_id, user_id, "The log line")
        line = LogLine(
            thread_id=thread_id,
            message=str(message),
            level=level_name(level),
            at=at if at is not None else self._clock(),
            logger=logger,
            user_id=user_id,
            fields=fields or {},
        )
        if on_loop():
            written = None if self.hand_over.busy else self._logs.try_write(line)
            if written is None:
                self.hand_over.submit(partial(self._write, line, wait=wait))
                return line
            self._tell_live(written)
            return written
        return self._write(line, wait=wait)

    def _write(self, line: LogLine, *, wait: bool) -> LogLine:
        line = self._logs.write(line, wait=wait)
        self._tell_live(line)
        return line

    def _lost(self, error: Exception) -> None:
        self.failures.append((self._clock(), f"a line of a thread's log was not accepted: {error}"))

    def _tell_live(self, line: LogLine) -> None:
        shown = line.to_dict()
        data = {
            "level": shown["level"],
            "logger": shown["logger"],
            "message": _cut(shown["message"]),
            "log_seq": line.seq,
        }
        fields = sanitize_for_json(shown["fields"])
        if fields and len(str(fields)) < 8 * 1024:
            data["fields"] = fields
        try:
            self._events.publish([NewEvent(EventType.LOG.value, line.thread_id, data)])
        except SurgetankError as error:
            # The line is accepted; that it was not told live is shown in the status.
            self.failures.append((self._clock(), f"event log: {error.what}"))

    def event(
        self,
        event: str | Mapping[str, Any],
        *,
        thread_id: str | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> RunEvent:
        """Tell an event of a thread to everybody who follows it; returned with its numbers.

        `event` is the type, or a mapping with a `type` and the fields. Values are sanitized. Raises
        `InvalidRequest` without a thread or type, `EntryRejected` above 256 KB,
        `BufferUnavailable`.
        """
        body: dict[str, Any] = {
            **(event if isinstance(event, Mapping) else {"type": event}),
            **(fields or {}),
        }
        kind = str(body.pop("type", "") or "")
        named = body.pop("thread_id", None)
        thread, _ = self._whose(thread_id or named, None, f"The event {kind!r}")
        limits.check_names(thread, [("$.thread_id", thread)])
        if not _TYPE.fullmatch(kind) or kind in _OURS:
            raise InvalidRequest(
                f"{kind[:120]!r} can't be the type of an event.",
                remedy="use letters, digits and _ . : - (at most 100), and none of gap, log and "
                "subscribed.",
            )
        data = sanitize_for_json({k: v for k, v in body.items() if k not in _RESERVED})
        size = len(str(data))
        if size > MAX_EVENT_BYTES:
            raise EntryRejected(
                partition=thread, path="$", reason=f"an event of about {size} bytes",
                remedy=f"send at most {MAX_EVENT_BYTES} bytes; put large values into the state.",
            )  # fmt: skip
        return self._events.publish([NewEvent(kind, thread, data)])[0]

    def _whose(
        self, thread_id: str | None, user_id: str | None, what: str
    ) -> tuple[str, str | None]:
        here = origin(self._owner_key)
        chosen = thread_id or here.thread_id
        if not chosen:
            raise InvalidRequest(
                f"{what} has no thread.",
                remedy="give thread_id=..., or call it inside a graph's node or `with "
                "surgetank.working_for(thread)`.",
            )
        return str(chosen), user_id or (here.user_id if chosen == here.thread_id else None)


def _cut(message: str) -> str:
    return (
        message
        if len(message) <= 8 * 1024
        else f"{message[: 8 * 1024]} [cut; the log has it whole]"
    )
