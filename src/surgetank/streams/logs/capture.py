"""Existing logging calls into the thread's log: a handler for `logging` and a processor for
structlog.

Both take the thread from the record, from `working_for`, or from the LangGraph run that the call is
made in; lines without a thread pass by.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, MutableMapping
from typing import Any, Protocol

from surgetank.streams.logs.origin import origin

_STANDARD = set(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "thread_id",
    "user_id",
    "taskName",
}
_EVENT_KEYS = ("event", "thread_id", "level", "logger", "timestamp")
_OWN = "surgetank"
_busy = threading.local()


class Emits(Protocol):
    """What takes the lines: an engine's `emit_log`."""

    def __call__(
        self,
        message: str,
        *,
        thread_id: str | None = ...,
        level: int | str = ...,
        logger: str = ...,
        user_id: str | None = ...,
        wait: bool = ...,
        fields: Mapping[str, Any] | None = ...,
    ) -> Any:
        """Accept a line."""
        ...


class ThreadLogHandler(logging.Handler):
    """Sends records into the log of the thread that they were made for.

    logging.getLogger().addHandler(tank.log_handler())

    Extra attributes of a record become the line's fields; an exception adds its stack trace.
    Surgetank's own records are left out: it tells threads itself what concerns them. A line that
    can't be accepted is reported by `logging`'s own way (`handleError`), and never raises into the
    calling code.
    """

    def __init__(
        self, emit_log: Emits, *, level: int = logging.NOTSET, owner_key: str = "user_id"
    ) -> None:
        super().__init__(level)
        self._emit_log = emit_log
        self._owner_key = owner_key

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record into the log of its thread, if it has one."""
        here = origin(self._owner_key)
        thread_id = getattr(record, "thread_id", None) or here.thread_id
        own = record.name == _OWN or record.name.startswith(f"{_OWN}.")
        if thread_id is None or own or getattr(_busy, "here", False):
            return
        _busy.here = True
        try:
            fields = {
                k: v
                for k, v in vars(record).items()
                if k not in _STANDARD and not k.startswith("_")
            }
            if record.exc_info:
                fields["exc_info"] = logging.Formatter().formatException(record.exc_info)
            self._emit_log(
                record.getMessage(),
                thread_id=str(thread_id),
                level=record.levelno,
                logger=record.name,
                user_id=getattr(record, "user_id", None),
                wait=False,
                fields=fields,
            )
        except Exception:  # noqa: BLE001 - logging's own way of telling that a handler failed
            self.handleError(record)
        finally:
            _busy.here = False


class ThreadLogProcessor:
    """A structlog processor that copies events into the thread's log and passes them on
    unchanged."""

    def __init__(self, emit_log: Emits, *, owner_key: str = "user_id") -> None:
        self._emit_log = emit_log
        self._owner_key = owner_key

    def __call__(
        self, _: Any, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Write the event into the log of its thread, if it has one; returns it unchanged."""
        thread_id = event.get("thread_id") or origin(self._owner_key).thread_id
        if thread_id is None or getattr(_busy, "here", False):
            return event
        _busy.here = True
        try:
            fields = {
                k: v for k, v in event.items() if k not in _EVENT_KEYS and not k.startswith("_")
            }
            self._emit_log(
                str(event.get("event", "")),
                thread_id=str(thread_id),
                level=str(event.get("level", method)),
                logger=str(event.get("logger", "")),
                wait=False,
                fields=fields,
            )
        finally:
            _busy.here = False
        return event
