"""Runs the command line and kills itself (`kill -9`) just before or after the nth call of a method.

python -m support.killed before|after MODULE:CLASS.METHOD OCCURRENCE import --from ...

With `moment` instead of before or after, the occurrence is a number of milliseconds.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

from surgetank.cli.app import main  # here: who forks this program has loaded it
from surgetank.streams.checkpoints.transfer import transfer


def die_after(milliseconds: int) -> None:
    """The kernel ends this process then, whatever it does: in a call of C, too."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)


def die_in(owner: Any, method: str, when: str, occurrence: int) -> None:
    """Wrap the method so that just before or after its nth call this process is killed."""
    if when == "moment":
        die_after(occurrence)
        return
    plain = getattr(owner, method)
    count = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if when == "before" and count == occurrence:
            os.kill(os.getpid(), signal.SIGKILL)
        result = plain(*args, **kwargs)
        if when == "after" and count == occurrence:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method, wrapped)


def die_at(when: str, target: str, occurrence: int) -> None:
    """`die_in` for a target `MODULE:CLASS.METHOD`."""
    if when == "moment":
        die_after(occurrence)
        return
    module, _, name = target.partition(":")
    owner, _, method = name.partition(".")
    die_in(getattr(importlib.import_module(module), owner), method, when, occurrence)


if __name__ == "__main__":
    die_at(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    transfer._PORTION_ENTRIES = 5  # several flushes, in a small test too
    sys.argv = ["surgetank", *sys.argv[4:]]
    main()
