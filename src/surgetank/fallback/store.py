"""Where spill files lie: a folder, an object store (S3, GCS, Azure), or any place that fsspec knows (SFTP, ...).

A location carries a mark. Without the mark nothing is written into it or believed to be missing
from it: it is a mount that is not there, or the wrong bucket.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

from surgetank.exceptions import (
    ConfigurationError,
    FallbackDamaged,
    FallbackUnavailable,
    MissingExtra,
    SurgetankError,
)
from surgetank.fallback.codec import SUFFIX, Readable
from surgetank.objects import ObjectsProblem, ObjectStore, is_object_url
from surgetank.private import close_file, make_folder, open_file

MARK = "surgetank-fallback.json"
_MARK_TEXT = (
    b'{"what": "spilled entries of Surgetank buffers; see `surgetank recover`", "format": 1}\n'
)
_PART = ".part"
_PIECE = 1024**2
_SECRET = re.compile(
    r"((?:^|&)[^=&]*(?:key|token|secret|sig|pass|cred)[^=&]*=)[^&]*", re.IGNORECASE
)


class _Named:
    """Reads of a file, their errors named: not those of whoever does something else while the file
    is open."""

    def __init__(self, file: Readable, named: Callable[[], AbstractContextManager[None]]) -> None:
        self._file = file
        self._named = named

    def read(self, size: int, /) -> bytes:
        with self._named():
            return self._file.read(size)


class FallbackStore(Protocol):
    """A location of spill files. Names are relative, with slashes.

    Each method raises `FallbackUnavailable` when the location can't be used, reading also
    `FallbackDamaged` when the location is there and the file is not.
    """

    address: str  # without passwords

    def prepare(self) -> None:
        """Make the location if it is new, and mark it."""
        ...

    def check(self) -> None:
        """Raise unless the location is there, with its mark."""
        ...

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a file whole into a prepared location: it is there, complete and durable, when this
        returns. When it raises, nothing is left of it, unless the location went away meanwhile."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Bytes of a file; fewer where it ends."""
        ...

    def open(self, name: str) -> AbstractContextManager[tuple[Readable, int]]:
        """A file to be read from its beginning, and its size."""
        ...

    def names(self) -> list[str]:
        """The spill files of the location, in order."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file and what an interrupted write left of it. One that is not there is no
        error, where the location is."""
        ...


