"""What applications tell through the engine: log lines, run events, system errors, each for threads
and event loops."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from typing import Any, TypeVar

from surgetank.app.assembly import Parts
from surgetank.encode.jsonable import show
from surgetank.encode.limits import check_mapping
from surgetank.events.types import RunEvent, Severity
from surgetank.exceptions import UnknownName
from surgetank.offloop import off_loop
from surgetank.settings import Settings
from surgetank.streams.errors.groups import ErrorReport
from surgetank.streams.logs.capture import ThreadLogHandler, ThreadLogProcessor
from surgetank.streams.logs.origin import origin

_T = TypeVar("_T")


class Speaks:
    """The part of `Surgetank` that applications speak to. Safe to use from several threads."""

    settings: Settings

    @property
    def parts(self) -> Parts:
        """The opened parts."""
        raise NotImplementedError

    def emit_log(
        self,
        message: str,
        *,
        thread_id: str | None = None,
        level: int | str = "info",
        logger: str = "",
        user_id: str | None = None,
        wait: bool = True,
        fields: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> int:
        """Write a line into a thread's log, and tell it live; returns its number in the log.

        Inside a node of a graph the thread is known; elsewhere give `thread_id`, or use
        `surgetank.working_for`. Further keywords become the line's fields. Raises
        `ConfigurationError` without a thread, `BufferFull`, `BufferUnavailable`, `EntryRejected`.

        On an event loop it never waits: while another process holds the buffer, the line is written
        by a thread as soon as that lets go, and the number returned is 0. `aemit_log` waits for it.
        """
        if fields is not None:
            check_mapping(str(thread_id), "$.fields", fields)
        line = self.parts.reporting.runs.log(
            message, thread_id=thread_id, level=level, logger=logger, user_id=user_id, wait=wait,
            fields={**(fields or {}), **more},
        )  # fmt: skip
        return line.seq

    async def aemit_log(self, message: str, **given: Any) -> int:
        """`emit_log` off the event loop: the line is accepted when this returns, as with `emit_log`
        on a thread."""
        return await off_loop(self.emit_log, message, **given)

    def broadcast_run_event(
        self, event: str | Mapping[str, Any], *, thread_id: str | None = None, **fields: Any
    ) -> RunEvent:
        """Tell an event to everybody who follows the thread (WebSocket, SSE), in every process;
        kept for replay.

        `event` is its type, or a mapping with `type` and fields. Raises `ConfigurationError`
        without a thread, `EntryRejected` above 256 KB, `BufferUnavailable`.
        """
        return self.parts.reporting.runs.event(event, thread_id=thread_id, fields=fields)

    async def abroadcast_run_event(self, event: str | Mapping[str, Any], **given: Any) -> RunEvent:
        """`broadcast_run_event` off the event loop."""
        return await off_loop(self.broadcast_run_event, event, **given)

    def log_system_error(
        self,
        error_type: str,
        message: str | None = None,
        *,
        severity: str | Severity = Severity.ERROR,
        thread_id: str | None = None,
        error: BaseException | None = None,
        stack_trace: str | None = None,
        context: Mapping[str, Any] | None = None,
        error_message: str | None = None,
        error_context: Mapping[str, Any] | None = None,
    ) -> str:
        """Report an error of your own type to the operators (`system_errors`); returns the id of
        its group.

        `error` gives the stack trace, unless `stack_trace` does. Alike errors become one group with
        a count. Raises `BufferFull`, `BufferUnavailable`, `EntryRejected` for names that PostgreSQL
        can't hold (longer than 2048 bytes, NUL), and `UnknownName` (a `ValueError`) for an unknown
        severity. `error_message` and `error_context` are other names for `message` and `context`;
        both of a pair is a `TypeError`. Without a message, that of `error` is taken.
        """
        message = _one_of("message", message, error_message)
        if message is None:
            message = show(error_type) if error is None else show(error)
        context = _one_of("context", context, error_context)
        if stack_trace is None:
            stack_trace = (
                "".join(traceback.format_exception(error))
                if isinstance(error, BaseException)
                else ""
            )
        if severity not in list(Severity):
            raise UnknownName(
                f"There is no severity {show(severity)[:80]}.",
                remedy=f"severities: {', '.join(Severity)}.",
            )
        thread_id = thread_id or origin(self.settings.owner_key).thread_id
        return self.parts.reporting.errors.report(
            ErrorReport(
                error_type=error_type,
                message=str(message),
                severity=Severity(severity),
                thread_id=str(thread_id) if thread_id is not None else None,
                stack_trace=str(stack_trace),
                context=context if context is not None else {},
            )
        )

    async def alog_system_error(
        self, error_type: str, message: str | None = None, **given: Any
    ) -> str:
        """`log_system_error` off the event loop: the error is accepted when this returns."""
        return await off_loop(self.log_system_error, error_type, message, **given)

    def log_handler(self, level: int = logging.NOTSET) -> ThreadLogHandler:
        """A handler for `logging` that copies records into the log of the thread they were made
        for."""
        return ThreadLogHandler(self.emit_log, level=level, owner_key=self.settings.owner_key)

    def log_processor(self) -> ThreadLogProcessor:
        """The same for structlog: put it among the processors, before the renderer."""
        return ThreadLogProcessor(self.emit_log, owner_key=self.settings.owner_key)


def _one_of(name: str, given: _T | None, alias: _T | None) -> _T | None:
    """An argument that has two names."""
    if given is not None and alias is not None:
        raise TypeError(f"Give {name} or error_{name}, not both.")
    return given if given is not None else alias
