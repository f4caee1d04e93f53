"""Whom a piece of code works for: its thread and its user."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Origin:
    """The thread and the user that a piece of code works for."""

    thread_id: str | None = None
    user_id: str | None = None


_origin: ContextVar[Origin | None] = ContextVar("surgetank_origin", default=None)


@contextmanager
def working_for(thread_id: str, user_id: str | None = None) -> Iterator[None]:
    """Within this block, log lines and events without a `thread_id` belong to this thread."""
    token = _origin.set(Origin(thread_id, user_id))
    try:
        yield
    finally:
        _origin.reset(token)


def origin(owner_key: str = "user_id") -> Origin:
    """Whom the running code works for: `working_for`, else the config of the LangGraph run it is
    part of."""
    chosen = _origin.get()
    if chosen is not None:
        return chosen
    module = sys.modules.get("langchain_core.runnables.config")  # not loaded: no graph is running
    config = module.var_child_runnable_config.get() if module is not None else None
    configurable = (config or {}).get("configurable") or {}
    thread, user = configurable.get("thread_id"), configurable.get(owner_key)
    return Origin(
        str(thread) if thread is not None else None, str(user) if user is not None else None
    )
