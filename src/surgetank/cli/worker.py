"""`surgetank worker`: flush until told to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from surgetank.cli.output import DatabaseUrl, Home, err
from surgetank.engine import Surgetank


def worker(home: Home = None, database_url: DatabaseUrl = None) -> int:
    """Flush a buffer in the background until SIGTERM or Ctrl-C.

    Any number of workers and applications may share one buffer. When it is told to stop, a worker finishes the
    group that it is writing, gives the rest back, and ends. Applications that leave flushing to workers set
    SURGETANK_FLUSH_IN_PROCESS=false.
    """
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    with Surgetank(home, database_url=database_url, flush_in_process=True, flush_on_close=False) as tank:
        err.print(f"surgetank worker {tank.settings.node} flushes {tank.parts.buffer.path}", markup=False)
        while not stop.wait(1.0):
            if not tank.parts.scheduler.running:
                err.print("the flush thread ended unexpectedly; see the log")
                return 1
        err.print("stopping: finishing what is being written")
    return 0
