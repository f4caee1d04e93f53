"""A worker of runs as a service: a thread with an event loop of its own, so that a graph that
blocks its loop holds up no server, and what wakes it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from surgetank.app.run_room import RunRoom
from surgetank.database.pool import Database
from surgetank.service import Background, Service
from surgetank.workflows.listening import CANCELS, RUNS, Listening
from surgetank.workflows.worker import RunWorker


class RunService:
    """Runs the worker between `start` and `stop`. Told to stop it gives its runs back. Starts
    once."""

    def __init__(
        self,
        worker: RunWorker,
        room: RunRoom,
        database: Database,
        *,
        beside: Sequence[Service] = (),
    ) -> None:
        self.worker = worker
        self._room = room
        self._beside = tuple(beside)
        self._listening = Listening(database, {RUNS: worker.wake, CANCELS: worker.check_cancels})
        self._thread = Background("surgetank-run-loop", self._work)

    @property
    def running(self) -> bool:
        """True while the worker works."""
        return self._thread.running

    @property
    def listening(self) -> bool:
        """Whether other processes' runs are heard of at once."""
        return self._listening.listening

    def start(self) -> None:
        """Start working."""
        self._thread.start()
        self._listening.service.start()
        for service in self._beside:
            service.start()

    def stop(self, within_s: float | None = None) -> bool:
        """Give runs back and end."""
        self._listening.service.stop(0.0)
        for service in self._beside:
            service.stop(0.0)
        ended = self._thread.stop(within_s)
        self._listening.service.stop(within_s)
        for service in self._beside:
            ended = service.stop(within_s) and ended
        return ended

    def _work(self, stop: threading.Event) -> None:
        asyncio.run(self._serve(stop))

    async def _serve(self, stop: threading.Event) -> None:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait() -> None:
            stop.wait()
            loop.call_soon_threadsafe(ended.set)

        def wake() -> None:
            self.worker.wake()
            self.worker.check_cancels()

        waiting = threading.Thread(target=wait, name="surgetank-run-stop", daemon=True)
        waiting.start()
        forget = self._room.wake_with(wake)
        try:
            await self.worker.work(ended)
        finally:
            forget()
