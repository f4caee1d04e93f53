"""Reading the logs from an event loop: a file is read straight, which takes microseconds; what is asked over a
network is asked on a thread.

On threads of its own: requests that wait for the database take no place from readers, nor these from them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from anyio import CapacityLimiter, to_thread

T = TypeVar("T")


class Far(Protocol):
    """A log that may be on another machine."""

    @property
    def over_network(self) -> bool:
        """Whether each call may wait for a network."""
        ...


class LogReads:
    """Calls of a log, for one event loop; at most `at_once` wait for a network."""

    def __init__(self, at_once: int) -> None:
        self._limiter = CapacityLimiter(at_once)

    async def __call__(self, log: Far, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """What the call gives."""
        if not log.over_network:
            return call(*arguments, **named)
        asked = partial(call, *arguments, **named)
        # Who goes away doesn't wait for an answer.
        return await to_thread.run_sync(asked, limiter=self._limiter, abandon_on_cancel=True)
