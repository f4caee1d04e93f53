"""Whether the file that is open is still the one at its path: one that was deleted takes writes
that nobody will find.

A file that was unlinked lives on for those who have it open. What it holds can be read and flushed
by them; what would be added to it is refused, because it would end with the process.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

from surgetank.exceptions import BufferUnavailable

_EVERY_S = 1.0
_PARTS = ("", "-wal", "-shm")
_Identity = tuple[int, int]


class FileIdentity:
    """Knows the files by device and inode, as they were when the first connection was open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = {end: found for end in _PARTS if (found := _identity(path, end)) is not None}
        self._asked_at = time.monotonic()
        self._missing: str | None = None
        self._lock = threading.Lock()

    def missing(self, *, now: bool = False) -> str | None:
        """What became of which file; None while all is well. Asks once a second, or `now`."""
        if self._missing is None and (now or time.monotonic() - self._asked_at >= _EVERY_S):
            with self._lock:
                self._asked_at = time.monotonic()
                self._missing = self._ask()
        return self._missing

    def _ask(self) -> str | None:
        for end, known in self._known.items():
            found = _identity(self._path, end)
            if found != known:
                name = self._path.name + end
                return (
                    f"{name} was deleted"
                    if found is None
                    else f"{name} was replaced by another file"
                )
        return None

    def problem(self, *, now: bool = False) -> BufferUnavailable | None:
        """The error for whoever wants to add something."""
        missing = self.missing(now=now)
        if missing is None:
            return None
        return BufferUnavailable(
            f"The buffer {self._path} was taken away under this process: {missing}. Nothing new is "
            f"accepted, because it"
            " would be lost with the process.",
            remedy="let this process run until `flush()` has saved what it holds, then start it "
            "again; find out who"
            " deletes files in that folder.",
        )


def _identity(path: Path, end: str) -> _Identity | None:
    with suppress(OSError):
        found = path.with_name(path.name + end).stat()
        return (found.st_dev, found.st_ino) if found.st_nlink else None
    return None
