"""Threads for code of a project that may never come back.

Who waits for one may stop waiting; its seat is free again only when it is back, so that there are
never more of them than `most`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from anyio import CapacityLimiter, to_thread


class PatientThreads:
    """At most `most` threads, beside those of the server."""

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)

    async def run(self, work: Callable[[], Any]) -> Any:
        """What it returns or raises. When this is cancelled, the thread goes on by itself."""
        await self._free.acquire()
        seat = _Seat(self._free, asyncio.get_running_loop())
        try:
            return await to_thread.run_sync(
                seat.carry_out, work, abandon_on_cancel=True, limiter=CapacityLimiter(1)
            )
        finally:
            seat.leave()


class _Seat:
    """A seat: given back by the thread that took it, or by who waited for none."""

    def __init__(self, free: asyncio.Semaphore, loop: asyncio.AbstractEventLoop) -> None:
        self._free = free
        self._loop = loop
        self._lock = threading.Lock()
        self._taken = False

    def carry_out(self, work: Callable[[], Any]) -> Any:
        if not self._take():  # who waited is gone
            return None
        try:
            return work()
        finally:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._free.release)

    def leave(self) -> None:
        if self._take():
            self._free.release()

    def _take(self) -> bool:
        with self._lock:
            taken, self._taken = self._taken, True
        return not taken
