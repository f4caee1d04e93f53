"""Ends a test server and removes its folder as soon as the test run is gone, however it went.

The run holds the other end of this process's standard input. It closes when the run lets go of it,
and also when the run is interrupted or killed: then every PostgreSQL and PgBouncer whose command
line names the folder is ended. The folder's name is random and belongs to this run, so nobody
else's server is ever touched.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from contextlib import suppress

import psutil


def servers(folder: str) -> list[psutil.Process]:
    """The servers that were started in the folder. Redis names its port in the stead of its command
    line, and has the folder as its own."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline", "cwd"])
        if process.info["name"] in ("postgres", "pgbouncer", "redis-server")
        and any(
            folder in part for part in (*(process.info["cmdline"] or ()), process.info["cwd"] or "")
        )
    ]


def wait(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that still live when the time is over. A zombie does not: it only waits for a slow
    init."""
    deadline = time.monotonic() + timeout_s
    while (
        left := [process for process in processes if lives(process)]
    ) and time.monotonic() < deadline:
        time.sleep(0.005)
    return left


def lives(process: psutil.Process) -> bool:
    """Whether the process can still do something."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def main(folder: str) -> None:
    """Wait for the end of the run, then clear up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    found = servers(folder)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            at_once = signal.SIGQUIT if process.info["name"] == "postgres" else signal.SIGTERM
            process.send_signal(at_once)
    for process in wait(found, timeout_s=10):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait(found, timeout_s=5)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
