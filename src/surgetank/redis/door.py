"""What the servers on one buffer know together of who comes in: tickets, and logins that failed.

Times are the Redis server's, so that no clock of a host matters. All of it is forgotten within minutes.
"""

from __future__ import annotations

from surgetank.redis.address import RedisAddress
from surgetank.redis.connecting import server_at
from surgetank.redis.scripts import Scripts
from surgetank.redis.server import Arg

_SCRIPTS = Scripts("surgetank.redis", "door.lua")


class RedisDoor:
    """On the server at `address`. Everything raises `BufferUnavailable`, `BufferFull`."""

    def __init__(self, address: RedisAddress, *, most_tickets: int = 10_000) -> None:
        # Somebody waits at the door, and whoever asks can do without it.
        self._server = server_at(address, name="server", timeout_s=2.0, patience_s=2.0)
        self._tag = address.tag("door")
        self._most = most_tickets

    def keep_ticket(self, digest: bytes, body: bytes, *, ttl_s: float) -> None:
        """Keep what a ticket stands for, for so long. When there are too many, the oldest go."""
        args: list[Arg] = [digest, body, ttl_s, self._most]
        self._server.call(_SCRIPTS["keep_ticket"], self._tag, args, once=True)

    def take_ticket(self, digest: bytes) -> bytes | None:
        """What a ticket stands for; to exactly one caller."""
        (body,) = self._server.call(_SCRIPTS["take_ticket"], self._tag, [digest], once=True)
        return bytes(body) or None

    def tickets(self) -> dict[bytes, bytes]:
        """All tickets that were not taken."""
        found = self._server.call(_SCRIPTS["tickets"], self._tag)
        return dict(zip(found[::2], found[1::2], strict=True))

    def drop_tickets(self, digests: list[bytes]) -> None:
        """Forget these tickets."""
        for at in range(0, len(digests), 1000):
            some = digests[at : at + 1000]
            self._server.call(_SCRIPTS["drop_tickets"], self._tag, some, once=True)

    def begin(self, name: str, attempt: str, *, burst: int) -> tuple[bool, float]:
        """Whether an attempt may be made now, which is told by `done` or given up after 30 seconds; and how many
        failures the name has left. Attempts under way count as failures until they are done."""
        go, left, _ = self._server.call(
            _SCRIPTS["begin"], self._tag, [name, attempt, burst], once=True
        )
        return bool(go), float(left)

    def done(self, name: str, attempt: str, *, burst: int, failed: bool) -> None:
        """An attempt is over."""
        args: list[Arg] = [name, attempt, burst, int(failed)]
        self._server.call(_SCRIPTS["done"], self._tag, args, once=True)

    def left(self, name: str, *, burst: int) -> float:
        """How many failures a name has left: `burst`, given back at `burst` a minute."""
        (left,) = self._server.call(_SCRIPTS["left"], self._tag, [name, burst])
        return float(left)

    def close(self) -> None:
        """Close its connections. Idempotent."""
        self._server.close()
