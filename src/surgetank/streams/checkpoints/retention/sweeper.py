"""The thread that retention runs on in the background: it ticks, waits, and outlives what goes
wrong."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from surgetank.exceptions import BufferFull, DatabaseUnavailable
from surgetank.service import Background
from surgetank.streams.checkpoints.retention.plan import Limits
from surgetank.streams.checkpoints.retention.sweep import LONGEST_PAUSE_S, Retention, check
from surgetank.telemetry import log


class Sweeper(Background):
    """The background thread: ticks until it is stopped, and waits while the database is away."""

    def __init__(
        self,
        retention: Retention,
        limits: Limits,
        *,
        interval_s: float,
        on_problem: Callable[[BaseException, str], None],
    ) -> None:
        super().__init__("surgetank-retention", self._run)
        check(limits)
        self._retention = retention
        self._limits = limits
        self._interval_s = interval_s
        self._on_problem = on_problem

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                pause = self._retention.tick(self._limits, interval_s=self._interval_s)
            except (DatabaseUnavailable, BufferFull) as error:
                # Flushing tells people about it; here it only means that there is time.
                log.info("retention_waits", error=error.what)
                pause = min(self._interval_s, LONGEST_PAUSE_S)
            except Exception as error:  # noqa: BLE001 - reported to the operator; the thread must outlive it
                self._on_problem(error, traceback.format_exc())
                pause = LONGEST_PAUSE_S
            stop.wait(pause)
