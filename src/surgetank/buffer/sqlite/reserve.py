"""Room on a full disk: a preallocated file beside the buffer, given up piece by piece so that it
can be flushed.

When little is free, appends are refused (the buffer is full), while flushing, acknowledging and
telling go on: they need some room before they make any. The reserve is made again when there is
space. Others write to the same disk, so what is free is asked for again and again, and the reserve
is never given away at once.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

from surgetank.private import open_file

_EVERY_S = 0.2
_OF_A_COMMIT = 32 * 1024  # pages that each commit writes
_TO_OPEN = 256 * 1024
_LAST = 1024**2  # is only given up to open the buffer: without it not even that could be done


class DiskReserve:
    """Watches the disk of the file at `path`. `size` bytes are set aside for hard times; 0: nothing
    is done."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path.with_name(path.name + "-reserve")
        self.size = size
        self.floor = size // 4  # with less than this free, nothing new is accepted
        self._free = 1 << 62
        self._asked_at = float("-inf")
        self._spent = 0  # since it was asked
        self._lock = threading.Lock()
        self.short = False

    def free(self) -> int:
        """Bytes that are free on the disk, the reserve not counted; asked a few times a second."""
        late = time.monotonic() - self._asked_at >= _EVERY_S or self._spent > self.floor // 4
        if self.size and late:
            self._ask()
        return self._free

    def spent(self, size: int) -> None:
        """So many bytes were accepted, which take more on the disk; after some of them the disk is
        asked again."""
        self._spent += size + _OF_A_COMMIT

    def _ask(self) -> None:
        self._asked_at = time.monotonic()
        self._spent = 0
        with suppress(OSError):  # a home that is gone is told by whoever writes to it
            self._free = free_bytes(self.path.parent)
            self.short = self._free < (2 * self.floor if self.short else self.floor)

    def room(self) -> int:
        """How many bytes may still be accepted as far as the disk is concerned."""
        return max(0, self.free() - self.floor) if self.size else 1 << 62

    def held(self) -> int:
        """Bytes that are still set aside."""
        with suppress(OSError):
            return self.path.stat().st_size
        return 0

    def is_short(self) -> bool:
        """Whether nothing new is accepted."""
        self.free()
        return self.short

    def before_write(self) -> None:
        """Make room for a small write, if the disk has none."""
        if not self.size:
            return
        if self.short:
            self._ask()  # each time: the write before this one may have taken what there was
        if self.free() < self.floor // 2:
            self._give(self.floor // 2, last=False)

    def before_open(self) -> None:
        """Make room for opening the buffer, with the last of the reserve if need be."""
        if self.size:
            self._ask()
            if self._free < _TO_OPEN:
                self._give(_TO_OPEN, last=True)

    def hit(self) -> None:
        """A write failed for want of space, whatever the disk says (a quota)."""
        if self.size:
            self.short = True
            self._give(self.floor, last=False)

    def _give(self, needed: int, *, last: bool) -> None:
        with self._lock, suppress(OSError):
            held = self.path.stat().st_size
            keep = max(0 if last else min(_LAST, self.size // 8), held - needed)
            if keep < held:
                os.truncate(self.path, keep)
        self._ask()

    def refill(self) -> None:
        """Make the reserve again, as far as there is space for it."""
        if not self.size or self.is_short():
            return
        with self._lock, suppress(OSError):  # no room after all: the next time
            held = self.path.stat().st_size if self.path.exists() else 0
            if held < self.size and self._free - (self.size - held) >= 2 * self.floor:
                with open_file(self.path, "ab") as file:
                    _allocate(file.fileno(), self.size)

    def remove(self) -> None:
        """Give all of it back: nothing waits."""
        if self.size:
            self.path.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """What is free on a folder's disk for this user. Raises `OSError`."""
    return shutil.disk_usage(folder).free


def _allocate(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    while (held := os.fstat(file).st_size) < size:  # a sparse file would reserve nothing
        os.write(file, b"\1" * min(1024**2, size - held))
