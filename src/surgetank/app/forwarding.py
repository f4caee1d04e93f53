"""The forwarder of one engine, on a thread of its own where this process flushes: from the first use
of runs on, so that an application without runs asks nobody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from surgetank.app.receipts import Arrivals
from surgetank.exceptions import DatabaseUnavailable
from surgetank.flush.events import FlushEvent, JobFinished
from surgetank.notify.travels import LostAct
from surgetank.service import Background
from surgetank.telemetry import log
from surgetank.workflows.forwarder import Forwarder

if TYPE_CHECKING:
    from surgetank.app.assembly import Parts

_BUSY_S, _IDLE_S, _AWAY_S = 0.2, 1.0, 2.0
# What is woken for in between is forwarded together, the longer the more there is to do: runs that are
# under way need the processor more than who follows them needs the news.
_PAUSE_S, _LONGEST_PAUSE_S = 0.03, 0.25
_SHARE = 0.1  # of the time that forwarding takes, about
_BUSY_FOR_S = 30.0


class Forwarding:
    """Forwards when it is woken, and looks regularly for what other processes have done."""

    def __init__(self, parts: Parts, tell: Callable[[BaseException, str], None]) -> None:
        self._parts = parts
        self._tell = tell
        self.forwarder = Forwarder(
            parts.database,
            parts.reporting.events,
            buffer_id=parts.buffer.id,
            actor=parts.settings.node,
            arrivals=Arrivals(parts),
            on_lost=self._tell_lost,
        )
        self._woken = threading.Event()
        self._thread = Background("surgetank-forward", self._run)
        self._begun = False

    def _tell_lost(self, lost: Sequence[LostAct]) -> None:
        self._parts.guards.travels.tell_acts(lost)

    def begin(self) -> None:
        """Runs are used here."""
        if not self._begun and self._parts.settings.flush_in_process:
            self._begun = True
            self.start()

    @property
    def running(self) -> bool:
        """True while it forwards."""
        return self._thread.running

    def start(self) -> None:
        """Start forwarding, once runs are used."""
        if self._begun:
            self._thread.start()

    def stop(self, within_s: float | None = None) -> bool:
        """End. What is not forwarded is by who comes next."""
        self._thread.stop(0.0)
        self._woken.set()
        return self._thread.stop(within_s)

    def wake(self) -> None:
        """Something was done: forward it now."""
        self._woken.set()

    def on_flush(self, event: FlushEvent) -> None:
        """A flush may have saved what a run left."""
        if isinstance(event, JobFinished) and self.forwarder.waits:
            self._woken.set()

    def _run(self, stop: threading.Event) -> None:
        busy_until = 0.0
        while not stop.is_set():
            self._woken.clear()
            began = time.monotonic()
            wait_s = _BUSY_S if time.monotonic() < busy_until else _IDLE_S
            try:
                if self.forwarder.step():
                    busy_until = time.monotonic() + _BUSY_FOR_S
                    wait_s = _BUSY_S
            except DatabaseUnavailable as error:  # told by what waits for the database
                log.info("forwarding_postponed", error=error.what)
                wait_s = _AWAY_S
            except Exception as error:  # noqa: BLE001 - told to the operator; it goes on
                if not stop.is_set():
                    self._tell(error, "")
                wait_s = _AWAY_S
            took = time.monotonic() - began
            self._woken.wait(wait_s)
            stop.wait(min(_LONGEST_PAUSE_S, max(_PAUSE_S, took / _SHARE)))
