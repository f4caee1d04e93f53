"""Functions of runs, on the threads of their event loop. Python can't end a thread: a node that is a plain
function goes on when its run is cancelled, so a run is not over before its functions are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

_of_run: ContextVar[set[Future[Any]] | None] = ContextVar("surgetank_functions", default=None)


class FunctionThreads(ThreadPoolExecutor):
    """The default executor of a loop, which knows whose function it runs."""

    def __init__(self, most: int) -> None:
        super().__init__(most, thread_name_prefix="surgetank-function")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it on a thread, for the run in whose context it is asked for."""
        future = super().submit(fn, *args, **kwargs)
        if (functions := _of_run.get()) is not None:
            functions.add(future)
            future.add_done_callback(functions.discard)
        return future


class Functions:
    """Those of one run that have not returned: what is begun in its task from now on."""

    def __init__(self) -> None:
        self._open: set[Future[Any]] = set()
        _of_run.set(self._open)

    async def returned(self, within_s: float, stop: asyncio.Event, stop_s: float) -> bool:
        """Wait until all have returned: for `within_s`, or for `stop_s` once `stop` is set. False if
        that was too short."""
        if not self._open:
            return True
        waiting = [asyncio.wrap_future(future) for future in list(self._open)]
        all_of_them = asyncio.gather(*waiting, return_exceptions=True)
        stopping = asyncio.create_task(stop.wait())
        try:
            either: list[asyncio.Future[Any]] = [all_of_them, stopping]
            await asyncio.wait(either, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            if not all_of_them.done() and stop.is_set():
                await asyncio.wait([all_of_them], timeout=stop_s)
            return all_of_them.done()
        finally:
            stopping.cancel()
