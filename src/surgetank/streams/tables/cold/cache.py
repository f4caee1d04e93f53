"""Files of a bucket, copied to a folder of this machine: what is read is fetched once, and what was used least goes
first when there is no more room.

Several processes share the folder. A copy appears by its name when it is complete (a rename), so a process that is
killed leaves only files under `aside`, which nobody holds a lock on. Who has a copy open keeps it, whoever removes
its name.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from surgetank.private import make_folder, open_file

Fetch = Callable[[str, BinaryIO], None]  # copies a file of this name
_ATTEMPTS = 20  # to open a copy, while others remove it
_OLD_S = 60.0  # a file aside that nobody holds was left by somebody who was killed
_STRIPES = 16


class FileCache:
    """At most about `max_bytes`: a share of it more for each process beyond the second that fetches
    at the same moment."""

    def __init__(self, folder: Path, max_bytes: int, fetch: Fetch) -> None:
        self.max_bytes = max_bytes
        self._files, self._aside = folder / "files", folder / "aside"
        self._fetch = fetch
        self._fetching = [threading.Lock() for _ in range(_STRIPES)]
        self._lock = threading.Lock()
        self._room = 0  # bytes that may be added before what is there is counted again

    def open(self, name: str) -> pa.NativeFile:
        """A copy to read, fetched if there is none."""
        path = self._files / name
        for _ in range(_ATTEMPTS):
            with suppress(FileNotFoundError):
                opened = pa.memory_map(str(path))
                with suppress(OSError):
                    os.utime(path)
                return opened
            self._add_fetched(name)
        raise FileNotFoundError(2, "it is removed as soon as it is fetched", str(path))

    @contextmanager
    def held(self, names: Sequence[str]) -> Iterator[Mapping[str, Path]]:
        """Copies that stay while they are held: second names, which nobody removes."""
        with self.beside() as folder:
            folder.mkdir(mode=0o700)
            found: dict[str, Path] = {}
            for number, name in enumerate(names):
                found[name] = folder / f"{number}.parquet"
                self._link(name, found[name])
            yield found

    def _link(self, name: str, target: Path) -> None:
        for _ in range(_ATTEMPTS):
            with suppress(FileNotFoundError):
                target.hardlink_to(self._files / name)
                os.utime(target)
                return
            self._add_fetched(name)
        raise FileNotFoundError(2, "it is removed as soon as it is fetched", name)

    def _add_fetched(self, name: str) -> None:
        with self._fetching[hash(name) % _STRIPES]:
            if (self._files / name).exists():
                return
            with self.beside() as temporary:
                with open_file(temporary, "wb") as file:
                    self._fetch(name, file)
                    file.flush()
                    os.fsync(file.fileno())
                self.add(name, temporary)

    @contextmanager
    def beside(self) -> Iterator[Path]:
        """A path of one's own for something that is not complete yet; removed at the end."""
        make_folder(self._aside)
        path = self._aside / uuid.uuid4().hex
        lock = path.with_suffix(".lock")
        with open_file(lock, "xb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            try:
                yield path
            finally:
                _remove(path)
                lock.unlink(missing_ok=True)

    def add(self, name: str, complete: Path) -> None:
        """Take a complete copy over."""
        final = self._files / name
        make_folder(final.parent)
        self._make_room(complete.stat().st_size)
        complete.rename(final)

    def forget(self, names: Sequence[str]) -> None:
        """Remove copies."""
        for name in names:
            (self._files / name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """All copies that there are."""
        return [path.relative_to(self._files).as_posix() for path in self._paths()]

    def tidy(self) -> None:
        """Remove what killed processes left."""
        before = time.time() - _OLD_S  # as the file system has it
        for lock in self._aside.glob("*.lock") if self._aside.is_dir() else ():
            with suppress(FileNotFoundError, BlockingIOError):
                if lock.stat().st_mtime < before:
                    with lock.open("rb") as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        _remove(lock.with_suffix(""))
                        lock.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        return list(self._files.glob("*/*")) if self._files.is_dir() else []

    def _make_room(self, size: int) -> None:
        with self._lock:
            self._room -= size
            if self._room >= 0:
                return
            share = self.max_bytes >> 4
            with self._alone():
                there: list[tuple[int, int, Path]] = []
                for path in self._paths():
                    with suppress(FileNotFoundError):
                        found = path.stat()
                        there.append((found.st_mtime_ns, found.st_size, path))
                total = sum(each[1] for each in there)
                for _, bytes_, path in sorted(there):
                    if total + size + share <= self.max_bytes:
                        break
                    path.unlink(missing_ok=True)
                    total -= bytes_
            # another process adds as well
            self._room = max(0, (self.max_bytes - total - size) >> 1)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with open_file(self._files.parent / "evicting.lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
