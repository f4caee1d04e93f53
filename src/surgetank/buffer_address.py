"""Where the setting `buffer_url` leads: to a file, or to a server that several hosts share. Pure."""

from __future__ import annotations

import re
from pathlib import Path

from surgetank.exceptions import ConfigurationError

_ON_SERVERS = frozenset({"redis", "rediss", "valkey", "valkeys", "unix"})


def is_shared(url: str) -> bool:
    """Whether the buffer is on a server."""
    scheme, separator, _ = url.partition("://")
    return bool(separator) and (scheme in _ON_SERVERS or scheme.startswith("redis+"))


def without_password(url: str) -> str:
    """The address of a server, for people."""
    url = re.sub(r"//([^:/@]*):.*@", r"//\1@", url).replace("//@", "//")
    return re.sub(r"[?&]sentinel_password=[^&]*", "", url)


def path_of(url: str) -> Path:
    """The file of a buffer. Raises `ConfigurationError`."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return Path(url).expanduser()
    if scheme != "sqlite" or not rest.startswith("/") or rest == "/":
        raise ConfigurationError(
            f"The buffer URL with scheme {scheme!r} can't be used.",
            remedy="use sqlite:///path/to/buffer.db, or redis://host:6379/0.",
        )
    # As in SQLAlchemy's URLs: three slashes for a relative path, four for an absolute one; most
    # people mean absolute.
    return Path(rest if Path(rest).is_absolute() else rest[1:])
