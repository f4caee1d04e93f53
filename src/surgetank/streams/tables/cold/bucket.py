"""Files of tables in a bucket, which several hosts use together, and their copies on this machine.

A file is one object, stored by one request: it is there when it is complete. What was written here is kept as
a copy, so that it is not fetched for the next read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from surgetank.exceptions import ColdStateUnavailable, ConfigurationError, InvalidRequest
from surgetank.objects import ObjectsProblem, ObjectStore
from surgetank.streams.tables.cold.cache import FileCache
from surgetank.streams.tables.cold.location import IDENTITY, Write, Written, written_aside


class BucketLocation:
    """A bucket and a prefix in it; at most `cache_bytes` of copies in the folder `cache`."""

    shared = True

    def __init__(self, url: str, cache: Path, cache_bytes: int) -> None:
        self._objects = ObjectStore(url)
        self.address = self._objects.address
        self._cache = FileCache(cache, cache_bytes, self._fetch)

    def store(self, name: str, write: Write) -> Written:
        """Written here, stored there, and kept here."""
        with self._cache.beside() as temporary, written_aside(temporary, write) as written:
            with self._named(writing=True):
                self._objects.put(name, temporary)
            self._cache.add(name, temporary)
        return written

    def open(self, name: str) -> pa.NativeFile:
        return self._cache.open(name)

    @contextmanager
    def held(self, sizes: Mapping[str, int]) -> Iterator[Mapping[str, Path]]:
        needed = sum(sizes.values())
        if needed > self._cache.max_bytes:
            raise InvalidRequest(
                f"The query reads files of {needed} bytes, and copies of {self._cache.max_bytes} bytes may be kept.",
                remedy="raise SURGETANK_TABLES_CACHE_BYTES, or read the rows of one user (EXECUTE AS USER).",
            )
        with self._cache.held(list(sizes)) as found:
            yield found

    def distrust(self, name: str) -> None:
        self._cache.forget([name])

    def unlink(self, names: Sequence[str]) -> int:
        with self._named():
            self._objects.delete(names)
        self._cache.forget(names)
        return len(names)

    def found(self) -> Mapping[str, float]:
        with self._named():
            everything = self._objects.found()
        return {
            name: at for name, at in everything.items() if name.partition("/")[0].isdigit()
        }  # fmt: skip

    def below(self, folder: str) -> Mapping[str, float]:
        with self._named():
            everything = self._objects.found()
        return {name: at for name, at in everything.items() if name.partition("/")[0] == folder}

    def identity(self) -> str | None:
        try:
            with self._named():
                return self._objects.get(IDENTITY).decode("ascii", "replace").strip() or None
        except FileNotFoundError:
            return None

    def identify(self, text: str) -> str:
        try:
            with self._named(writing=True):
                self._objects.put(IDENTITY, text.encode(), create=True)
        except FileExistsError:  # another host was quicker
            return self.identity() or text
        return text

    def tidy(self, named: Callable[[Sequence[str]], set[str]]) -> None:
        self._cache.tidy()
        copies = self._cache.names()
        if copies:
            known = named(copies)
            self._cache.forget([name for name in copies if name not in known])

    def _fetch(self, name: str, file: BinaryIO) -> None:
        with self._named():
            self._objects.fetch(name, file)

    @contextmanager
    def _named(self, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except ObjectsProblem as error:
            what = f"The bucket of tables {self.address} can't be used ({error.reason})."
            if writing and error.lasting:
                raise ConfigurationError(
                    what,
                    remedy="see that it exists, and that the credentials may read, write, list and delete in it; "
                    "rows stay where they wait, and are tried again.",
                ) from None
            raise ColdStateUnavailable(
                what,
                remedy=f"make {self.address} usable again ({error.reason}); what is inserted meanwhile is safe.",
            ) from None