def open_store(url: str) -> FallbackStore:
    """The store at a folder's path or a URL. Raises `ConfigurationError`, `MissingExtra`."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return FolderStore(Path(url))
    if scheme == "file":
        return FolderStore(Path(rest))
    return BucketStore(url) if is_object_url(url) else FsspecStore(url)


def address_of(url: str) -> str:
    """The URL or path as it may be shown and kept: a path made absolute, a URL without its
    secrets."""
    if "://" not in url or url.startswith("file://"):
        return str(Path(url.removeprefix("file://")).expanduser().absolute())
    parts = urlsplit(url)
    if parts.password is not None:
        parts = parts._replace(
            netloc=f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}"
        )
    elif not _SECRET.search(parts.query):
        return url
    return urlunsplit(parts._replace(query=_SECRET.sub(r"\1***", parts.query)))


def _unavailable(address: str, error: BaseException) -> FallbackUnavailable:
    said = str(error) if isinstance(error, ObjectsProblem) else f"{type(error).__name__}: {error}"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else said
    return FallbackUnavailable(
        f"The fallback location {address} can't be used ({reason}).",
        remedy="make it reachable and writable again (mount, network, credentials, space); what "
        "was spilled there is"
        " read and flushed by itself as soon as it is.",
    )


def _unmarked(address: str) -> FallbackUnavailable:
    return FallbackUnavailable(
        f"The fallback location {address} is there, but without its mark {MARK}: a mount that is "
        f"missing, or the wrong"
        " place?",
        remedy=f"bring back what lay there; if the mark alone was deleted, make the file {MARK} "
        f"again.",
    )


def _missing(address: str, name: str) -> FallbackDamaged:
    return FallbackDamaged(
        f"The spill file {name} is missing from {address}.",
        remedy="put it back (from a backup or a former version of the object), then run `surgetank "
        "recover`.",
    )


class FolderStore:
    """A folder, on this machine or mounted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.expanduser().absolute()
        self.address = str(self._folder)

    def prepare(self) -> None:
        with self._named():
            mark = self._folder / MARK
            if not mark.exists():
                make_folder(self._folder)
                if any(self._folder.rglob(f"*{SUFFIX}")):
                    raise _unmarked(self.address)
                self._write(mark, [_MARK_TEXT])
            # one per buffer; an older version left them as the umask said
            for folder in self._folder.iterdir():
                if folder.is_dir() and any(folder.glob(f"*{SUFFIX}")):
                    close_file(folder)

    def check(self) -> None:
        with self._named():
            if not self._folder.is_dir():
                raise _unavailable(self.address, FileNotFoundError(2, "there is no such folder"))
            if not (self._folder / MARK).exists():
                raise _unmarked(self.address)

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        with self._named():
            path = self._folder / name
            # not the location itself: it may be a mount that is away
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._write(path, pieces)

    @staticmethod
    def _write(path: Path, pieces: Iterable[bytes]) -> None:
        part = path.with_name(path.name + _PART)
        try:
            with open_file(part, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with suppress(OSError):  # what is told is why it could not be written
                part.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read(self, name: str, offset: int, length: int) -> bytes:
        with self._named(), self._opened(name) as file:
            file.seek(offset)
            return file.read(length)

    @contextmanager
    def open(self, name: str) -> Iterator[tuple[Readable, int]]:
        with self._named():
            file = self._opened(name)
            size = os.fstat(file.fileno()).st_size
        with file:
            yield _Named(file, self._named), size

    def _opened(self, name: str) -> BufferedReader:
        try:
            return (self._folder / name).open("rb")
        except FileNotFoundError:
            self.check()
            raise _missing(self.address, name) from None

    def names(self) -> list[str]:
        with self._named():
            self.check()
            found = self._folder.rglob(f"*{SUFFIX}")
            return sorted(path.relative_to(self._folder).as_posix() for path in found)

    def delete(self, name: str) -> None:
        with self._named():
            self.check()
            path = self._folder / name
            path.unlink(missing_ok=True)
            path.with_name(path.name + _PART).unlink(missing_ok=True)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _unavailable(self.address, error) from error


class BucketStore:
    """A bucket. Credentials come from the URL's query or from the environment. A file is one object:
    it is there when it is complete."""

    def __init__(self, url: str) -> None:
        self._objects = ObjectStore(url)
        self.address = address_of(url)

    def prepare(self) -> None:
        with self._named():
            if self._objects.exists(MARK):
                return
            if any(name.endswith(SUFFIX) for name in self._objects.found()):
                raise _unmarked(self.address)
            self._objects.put(MARK, _MARK_TEXT)

    def check(self) -> None:
        with self._named():
            if not self._objects.exists(MARK):
                raise _unmarked(self.address)

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        with self._named():
            self._objects.put_pieces(name, pieces)

    def read(self, name: str, offset: int, length: int) -> bytes:
        with self._named(name):
            return self._objects.get_range(name, offset, length)

    @contextmanager
    def open(self, name: str) -> Iterator[tuple[Readable, int]]:
        with self._named(name):
            size = self._objects.size(name)
        yield _Named(_Object(self._objects, name), lambda: self._named(name)), size

    def names(self) -> list[str]:
        with self._named():
            self.check()
            return sorted(name for name in self._objects.found() if name.endswith(SUFFIX))

    def delete(self, name: str) -> None:
        with self._named():
            self.check()
            self._objects.delete([name])

    @contextmanager
    def _named(self, name: str | None = None) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            self.check()
            raise _missing(self.address, name or "") from None
        except (ObjectsProblem, OSError) as error:
            raise _unavailable(self.address, error) from error


class _Object:
    """An object that is read from its beginning, a MB or more at a time."""

    def __init__(self, objects: ObjectStore, name: str) -> None:
        self._objects, self._name = objects, name
        self._at, self._piece = 0, b""

    def read(self, size: int, /) -> bytes:
        if not self._piece:
            self._piece = self._objects.get_range(self._name, self._at, max(size, _PIECE))
            self._at += len(self._piece)
        found, self._piece = self._piece[:size], self._piece[size:]
        return found


class FsspecStore:
    """A URL of fsspec. Credentials come from where its driver looks for them (environment,
    configuration files)."""

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingExtra(
                "fsspec", "fallback", "A fallback location that is no folder"
            ) from error
        self.address = address_of(url)
        try:
            self._fs, root = url_to_fs(url)
        except (
            ImportError,
            ValueError,
        ) as error:  # a driver that is not installed, a scheme that nobody knows
            raise ConfigurationError(
                f"The fallback location {self.address} can't be used: {error}.",
                remedy="install the driver that fsspec names for it, or use a folder.",
            ) from error
        self._root = str(root).rstrip("/")

    def prepare(self) -> None:
        with self._named():
            if not self._fs.exists(self._path(MARK)):
                self._fs.makedirs(self._root, exist_ok=True)
                if self._listed():
                    raise _unmarked(self.address)
                self._fs.pipe_file(self._path(MARK), _MARK_TEXT)

    def check(self) -> None:
        with self._named():
            self._fs.invalidate_cache()
            if not self._fs.exists(self._path(MARK)):
                raise _unmarked(self.address)

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        with self._named():
            path = self._path(name)
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                self._write(path, pieces)
            except BaseException:
                # closing an unfinished file uploads what there is of it
                with suppress(Exception):  # what is raised is why it could not be written
                    self._fs.rm_file(path)
                raise

    def _write(self, path: str, pieces: Iterable[bytes]) -> None:
        size = 0
        with self._fs.open(path, "wb") as file:
            for piece in pieces:
                file.write(piece)
                size += len(piece)
        self._fs.invalidate_cache()
        stored = self._fs.size(path)
        if stored != size:
            raise OSError(f"{stored} of {size} bytes of {path} were stored")

    def read(self, name: str, offset: int, length: int) -> bytes:
        with self._named(name):
            path = self._path(name)
            try:
                return bytes(self._fs.cat_file(path, start=offset, end=offset + length))
            except FileNotFoundError:
                raise
            except Exception:
                # a store of objects refuses a range that begins after the end
                self._fs.invalidate_cache()
                if offset < self._fs.size(path):
                    raise
                return b""

    @contextmanager
    def open(self, name: str) -> Iterator[tuple[Readable, int]]:
        with self._named(name):
            self._fs.invalidate_cache()
            size = self._fs.size(self._path(name))
            file = self._fs.open(self._path(name), "rb")
        with file:
            yield _Named(file, self._named), size

    def names(self) -> list[str]:
        with self._named():
            self.check()
            return self._listed()

    def _listed(self) -> list[str]:
        self._fs.invalidate_cache()
        return sorted(
            path[path.index(self._root) + len(self._root) :].lstrip("/")
            for path in self._fs.find(self._root)
            if path.endswith(SUFFIX)
        )

    def delete(self, name: str) -> None:
        with self._named():
            self.check()
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _named(self, name: str | None = None) -> Iterator[None]:
        try:
            yield
        except SurgetankError:
            raise
        except FileNotFoundError as error:
            if name is None:
                raise _unavailable(self.address, error) from error
            self.check()
            raise _missing(self.address, name) from error
        except Exception as error:  # drivers raise what they like; all of it means: not usable now
            raise _unavailable(self.address, error) from error
