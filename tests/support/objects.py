"""A store of objects as fsspec shows one (S3, GCS), inside this process: no folders, an object is
there when its upload is finished, listings are remembered, errors are the driver's own."""

from __future__ import annotations

from typing import Any, ClassVar

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem


class DriverError(Exception):
    """What this driver raises when it can't reach the store: no kind of `OSError`."""


class _Upload(AbstractBufferedFile):
    """A file that is sent in parts; closing it makes the object, also after an error."""

    def _initiate_upload(self) -> None:
        self.parts: list[bytes] = []

    def _upload_chunk(self, final: bool = False) -> bool:
        self.parts.append(self.buffer.getvalue())
        if final:
            self.fs.objects[self.path] = b"".join(self.parts)
        return True

    def _fetch_range(self, start: int, end: int) -> bytes:
        return bytes(self.fs.cat_file(self.path, start, end))


class ObjectStore(AbstractFileSystem):
    """`objects://bucket/...`"""

    protocol = "objects"
    objects: ClassVar[dict[str, bytes]] = {}
    away: ClassVar[set[str]] = set()  # buckets that can't be reached

    def _object(self, path: str) -> bytes:
        self._reach(path)
        try:
            return self.objects[self._strip_protocol(path)]
        except KeyError:
            raise FileNotFoundError(path) from None

    def _reach(self, path: str) -> None:
        if self._strip_protocol(path).split("/")[0] in self.away:
            raise DriverError(f"no answer for {path}")

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._reach(path)

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        self._reach(path)
        path = self._strip_protocol(path)
        if path not in self.dircache:
            self.dircache[path] = self._entries(path)
        found = self.dircache[path]
        return found if detail else [entry["name"] for entry in found]

    def _entries(self, path: str) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for name, data in self.objects.items():
            if name == path:
                return [{"name": name, "size": len(data), "type": "file"}]
            if name.startswith(f"{path}/"):
                first, _, deeper = name[len(path) + 1 :].partition("/")
                entry = (
                    {"size": 0, "type": "directory"}
                    if deeper
                    else {"size": len(data), "type": "file"}
                )
                found[first] = {"name": f"{path}/{first}", **entry}
        if not found:
            raise FileNotFoundError(path)
        return list(found.values())

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        data = self._object(path)
        if data and start is not None and start >= len(data):
            raise OSError(5, "The requested range is not satisfiable")
        return data[start:end]

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        self._reach(path)
        self.objects[self._strip_protocol(path)] = value

    def rm_file(self, path: str) -> None:
        self._reach(path)
        self.objects.pop(self._strip_protocol(path), None)  # as S3: what is not there is no error

    def _open(self, path: str, mode: str = "rb", **options: Any) -> _Upload:
        self._reach(path)
        return _Upload(self, path, mode, **{k: v for k, v in options.items() if v is not None})


fsspec.register_implementation("objects", ObjectStore, clobber=True)
