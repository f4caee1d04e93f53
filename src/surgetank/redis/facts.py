"""What a server keeps, and where: what of it breaks our promises, and how it is set right. Pure, but for
`facts_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from surgetank.exceptions import BufferProblem, ConfigurationError
from surgetank.model import Advice
from surgetank.redis.server import Confirmation, RedisServer

Durability = Literal["process", "power", "replicated"]
OLDEST = (6, 2)
_WAITAOF = (7, 2)
_OWN_SHARE = 1.5  # what entries take in a server's memory, beside their bytes


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself. None: it does not let us ask."""

    version: tuple[int, ...] = (0,)
    max_memory: int | None = None
    eviction: str | None = None
    has_file: bool | None = None  # an append-only file
    file_sync: str | None = None  # `always`, `everysec` or `no`
    snapshots: str | None = None  # when it writes its memory to a file; empty: never
    replicas: int | None = None


def facts_of(server: RedisServer) -> ServerFacts:
    """Ask a server."""
    info = _info(server)
    version = tuple(int(part) for part in info.get("redis_version", "0").split(".")[:2])
    return ServerFacts(
        version=version,
        max_memory=_number(info.get("maxmemory")),
        eviction=info.get("maxmemory_policy"),
        has_file=info["aof_enabled"] == "1" if "aof_enabled" in info else None,
        file_sync=_config(server, "appendfsync"),
        snapshots=_config(server, "save"),
        replicas=_number(info.get("connected_slaves")),
    )


def confirmation(facts: ServerFacts, durability: Durability) -> Confirmation | None:
    """What an append waits for. Raises `ConfigurationError` when the server can't give that."""
    if durability == "process":
        return None
    if durability == "replicated":
        if facts.replicas == 0:
            raise ConfigurationError(
                "The durability 'replicated' needs a Redis server with a replica; this one has none.",
                remedy="start a replica (replicaof), or set SURGETANK_DURABILITY=process.",
            )
        return Confirmation(replicas=1)
    if facts.has_file is False:
        raise ConfigurationError(
            "The durability 'power' needs a Redis server with an append-only file; this one has none.",
            remedy="set `appendonly yes` and `appendfsync always` in the server's configuration, or "
            "SURGETANK_DURABILITY=process.",
        )
    if facts.has_file and facts.file_sync == "always":
        return None  # the server writes before it answers
    if facts.version >= _WAITAOF:
        return Confirmation(in_file=True)
    raise ConfigurationError(
        f"The durability 'power' needs `appendfsync always`; this server has "
        f"{facts.file_sync or 'something that it does not let us see'}.",
        remedy="set `appendfsync always`, or use Redis 7.2 or newer, where we wait for the file "
        "ourselves; or set SURGETANK_DURABILITY=process.",
    )


def advices(facts: ServerFacts, max_bytes: int) -> list[Advice]:
    """What a server is set to that loses what was accepted, or refuses it early."""
    found: list[Advice] = []
    if facts.version < OLDEST:
        found.append(
            Advice(
                f"the server is version {'.'.join(map(str, facts.version))}, older than 6.2",
                "use Redis 6.2 or newer, or Valkey.",
            )
        )
    if facts.eviction not in (None, "noeviction"):
        found.append(
            Advice(
                f"the server drops keys when its memory is full (maxmemory-policy {facts.eviction}): "
                "what was accepted would be lost",
                "CONFIG SET maxmemory-policy noeviction, and write it into its configuration.",
            )
        )
    if facts.has_file is False:
        found.append(
            Advice(
                "the server has no append-only file: what was accepted is lost when it restarts"
                if facts.snapshots == ""
                else "the server has no append-only file: what was accepted since its last snapshot "
                "is lost when it restarts",
                "CONFIG SET appendonly yes, and write it into its configuration.",
            )
        )
    needed = int(max_bytes * _OWN_SHARE)
    if facts.max_memory and facts.max_memory < needed:
        found.append(
            Advice(
                f"the server takes {facts.max_memory} bytes (maxmemory), and the buffer's limit of "
                f"{max_bytes} bytes needs about {needed}: it would be full first",
                f"CONFIG SET maxmemory {needed}, or SURGETANK_BUFFER_MAX_BYTES="
                f"{int(facts.max_memory / _OWN_SHARE)}.",
            )
        )
    return found


def _info(server: RedisServer) -> dict[str, str]:
    try:
        text = server.command("INFO").decode(errors="replace")
    except BufferProblem as error:
        if "NOPERM" in str(error):
            return {}
        raise
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in lines}


def _config(server: RedisServer, name: str) -> str | None:
    """A setting; None where the server does not let us ask (a managed one, mostly)."""
    try:
        reply = server.command("CONFIG", "GET", name)
    except BufferProblem as error:
        if "NOPERM" in str(error) or "unknown command" in str(error):
            return None
        raise
    return reply[1].decode() if reply else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
