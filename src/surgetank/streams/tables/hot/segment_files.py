"""Where the files of segments are: in a folder beside the file of hot rows, or where hosts share
files of tables."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from surgetank.exceptions import BufferCorrupt, BufferUnavailable, SurgetankError
from surgetank.private import make_folder, open_file

_END = ".arrow"
_SHARED = "hot"  # in the location of tables; files of a table are below its number there


class SegmentFiles(Protocol):
    """Files that never change, by name."""

    def store(self, name: str, rows: pa.Table) -> int:
        """Store rows; they survive a power cut. How many bytes they take. Raises
        `BufferUnavailable`."""
        ...

    def open(self, name: str) -> pa.Table:
        """The rows of a file. Raises `BufferCorrupt`."""
        ...

    def remove(self, names: Collection[str]) -> None:
        """Unlink files. One that is gone is no error."""
        ...

    def older(self, age_s: float) -> list[str]:
        """All names of files that were stored so long ago."""
        ...


class SegmentFolder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def store(self, name: str, rows: pa.Table) -> int:
        try:
            make_folder(self.path)
            with open_file(self.path / name, "xb") as file:
                _write(file, rows)
                file.flush()
                os.fsync(file.fileno())
                size: int = file.tell()
            _sync(self.path)
        except OSError as error:
            self.remove([name])
            raise BufferUnavailable(
                f"A segment can't be written into {self.path} ({error.strerror or error}).",
                remedy="free some space, or check that this user may write there.",
            ) from error
        return size

    def open(self, name: str) -> pa.Table:
        try:
            return pa.ipc.open_file(pa.memory_map(str(self.path / name))).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise BufferCorrupt(
                f"The segment {self.path / name} can't be read ({error}). It was left as it is.",
                remedy="put the file back from a copy of the home.",
            ) from error

    def remove(self, names: Collection[str]) -> None:
        for name in names:
            with suppress(OSError):
                (self.path / name).unlink()

    def older(self, age_s: float) -> list[str]:
        if not self.path.is_dir():
            return []
        # Files have the time of the disk, not of a clock that is given.
        before = time.time() - age_s
        return [path.name for path in self.path.glob(f"*{_END}") if _age(path) < before]


class Shared(Protocol):
    """What a location of tables does for segments (`cold/location.py`)."""

    address: str

    def store(self, name: str, write: Any) -> Any: ...

    def open(self, name: str) -> pa.NativeFile: ...

    def unlink(self, names: list[str]) -> int: ...

    def below(self, folder: str) -> dict[str, float]: ...


class SharedSegments:
    """The location of the files of tables, which several hosts use: each of them reads a segment
    that another one accepted."""

    def __init__(self, location: Shared) -> None:
        self._location = location

    def store(self, name: str, rows: pa.Table) -> int:
        try:
            written = self._location.store(_named(name), lambda file: _write(file, rows))
        except (SurgetankError, OSError) as error:
            raise BufferUnavailable(
                f"A batch can't be stored in {self._location.address} ({error}).",
                remedy="see that the storage of tables answers (`surgetank doctor`); single rows are taken "
                "without it.",
            ) from error
        return int(written.bytes)

    def open(self, name: str) -> pa.Table:
        try:
            return pa.ipc.open_file(self._location.open(_named(name))).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise BufferCorrupt(
                f"The segment {_named(name)} of {self._location.address} can't be read ({error}).",
                remedy="put the object back from a copy; the rows of its batch are in it alone.",
            ) from error

    def remove(self, names: Collection[str]) -> None:
        # What can't be removed now is removed later: nothing names it.
        with suppress(SurgetankError, OSError):
            self._location.unlink([_named(name) for name in names])

    def older(self, age_s: float) -> list[str]:
        before = time.time() - age_s
        found = self._location.below(_SHARED)
        return [
            name.removeprefix(f"{_SHARED}/")
            for name, at in found.items()
            if at < before and name.endswith(_END)
        ]


def _named(name: str) -> str:
    return f"{_SHARED}/{name}"


def _write(file: Any, rows: pa.Table) -> None:
    if any(_is_part(chunk) for column in rows.columns for chunk in column.chunks):
        rows = rows.take(pa.array(np.arange(rows.num_rows)))
    with pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows)


def _is_part(array: pa.Array) -> bool:
    """Whether an array may be a part of a larger one, whose other values Arrow would write as
    well: of users who are not in the segment."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind, count, buffers = array.type, len(array), array.buffers()
    if array.offset or len(buffers) not in (2, 3):
        return True
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        ends = (
            np.frombuffer(buffers[1], np.int32, count + 1) if buffers[1] else np.zeros(1, np.int32)
        )
        return buffers[2] is not None and buffers[2].size > int(ends[-1])
    if (
        pa.types.is_primitive(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_fixed_size_binary(kind)
    ):
        return buffers[1] is not None and 8 * buffers[1].size > kind.bit_width * count + 7
    return True


def _sync(folder: Path) -> None:
    """Names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return float("inf")
