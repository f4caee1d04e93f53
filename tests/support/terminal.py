"""A program on a terminal of its own: what it writes is waited for, what is typed is sent."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from support.waiting import wait_until

# It has a session of its own, whose terminal this becomes: Ctrl-C is for it.
_RUN = """
import fcntl, runpy, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
runpy.run_module("surgetank", run_name="__main__", alter_sys=True)
"""


class Terminal:
    """The side of the person."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process = process
        self._screen = screen
        self.shown = ""

    def type(self, text: str) -> None:
        """Send keys."""
        os.write(self._screen, text.encode())

    def wait_until_busy(self) -> None:
        """Until the program and its children have computed for half a second more: what was typed is being run."""
        before = self._computed()
        wait_until(lambda: self._computed() > before + 0.5, "the program to compute", 40)

    def _computed(self) -> float:
        """Seconds of CPU. A child that ended meanwhile counts nothing."""
        program = psutil.Process(self.process.pid)
        total = 0.0
        for process in (program, *program.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def wait_for(self, text: str, timeout_s: float = 40.0) -> str:
        """What was written up to this text, which is taken off the screen."""
        deadline = time.monotonic() + timeout_s
        while text not in self.shown:
            left = deadline - time.monotonic()
            ready = select.select([self._screen], [], [], max(0.0, left))[0]
            assert ready, f"no {text!r} in {self.shown!r}"
            try:
                self.shown += os.read(self._screen, 65536).decode(errors="replace")
            except OSError as error:  # its end
                raise AssertionError(f"it ended without {text!r}: {self.shown!r}") from error
        before, _, self.shown = self.shown.partition(text)
        return before


@contextmanager
def on_terminal(*arguments: str, home: Path, settings: Mapping[str, str]) -> Iterator[Terminal]:
    """`surgetank` with these arguments, on a terminal of 100 columns."""
    person, program = pty.openpty()
    termios.tcsetwinsize(program, (40, 100))
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, *arguments],
        stdin=program, stdout=program, stderr=program, cwd=home, start_new_session=True,
        env={**os.environ, "TERM": "xterm", **settings},
    )  # fmt: skip
    os.close(program)
    try:
        yield Terminal(process, person)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(person)
