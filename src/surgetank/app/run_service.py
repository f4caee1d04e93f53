"""A worker of runs as a service: a thread with an event loop of its own, so that a graph that
blocks its loop holds up no server, and what wakes it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from surgetank.app.run_room import RunRoom
from surgetank.database.pool import Database
from surgetank.service import Background, Service
from surgetank.workflows.listening import CANCELS, RUNS, Listening
from surgetank.workflows.worker import RunWorker

_PAIRED_WITHIN_S = 1.0
_PAIRS = 1000


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
        self._accepted = _Pairs()
        self._listening = Listening(
            database, {RUNS: self._heard_runs, CANCELS: lambda _: worker.check_cancels()}
        )
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

    def _heard_runs(self, times: int) -> None:
        if self._accepted.notified(times):
            self.worker.wake()

    def _work(self, stop: threading.Event) -> None:
        asyncio.run(self._serve(stop))

    async def _serve(self, stop: threading.Event) -> None:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait() -> None:
            stop.wait()
            loop.call_soon_threadsafe(ended.set)

        def wake(cancels: bool) -> None:
            if not self._listening.listening or self._accepted.here():
                self.worker.wake()
            if cancels:
                self.worker.check_cancels()

        waiting = threading.Thread(target=wait, name="surgetank-run-stop", daemon=True)
        waiting.start()
        ends = [
            self._room.wake_with(wake),
            self._room.hand_to(self.worker.slots, self._accepted.here),
        ]
        try:
            await self.worker.work(ended)
        finally:
            for end in ends:
                end()


class _Pairs:
    """Of a run that is accepted in this process the worker hears twice: at once, and by the
    database. One look at the queue is enough, whichever comes first.

    Whatever is left out has an unpaired one of the other kind before it, so that something is
    looked for after each acceptance.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open = deque[float]()
        self._are_here = False  # which kind the unpaired ones are

    def here(self) -> bool:
        """A run was accepted in this process: whether to look for it."""
        return self._take(1, here=True)

    def notified(self, times: int) -> bool:
        """The database told of so many: whether to look for them."""
        return self._take(times, here=False)

    def _take(self, times: int, *, here: bool) -> bool:
        with self._lock:
            now = self._clock()
            while self._open and now - self._open[0] > _PAIRED_WITHIN_S:
                self._open.popleft()  # its other half was lost, or it has none
            if self._open and self._are_here is not here:
                while self._open and times:
                    self._open.popleft()
                    times -= 1
            if not times:
                return False
            self._are_here = here
            self._open.extend([now] * min(times, _PAIRS - len(self._open)))
            return True
