"""Another process that holds a SQLite file's write lock until it is told to let go."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CODE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
connection.close()
print("free", flush=True)
"""


class Holder:
    """A process that holds the file."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "held\n"

    def let_go(self) -> None:
        """Free the file. Idempotent."""
        self._process.communicate(timeout=20)


@contextmanager
def held(path: Path) -> Iterator[Holder]:
    """The file is held by another process until `let_go`, or to the end of the block."""
    holder = Holder(path)
    try:
        yield holder
    finally:
        if holder._process.returncode is None:
            holder.let_go()
