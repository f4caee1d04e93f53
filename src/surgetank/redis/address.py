"""Where a Redis or Valkey server is, and which of its keys are ours. Pure, but for whether
files of certificates are there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from surgetank.exceptions import ConfigurationError

SCHEMES = (
    "redis", "valkey", "redis+unix", "rediss", "valkeys", "redis+sentinel", "redis+cluster",
    "rediss+sentinel", "rediss+cluster",
)  # fmt: skip
DEFAULT_SHARDS = 16
MOST_SHARDS = 64  # a number has 6 bits for its shard
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Tls:
    """How a connection is encrypted, and by whose certificates both sides are known. Files are PEM."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True

    @property
    def options(self) -> dict[str, object]:
        """As redis-py takes them."""
        return {
            "ssl_ca_certs": self.ca, "ssl_certfile": self.cert, "ssl_keyfile": self.key or self.cert,
            "ssl_cert_reqs": "required" if self.verify else "none", "ssl_check_hostname": self.verify,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """One server, the one that sentinels name, or a cluster; and the names that the keys of one buffer begin with.

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
    tls: Tls | None = None
    nodes: tuple[tuple[str, int], ...] = ()  # sentinels, or some nodes of a cluster
    service: str | None = None  # what sentinels call the server
    sentinel_password: str | None = None

    @property
    def is_cluster(self) -> bool:
        """Whether it is a cluster."""
        return bool(self.nodes) and self.service is None

    def __repr__(self) -> str:
        return f"<RedisAddress {self.name}>"

    @property
    def name(self) -> str:
        """The address for people: without the password."""
        user = f"{self.username}@" if self.username else ""
        more = "" if self.prefix == "surgetank" else f"?prefix={self.prefix}"
        if self.path is not None:
            return f"redis+unix://{user}{self.path}{more}"
        scheme = "rediss" if self.tls is not None else "redis"
        if self.nodes:
            nodes = ",".join(f"{host}:{port}" for host, port in self.nodes)
            if self.service is None:
                return f"{scheme}+cluster://{user}{nodes}{more}"
            return f"{scheme}+sentinel://{user}{nodes}/{self.service}/{self.database}{more}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{user}{host}:{self.port}/{self.database}{more}"

    def tag(self, part: str | int) -> bytes:
        """What the keys of a shard, or of another part, begin with."""
        return f"{{{self.prefix}:{part}}}".encode()


def is_redis(url: str) -> bool:
    """Whether a URL names a Redis or Valkey server."""
    return url.partition("://")[0] in SCHEMES and "://" in url


def parse(url: str) -> RedisAddress:
    """The address in a URL such as `redis://:password@host:6379/0?prefix=agents`.

    Raises `ConfigurationError`; its text never has the password.
    """
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise _refused(f"the scheme {scheme[:40]!r} is unknown", "use redis://host:port/0")
    kind = scheme.partition("+")[2]
    several = kind in ("sentinel", "cluster")
    nodes: tuple[tuple[str, int], ...] = ()
    if several:
        url, nodes = _one_host(url, 26379 if kind == "sentinel" else 6379)
    parts = urlsplit(url)
    options = _options(parts.query)
    prefix = options.pop("prefix", "surgetank")
    if not _PREFIX.fullmatch(prefix):
        raise _refused(
            f"the prefix {prefix!r} can't be used", "use up to 64 letters, digits, dots, - and _"
        )
    shards = _number(options.pop("shards", str(DEFAULT_SHARDS)), "shards", 1, MOST_SHARDS)
    database = options.pop("db", "0")
    tls = _tls(options) if scheme.startswith(("rediss", "valkeys")) else None
    sentinel_password = options.pop("sentinel_password", None) if kind == "sentinel" else None
    if options:
        raise _refused(
            f"the option {min(options)!r} is unknown", "known are prefix, shards, db; ca, cert, key "
            "and verify with rediss://; sentinel_password with redis+sentinel://"
        )  # fmt: skip
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    service: str | None = None
    if kind == "sentinel":
        service, _, number = parts.path.strip("/").partition("/")
        database = number or database
        if not service:
            raise _refused("it names no service", "use redis+sentinel://host:26379/mymaster/0")
    if kind == "cluster" and (parts.path.strip("/") or database) not in ("0", ""):
        raise _refused("a cluster has only the database 0", "leave it out")
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
        if not several:
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
        tls=tls,
        nodes=nodes,
        service=service,
        sentinel_password=sentinel_password,
    )


def _one_host(url: str, port: int) -> tuple[str, tuple[tuple[str, int], ...]]:
    """The URL with the first of its hosts only, and all of them."""
    scheme, _, rest = url.partition("://")
    end = next((n for n, letter in enumerate(rest) if letter in "/?"), len(rest))
    user, at, hosts = rest[:end].rpartition("@")
    nodes = []
    for each in hosts.split(","):
        try:
            found = urlsplit(f"redis://{each.strip()}")
            nodes.append((found.hostname or "localhost", found.port or port))
        except ValueError:
            raise _refused("a port of it is no number up to 65535", "use host:6379") from None
    return f"{scheme}://{user}{at}{hosts.split(',')[0]}{rest[end:]}", tuple(nodes)


def _tls(options: dict[str, str]) -> Tls:
    verify = options.pop("verify", "required")
    if verify not in ("required", "none"):
        raise _refused(f"verify is {verify[:20]!r}", "use required or none")
    files = {name: options.pop(name, None) for name in ("ca", "cert", "key")}
    for name, path in files.items():
        if path is not None and not Path(path).is_file():
            raise _refused(f"there is no file {path!r} ({name})", "name a PEM file")
    return Tls(**files, verify=verify == "required")


def _options(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True))


def _number(text: str, what: str, least: int, most: int) -> int:
    if text.isascii() and text.isdigit() and least <= int(text) <= most:
        return int(text)
    raise _refused(f"{what} is {text[:20]!r}", f"use a number from {least} to {most}")


def _refused(why: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"The Redis URL can't be used: {why}.", remedy=f"{remedy}.")
