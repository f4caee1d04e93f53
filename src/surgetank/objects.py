"""One location in an object store: S3 and what speaks like it, through `obstore`.

An object is there when `put` returns, complete, and never half. What went wrong is said without credentials:
of an answer only its code and its message are taken.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlsplit

from surgetank.exceptions import ConfigurationError, MissingExtra

SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_STATUS = re.compile(r"status code: (\d{3})")
RETRIES = 3  # of a request, soon after each other; what fails then is tried again by who asked
_TIMEOUT_S, _CONNECT_S, _RETRY_S = 60.0, 5.0, 20.0
_PASSING = (408, 425, 429)  # of those that begin with 4
_INSTANCE = "169.254."  # asked for credentials where none were given


class ObjectsProblem(Exception):
    """Why an object store can't be used: for now, or until somebody acts (`lasting`)."""

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.lasting = reason, lasting


def is_object_url(url: str) -> bool:
    """Whether a URL names an object store."""
    return url.partition("://")[0].lower() in SCHEMES


class ObjectStore:
    """A bucket and what all names in it begin with. Options of `obstore` (`endpoint`, `region`,
    `access_key_id` ...) may stand in the URL as its query; without them they are looked for in the
    environment, and with AWS_PROFILE in the files of the AWS tools.

    Reading raises `FileNotFoundError` for an object that is not there; all raise `ObjectsProblem`.
    Safe for several threads.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if "@" in parts.netloc or not parts.netloc:
            raise ConfigurationError(
                "The address of an object store is SCHEME://BUCKET/PREFIX, and this one "
                + ("has credentials in it." if parts.netloc else "names no bucket."),
                remedy="give credentials by the environment (AWS_ACCESS_KEY_ID ...) or as ?access_key_id=...",
            )
        self.address = f"{parts.scheme.lower()}://{parts.netloc}{parts.path.rstrip('/')}"
        self._options = dict(parse_qsl(parts.query))
        self._lock = threading.Lock()
        self._opened: Any = None
        try:
            self._obstore: Any = import_module("obstore")  # an extra
        except ImportError as error:
            raise MissingExtra("obstore", "s3", "An object store") from error

    # -- objects

    def put(self, name: str, data: bytes | Path, *, create: bool = False) -> None:
        """Store an object in one request; with `create` only where there is none
        (`FileExistsError`)."""
        mode = "create" if create else "overwrite"
        with ExitStack() as stack:
            file = data if isinstance(data, bytes) else stack.enter_context(data.open("rb"))
            stack.enter_context(self._named())
            self._obstore.put(self._store, name, file, mode=mode, use_multipart=False)

    def put_pieces(self, name: str, pieces: Iterable[bytes]) -> None:
        """Store an object that is made piece by piece. What making it raises is raised, and
        nothing is stored then."""
        raised: list[BaseException] = []

        def made() -> Iterator[bytes]:
            try:
                yield from (piece for piece in pieces if piece)
            except BaseException as error:
                raised.append(error)
                raise

        try:
            with self._named():
                self._obstore.put(self._store, name, made(), use_multipart=True)
        except Exception:
            if raised:
                raise raised[0] from None
            raise

    def get(self, name: str) -> bytes:
        """All of an object."""
        with self._named():
            return bytes(self._obstore.get(self._store, name).bytes())

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Bytes of an object; fewer where it ends."""
        length = min(length, max(0, self.size(name) - offset))
        if not length:
            return b""
        with self._named():
            found = self._obstore.get_range(self._store, name, start=offset, length=length)
            return bytes(found)

    def fetch(self, name: str, file: BinaryIO) -> None:
        """Copy an object into a file, some hundred KB at a time."""
        with self._named():
            file.writelines(self._obstore.get(self._store, name).stream(min_chunk_size=262_144))

    def size(self, name: str) -> int:
        """How many bytes an object has."""
        with self._named():
            try:
                return int(self._obstore.head(self._store, name)["size"])
            except Exception as error:
                if _status(error) not in {"401", "403", "404"}:
                    raise
                # the answer to HEAD has no body: not even whether it is about the bucket
                return int(self._obstore.get(self._store, name).meta["size"])

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def found(self) -> Mapping[str, float]:
        """All objects, and when each was stored, in seconds since the epoch."""
        with self._named():
            return {
                each["path"]: _seconds(each["last_modified"])
                for batch in self._obstore.list(self._store)
                for each in batch
            }

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; those that are not there are no error."""
        for start in range(0, len(names), 1000):
            with self._named():
                try:
                    self._obstore.delete(self._store, list(names[start : start + 1000]))
                except FileNotFoundError as error:
                    if _is_bucket(error):
                        raise

    # -- how it is reached

    @property
    def _store(self) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = self._connected()
            return self._opened

    def _connected(self) -> Any:
        endpoint = self._options.get("endpoint") or next(
            (os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), ""
        )
        client: dict[str, Any] = {
            "timeout": timedelta(seconds=_TIMEOUT_S),
            "connect_timeout": timedelta(seconds=_CONNECT_S),
            "allow_http": endpoint.startswith("http://"),
        }
        retry: dict[str, Any] = {
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=_RETRY_S),
        }
        more: dict[str, Any] = {}
        if self._wants_profile():
            more["credential_provider"] = _of_profile()
        try:
            return self._obstore.store.from_url(
                self.address,
                config=self._options,
                client_options=client,
                retry_config=retry,
                **more,
            )
        except Exception as error:  # noqa: BLE001 - of an option that there is not, and other ones
            # not `from error`: it may quote what was given
            raise ConfigurationError(
                f"The object store {self.address} can't be opened ({type(error).__name__}).",
                remedy=f"use s3://BUCKET/PREFIX; options that were given: {', '.join(self._options) or 'none'}.",
            ) from None

    def _wants_profile(self) -> bool:
        """Whether the AWS tools' files are to be read. `obstore` reads all else itself."""
        given = "access_key_id" in self._options or os.environ.get("AWS_ACCESS_KEY_ID")
        return self.address.startswith("s3:") and bool(os.environ.get("AWS_PROFILE")) and not given

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say what went wrong, without what the driver adds: it may quote a request."""
        try:
            yield
        except (ConfigurationError, ObjectsProblem):
            raise
        except FileNotFoundError as error:
            if _is_bucket(error):
                raise ObjectsProblem(_said(error), lasting=True) from None
            raise FileNotFoundError(2, "there is no such object", self.address) from None
        except Exception as error:
            module = type(error).__module__.partition(".")[0]
            if module not in {"obstore", "boto3", "botocore", "builtins"}:
                raise
            if type(error).__name__ == "AlreadyExistsError":
                raise FileExistsError(17, "there is such an object", self.address) from None
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of a file of this machine
            raise ObjectsProblem(_said(error), lasting=_is_lasting(error)) from None


def _of_profile() -> Any:
    try:
        return import_module("obstore.auth.boto3").Boto3CredentialProvider()
    except ImportError:
        raise ConfigurationError(
            "AWS_PROFILE is set, and its files are read by boto3, which is not installed.",
            remedy="pip install boto3, or give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        ) from None


def _seconds(moment: datetime) -> float:
    return moment.timestamp()


def _is_bucket(error: BaseException) -> bool:
    """Whether it is not the object that is missing."""
    code = _CODE.search(str(error))
    return code is not None and code[1] == "NoSuchBucket"


def _status(error: BaseException) -> str | None:
    found = _STATUS.search(str(error))
    return found[1] if found is not None else None


def _is_lasting(error: BaseException) -> bool:
    if _INSTANCE in str(error):
        return True
    status = _status(error)
    if status is None:
        return type(error).__name__ in {"PermissionDeniedError", "UnauthenticatedError"}
    return status.startswith(("3", "4")) and int(status) not in _PASSING


def _said(error: BaseException) -> str:
    text = str(error)
    if _INSTANCE in text:
        return "no credentials were found for it"
    code, message, status = _CODE.search(text), _MESSAGE.search(text), _status(error)
    if code is not None:
        return f"{code[1]}: {message[1]}" if message is not None and message[1] else code[1]
    if status is not None:
        return f"it answered with status {status}"
    first = text.splitlines()[0] if text else type(error).__name__
    detail = first.rpartition(" - ")[2] if " - " in first else first
    return " ".join(detail.split())[:200]
