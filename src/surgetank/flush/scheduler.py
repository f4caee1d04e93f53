"""The thread that flushes in the background: looks what is due, runs jobs.

It runs inside an application (`Surgetank` starts it) and in `surgetank worker`. Stopping it lets
the group that is being written finish and gives everything else back.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence

from surgetank.buffer.coordination import Backlog
from surgetank.exceptions import SurgetankError
from surgetank.flush.breaker import BreakerState
from surgetank.flush.flusher import Flusher
from surgetank.model import JobStatus
from surgetank.service import Background

_LONGEST_PAUSE_S = 5.0
# Between flushes of runs that ended, and the share of time that these take about: who is under way needs
# the processor more than who has ended needs the database.
_LONGEST_REST_S, _SHARE = 0.5, 0.1


class Scheduler:
    """Runs the flushers of all streams, one after the other, until it is stopped."""

    def __init__(
        self,
        buffer: Backlog,
        flushers: Sequence[Flusher],
        *,
        tick_s: float = 0.2,
        on_problem: Callable[[BaseException, str], None],
    ) -> None:
        self._buffer = buffer
        self._flushers = list(flushers)
        self._tick_s = tick_s
        self._on_problem = on_problem
        self._wake = threading.Event()
        self._background = Background("surgetank-flush", self.run)
        # What waits for it, and what nobody waits for, each in the order in which it ended.
        self._awaited: dict[tuple[str, str], None] = {}
        self._ended: dict[tuple[str, str], None] = {}
        self._rest_until = 0.0

    def add(self, flusher: Flusher) -> None:
        """One more, of a stream that came into use later."""
        self._flushers = [*self._flushers, flusher]

    @property
    def running(self) -> bool:
        """True while the thread lives."""
        return self._background.running

    def start(self) -> None:
        """Start the thread. Does nothing if it runs."""
        self._background.start()

    def wake(self) -> None:
        """Look at once instead of at the next tick."""
        self._wake.set()

    def run_ended(self, stream: str, partition: str, *, awaited: bool = True) -> None:
        """Flush a partition at once, because the run that wrote to it has ended. Where nobody waits
        for that (not `awaited`) it is flushed soon, with others that ended meanwhile."""
        (self._awaited if awaited else self._ended)[stream, partition] = None
        if awaited or time.monotonic() >= self._rest_until:
            self.wake()

    def stop(self, within_s: float | None = None) -> bool:
        """Finish the group that is being written, release the rest, end. False if that took too
        long."""
        self._background.stop(0.0)
        self._wake.set()  # it may be waiting for the next tick
        return self._background.stop(within_s)

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. A problem is reported and work goes on after a growing pause."""
        pause = self._tick_s
        while not stop.is_set():
            try:
                pause = 0.0 if self._round(stop) else self._tick_s
            except Exception as error:  # noqa: BLE001 - reported to the operator; the thread must outlive it
                self._on_problem(error, traceback.format_exc())
                pause = min(_LONGEST_PAUSE_S, max(pause, self._tick_s) * 2)
            if pause:
                self._wake.wait(pause)
                self._wake.clear()

    def _flush_ended(self, stop: threading.Event) -> None:
        if stop.is_set():
            return
        began = time.monotonic()
        ended: dict[str, list[str]] = {}
        for waiting in (self._awaited, self._ended if began >= self._rest_until else {}):
            for stream, partition in list(waiting):
                del waiting[stream, partition]
                ended.setdefault(stream, []).append(partition)
        for stream, partitions in ended.items():
            flusher = next(flusher for flusher in self._flushers if flusher.stream == stream)
            if flusher.breaker.state() is not BreakerState.CLOSED:
                continue  # they wait their turn like all others
            there = self._buffer.first_waiting(stream, partitions)
            if names := [name for name in partitions if name in there]:
                flusher.run_ended(names, stop)
        if ended:
            took = time.monotonic() - began
            self._rest_until = time.monotonic() + min(_LONGEST_REST_S, took / _SHARE)

    def _round(self, stop: threading.Event) -> bool:
        self._flush_ended(stop)
        busy = False
        for flusher in self._flushers:
            if stop.is_set():
                break
            job = flusher.run_if_due(stop)
            busy = busy or (job is not None and job.status is JobStatus.COMPLETED)
        return busy


def problem_of(error: BaseException) -> str:
    """One line for a person."""
    return error.what if isinstance(error, SurgetankError) else f"{type(error).__name__}: {error}"
