"""Where a Redis or Valkey server is, and which of its keys are ours. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from surgetank.exceptions import ConfigurationError

SCHEMES = ("redis", "valkey", "redis+unix")
LATER = ("rediss", "valkeys", "redis+sentinel", "redis+cluster")  # named, and refused
DEFAULT_SHARDS = 16
MOST_SHARDS = 64  # a number has 6 bits for its shard
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """One server, and the names that the keys of one buffer begin with.

    Keys of a shard have one hash tag, `{prefix:7}`, so that they are in one slot of a cluster.
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None  # of a Unix socket, in the stead of host and port
    database: int = 0
    username: str | None = None
    password: str | None = None
    prefix: str = "surgetank"
    shards: int = DEFAULT_SHARDS

    def __repr__(self) -> str:
        return f"<RedisAddress {self.name}>"

    @property
    def name(self) -> str:
        """The address for people: without the password."""
        user = f"{self.username}@" if self.username else ""
        more = "" if self.prefix == "surgetank" else f"?prefix={self.prefix}"
        if self.path is not None:
            return f"redis+unix://{user}{self.path}{more}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis://{user}{host}:{self.port}/{self.database}{more}"

    def tag(self, part: str | int) -> bytes:
        """What the keys of a shard, or of another part, begin with."""
        return f"{{{self.prefix}:{part}}}".encode()


def is_redis(url: str) -> bool:
    """Whether a URL names a Redis or Valkey server, also one that we can't use yet."""
    return url.partition("://")[0] in SCHEMES + LATER and "://" in url


def parse(url: str) -> RedisAddress:
    """The address in a URL such as `redis://:password@host:6379/0?prefix=agents`.

    Raises `ConfigurationError`; its text never has the password.
    """
    parts = urlsplit(url)
    if parts.scheme in LATER:
        raise _refused(f"{parts.scheme}:// is not supported yet", "use redis://host:port/0")
    if parts.scheme not in SCHEMES:
        raise _refused(f"the scheme {parts.scheme!r} is unknown", "use redis://host:port/0")
    options = _options(parts.query)
    prefix = options.pop("prefix", "surgetank")
    if not _PREFIX.fullmatch(prefix):
        raise _refused(
            f"the prefix {prefix!r} can't be used", "use up to 64 letters, digits, dots, - and _"
        )
    shards = _number(options.pop("shards", str(DEFAULT_SHARDS)), "shards", 1, MOST_SHARDS)
    database = options.pop("db", "0")
    if options:
        raise _refused(f"the option {min(options)!r} is unknown", "known are prefix, shards and db")
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    if parts.scheme == "redis+unix":
        path: str | None = unquote(parts.path)
        host, port = "localhost", 6379
        if not path or path == "/":
            raise _refused("it has no path of a socket", "use redis+unix:///run/redis.sock")
    else:
        path, host = None, parts.hostname or "localhost"
        try:
            port = parts.port or 6379
        except ValueError:
            raise _refused("its port is no number up to 65535", "use redis://host:6379/0") from None
        database = parts.path.strip("/") or database
    return RedisAddress(
        host=host,
        port=port,
        path=path,
        database=_number(database, "database", 0, 1_000_000),
        username=username,
        password=password,
        prefix=prefix,
        shards=shards,
    )


def _options(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True))


def _number(text: str, what: str, least: int, most: int) -> int:
    if text.isascii() and text.isdigit() and least <= int(text) <= most:
        return int(text)
    raise _refused(f"{what} is {text[:20]!r}", f"use a number from {least} to {most}")


def _refused(why: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"The Redis URL can't be used: {why}.", remedy=f"{remedy}.")
