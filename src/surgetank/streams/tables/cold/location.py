"""Where the files of tables are stored: a folder of this machine. (A bucket: `bucket.py`.)

Names are relative, with slashes, and random: a name never stands for another content, but for files that are in no
manifest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from surgetank.private import make_folder

TEMPORARY = ".tmp"
IDENTITY = "storage.id"
Write = Callable[[Any], Any]  # writes a Parquet file into an open one; what is known of it


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was stored: what `Write` gave, its size, and that of its footer."""

    result: Any
    bytes: int
    footer_bytes: int


class Location(Protocol):
    """A location of files. Safe for several threads and processes.

    A bucket raises `ColdStateUnavailable` where it can't be used; writing raises `ConfigurationError`
    where somebody has to act. A folder raises `OSError`.
    """

    address: str  # without passwords
    shared: bool  # whether homes on several machines use it together

    def store(self, name: str, write: Write) -> Written:
        """Store a file: when it returns it is there, complete and durable; when it raises, it isn't
        there or is what an interruption leaves."""
        ...

    def open(self, name: str) -> pa.NativeFile:
        """A file to read. Raises `FileNotFoundError`."""
        ...

    def held(self, sizes: Mapping[str, int]) -> AbstractContextManager[Mapping[str, Path]]:
        """Files (and about how large each is) as files of this machine, which stay while they are
        held. Raises `InvalidRequest` for more than there is room for."""
        ...

    def distrust(self, name: str) -> None:
        """A file's copy on this machine can't be read: it isn't used any more."""
        ...

    def unlink(self, names: Sequence[str]) -> int:
        """Remove files; those that are gone already are no error. How many were removed."""
        ...

    def found(self) -> Mapping[str, float]:
        """All files, and when each was stored, in seconds since the epoch."""
        ...

    def below(self, folder: str) -> Mapping[str, float]:
        """The same of what is beside the files of tables, in a folder of that name."""
        ...

    def identity(self) -> str | None:
        """What the location says of itself."""
        ...

    def identify(self, text: str) -> str:
        """Write it down for good, unless there is one; the one that is there now."""
        ...

    def tidy(self, named: Callable[[Sequence[str]], set[str]]) -> None:
        """Remove copies on this machine of files that nothing names any more, and what killed
        processes left."""
        ...


class FolderLocation:
    """A folder of this machine."""

    shared = False

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self.address = str(self._path.absolute())

    def store(self, name: str, write: Write) -> Written:
        """Written under a temporary name, made durable, renamed, and its folder made durable: what
        the manifest names is there after a power cut."""
        final = self._path / name
        self._make(final.parent)
        temporary = final.with_name(final.name + TEMPORARY)
        with written_aside(temporary, write) as written:
            temporary.rename(final)
        _sync_folder(final.parent)
        return written

    def open(self, name: str) -> pa.NativeFile:
        return pa.memory_map(str(self._path / name))

    @contextmanager
    def held(self, sizes: Mapping[str, int]) -> Iterator[Mapping[str, Path]]:
        yield {name: self._path / name for name in sizes}

    def distrust(self, name: str) -> None:
        pass  # there is no other one

    def unlink(self, names: Sequence[str]) -> int:
        gone = 0
        for name in names:
            for each in (name, name + TEMPORARY):
                with suppress(FileNotFoundError):
                    (self._path / each).unlink()
                    gone += 1
        return gone

    def found(self) -> Mapping[str, float]:
        found: dict[str, float] = {}
        for folder in self._path.iterdir() if self._path.is_dir() else ():
            if folder.name.isdigit():
                found |= self.below(folder.name)
        return found

    def below(self, folder: str) -> Mapping[str, float]:
        found: dict[str, float] = {}
        for file in (self._path / folder).iterdir() if (self._path / folder).is_dir() else ():
            with suppress(FileNotFoundError):
                found[f"{folder}/{file.name}"] = file.stat().st_mtime
        return found

    def identity(self) -> str | None:
        try:
            return (self._path / IDENTITY).read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None

    def identify(self, text: str) -> str:
        if not self._path.is_dir():
            make_folder(self._path)
        temporary = self._path / f"{IDENTITY}{TEMPORARY}"
        with temporary.open("w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._path / IDENTITY)
        return text

    def tidy(self, named: Callable[[Sequence[str]], set[str]]) -> None:
        pass  # the files are the only ones

    @staticmethod
    def _make(folder: Path) -> None:
        if not folder.is_dir():
            make_folder(folder)
            for parent in (folder.parent, folder.parent.parent):
                _sync_folder(parent)


@contextmanager
def written_aside(temporary: Path, write: Write) -> Iterator[Written]:
    """A file that is written and durable under a temporary name; when the block raises, it is
    removed."""
    try:
        with open(temporary, "w+b", opener=_private) as file:
            result = write(file)
            file.flush()
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
            footer = int.from_bytes(os.pread(file.fileno(), 4, max(0, size - 8)), "little")
        yield Written(result, size, footer)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            # ENOSPC of a write names no file, and is to be told from a database that is away
            raise OSError(error.errno, error.strerror, str(temporary)) from error
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
