"""What is done to hot rows of tables, one after the other, in Redis: every host does it in this
order."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from surgetank.redis.address import RedisAddress
from surgetank.redis.connecting import server_at
from surgetank.redis.facts import Durability, confirmation, facts_of
from surgetank.redis.scripts import Scripts
from surgetank.redis.server import Arg, Call

_SCRIPTS = Scripts("surgetank.streams.tables.hot.shared", "log.lua")
_AT_ONCE, _BYTES_AT_ONCE = 200, 4 * 1024**2
GOES_ON, BEGINS_WITH_COPY, WENT_BACK = 1, 0, -1


@dataclass(frozen=True, slots=True)
class Position:
    """Up to where a replica has done all, and the mark of that one."""

    n: int = 0
    mark: bytes = b""


@dataclass(frozen=True, slots=True)
class Entry:
    """One step of the log. `run` names the run of the server that took it."""

    n: int
    body: bytes
    mark: bytes
    run: str


class SharedLog:
    """The log on the server at `address`. Everything raises `BufferUnavailable`, `BufferFull`."""

    def __init__(self, address: RedisAddress, durability: Durability = "process") -> None:
        self._server = server_at(address, name="log of tables")
        self._tag = address.tag("tables")
        try:
            self._server.confirmation = confirmation(facts_of(self._server), durability)
        except BaseException:
            self._server.close()
            raise
        self.name = address.name

    @staticmethod
    def new_mark() -> bytes:
        """A mark that no other entry has."""
        return secrets.token_bytes(12)

    def append(
        self, at: Position, body: bytes, mark: bytes, *, grows: bool
    ) -> tuple[int, int, str]:
        """Add a step, if the sender can go on from where it is: how it stands, the number that the
        step was given, and the run of the server."""
        script = _SCRIPTS["append" if grows else "note"]
        args: list[Arg] = [at.n, at.mark, body, mark]
        (reply,) = self._server.call_all([Call(script, self._tag, args, once=True, confirm=True)])
        return int(reply[0]), int(reply[1]), reply[2].decode()

    def after(self, at: Position) -> tuple[int, int, list[Entry]]:
        """How somebody stands who is there, the newest number, and the next steps."""
        args: list[Arg] = [at.n, at.mark, _AT_ONCE, _BYTES_AT_ONCE]
        stands, newest, *found = self._server.call(_SCRIPTS["after"], self._tag, args)
        return int(stands), int(newest), list(_entries(iter(found)))

    def copy(self) -> tuple[str, int]:
        """The name of the newest copy of a replica (empty: there is none), and up to where it has
        all."""
        name, at = self._server.call(_SCRIPTS["copy"], self._tag)
        return name.decode(), int(at)

    def keep_copy(self, name: str, at: Position) -> tuple[str, bool]:
        """Let the log begin with a copy: the name of the one before, and whether it was taken."""
        before, taken = self._server.call(
            _SCRIPTS["keep_copy"], self._tag, [name, at.n, at.mark], once=True
        )
        return before.decode(), bool(taken)

    def seed(self, name: str, at: Position) -> bool:
        """Let a log that lost all go on from a copy. False where it has something."""
        return bool(
            self._server.call(_SCRIPTS["seed"], self._tag, [name, at.n, at.mark], once=True)
        )

    def close(self) -> None:
        """Close its connections. Idempotent."""
        self._server.close()


def _entries(found: Iterator[Any]) -> Iterator[Entry]:
    for n in found:
        mark, run, body = next(found), next(found), next(found)
        yield Entry(int(n), body, mark, run.decode())
