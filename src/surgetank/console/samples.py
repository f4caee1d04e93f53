"""What the charts of the overview show: how much waited and for how long, of the last hour, taken every
few seconds while the server runs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.concurrency import run_in_threadpool

from surgetank.app.surgetank import Surgetank
from surgetank.exceptions import SurgetankError

_EVERY_S = 5.0
_KEPT = 720


class Samples:
    """The samples of one server, in memory."""

    def __init__(self, tank: Surgetank) -> None:
        self._tank = tank
        self._taken: deque[tuple[float, int, float]] = deque(maxlen=_KEPT)

    def take(self) -> None:
        """Take one. Does nothing while the buffer can't be read."""
        try:
            status = self._tank.status(jobs=1)
        except SurgetankError:
            return
        self._taken.append((status.at, status.buffer.entries, status.lag_s))

    def series(self) -> dict[str, Any]:
        """The samples, oldest first, as charts show them: seconds since the epoch, entries, seconds."""
        taken = list(self._taken)
        waiting = {"label": "entries", "values": [entries for _, entries, _ in taken]}
        lag = {"label": "seconds", "values": [round(lag, 2) for _, _, lag in taken]}
        return {
            "at": [round(at, 1) for at, _, _ in taken],
            "charts": {"waiting": [waiting], "lag": [lag]},
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take them until this ends."""
        taking = asyncio.create_task(self._run())
        try:
            yield
        finally:
            taking.cancel()
            await asyncio.wait({taking})

    async def _run(self) -> None:
        while True:
            await run_in_threadpool(self.take)
            await asyncio.sleep(_EVERY_S)
