"""What a server keeps, and where: what of it breaks our promises, and how it is set right. Pure, but for
what takes a server.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from surgetank.exceptions import ConfigurationError
from surgetank.model import Advice
from surgetank.redis.server import Confirmation, RedisServer

Durability = Literal["process", "power", "replicated"]
OLDEST = (6, 2)
_WAITAOF = (7, 2)
_ASK_AGAIN_S = 0.02
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
    """Ask a server; of a cluster what is worst of its nodes, for what an append may wait for."""
    found = [facts for _, facts in facts_of_nodes(server)]
    if len(found) == 1:
        return found[0]
    return min(found, key=lambda f: (bool(f.has_file), f.file_sync == "always", f.replicas or 0))


def facts_of_nodes(server: RedisServer) -> list[tuple[str, ServerFacts]]:
    """Ask each node that has something of ours, which is named for people where there are several."""
    asked = [
        server.command_at_each(*command)
        for command in (("INFO",), ("CONFIG", "GET", "appendfsync"), ("CONFIG", "GET", "save"))
    ]
    by_node: dict[str, list[Any]] = {}
    for replies in asked:
        for node, reply in replies:
            by_node.setdefault(node, []).append(reply)
    return [
        (node, _facts(*replies)) for node, replies in by_node.items() if len(replies) == len(asked)
    ]


def _facts(info_reply: Any, sync_reply: Any, save_reply: Any) -> ServerFacts:
    info = _info(info_reply)
    version = tuple(int(part) for part in info.get("redis_version", "0").split(".")[:2])
    return ServerFacts(
        version=version,
        max_memory=_number(info.get("maxmemory")),
        eviction=info.get("maxmemory_policy"),
        has_file=info["aof_enabled"] == "1" if "aof_enabled" in info else None,
        file_sync=_config(sync_reply),
        snapshots=_config(save_reply),
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


def advices_of_nodes(found: Sequence[tuple[str, ServerFacts]], max_bytes: int) -> list[Advice]:
    """What each node is set to. Those of a cluster share the bytes."""
    return [
        Advice(f"{node}: {advice.what}" if node else advice.what, advice.remedy)
        for node, facts in found
        for advice in advices(facts, max_bytes // len(found))
    ]


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


def rewrite_files(server: RedisServer, *, within_s: float) -> bool:
    """Have each node write its append-only file anew, with what it has now and nothing else. False
    where that fails, or is not done in time. One that does not let us ask for it is left out: its file
    can't be reached from here."""
    wanted = {node for node, facts in facts_of_nodes(server) if facts.has_file is not False}
    if not wanted:
        return True
    deadline, asked = time.monotonic() + within_s, set[str]()
    while time.monotonic() < deadline:
        busy = _rewriting(server)
        if busy is None:
            return False
        if not busy and asked >= wanted:
            return True
        if not busy:  # one that was under way before may have begun with more than there is now
            for node, reply in server.command_at_each("BGREWRITEAOF"):
                if "in progress" not in str(reply):
                    asked.add(node)
        time.sleep(_ASK_AGAIN_S)
    return False


def _rewriting(server: RedisServer) -> bool | None:
    """Whether a node writes its file anew, or is about to; None where that failed."""
    found = [_info(reply) for _, reply in server.command_at_each("INFO", "persistence")]
    if any(info.get("aof_last_bgrewrite_status", "ok") != "ok" for info in found):
        return None
    signs = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
    return any(info.get(sign, "0") != "0" for info in found for sign in signs)


def _info(reply: Any) -> dict[str, str]:
    if isinstance(reply, Exception):
        if _is_forbidden(reply):
            return {}
        raise reply
    lines = (
        line.partition(":")
        for line in reply.decode(errors="replace").splitlines()
        if not line.startswith("#")
    )
    return {name: value for name, _, value in lines}


def _config(reply: Any) -> str | None:
    """A setting; None where the server does not let us ask (a managed one, mostly)."""
    if isinstance(reply, Exception):
        if _is_forbidden(reply):
            return None
        raise reply
    return reply[1].decode() if reply else None


def _is_forbidden(reply: Exception) -> bool:
    """Whether the server does not let us ask, or has no such command. redis-py takes the code off."""
    said = str(reply)
    return any(sign in said for sign in ("NOPERM", "no permissions", "unknown command"))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
