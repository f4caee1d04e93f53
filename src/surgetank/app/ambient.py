"""`surgetank.emit_log` and its like without an engine at hand: they speak to the engine that was
opened last.

Nodes of a graph are plain functions far from where the engine was made; with one engine per
process, which is the rule, there is nothing to pass around.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import Any, Protocol

from surgetank.events.types import RunEvent, Severity
from surgetank.exceptions import ConfigurationError


class _Speaks(Protocol):
    def emit_log(
        self, message: str, *, thread_id: str | None = ..., level: int | str = ..., **fields: Any
    ) -> int: ...
    def broadcast_run_event(
        self, event: str | Mapping[str, Any], *, thread_id: str | None = ..., **fields: Any
    ) -> RunEvent: ...
    def log_system_error(
        self,
        error_type: str,
        message: str | None = ...,
        *,
        severity: str | Severity = ...,
        thread_id: str | None = ...,
        error: BaseException | None = ...,
        stack_trace: str | None = ...,
        context: Mapping[str, Any] | None = ...,
        error_message: str | None = ...,
        error_context: Mapping[str, Any] | None = ...,
    ) -> str: ...
    async def aemit_log(self, message: str, **given: Any) -> int: ...
    async def abroadcast_run_event(
        self, event: str | Mapping[str, Any], **given: Any
    ) -> RunEvent: ...
    async def alog_system_error(
        self, error_type: str, message: str | None = ..., **given: Any
    ) -> str: ...


_lock = threading.Lock()
_opened: list[weakref.ref[_Speaks]] = []


def enter(engine: _Speaks) -> None:
    """Make this the engine that the functions below speak to."""
    with _lock:
        _opened.append(weakref.ref(engine))


def leave(engine: _Speaks) -> None:
    """The engine was closed: the one opened before it takes over."""
    with _lock:
        _opened[:] = [ref for ref in _opened if ref() is not None and ref() is not engine]


def current() -> _Speaks:
    """The engine opened last. Raises `ConfigurationError` when none is open."""
    with _lock:
        for ref in reversed(_opened):
            engine = ref()
            if engine is not None:
                return engine
    raise ConfigurationError(
        "No Surgetank is open in this process.",
        remedy="open one (`with Surgetank() as tank:`) or call the method of the one you have.",
    )


def emit_log(
    message: str, *, thread_id: str | None = None, level: int | str = "info", **fields: Any
) -> int:
    """Write a line into a thread's log; returns its number. See `Surgetank.emit_log`."""
    return current().emit_log(message, thread_id=thread_id, level=level, **fields)


def broadcast_run_event(
    event: str | Mapping[str, Any], *, thread_id: str | None = None, **fields: Any
) -> RunEvent:
    """Tell an event to everybody who follows the thread. See `Surgetank.broadcast_run_event`."""
    return current().broadcast_run_event(event, thread_id=thread_id, **fields)


# The signature is the method's, so that editors and type checkers know it.
def log_system_error(
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
    """Report an error of your own; returns its group's id. See `Surgetank.log_system_error`."""
    return current().log_system_error(
        error_type,
        message,
        severity=severity,
        thread_id=thread_id,
        error=error,
        stack_trace=stack_trace,
        context=context,
        error_message=error_message,
        error_context=error_context,
    )


async def aemit_log(message: str, **given: Any) -> int:
    """`emit_log` for event loops: it waits off the loop. See `Surgetank.aemit_log`."""
    return await current().aemit_log(message, **given)


async def abroadcast_run_event(event: str | Mapping[str, Any], **given: Any) -> RunEvent:
    """`broadcast_run_event` for event loops. See `Surgetank.abroadcast_run_event`."""
    return await current().abroadcast_run_event(event, **given)


async def alog_system_error(error_type: str, message: str | None = None, **given: Any) -> str:
    """`log_system_error` for event loops. See `Surgetank.alog_system_error`."""
    return await current().alog_system_error(error_type, message, **given)
