"""Talking to a cluster: each script goes to the node that has its slot, and goes again where that has moved.

A lane has a connection to each node. Its count is the same at all of them, so that what is sent again to
another node, because a slot moved or a replica took over, is done once as everywhere (`once.lua`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from surgetank.redis.routes import Node, Slots
from surgetank.redis.server import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    LOST,
    Arg,
    Call,
    Lane,
    RedisServer,
    is_demotion,
)


class RedisCluster(RedisServer):
    """The same as `RedisServer`, for a cluster. Scripts for several nodes are several round trips."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._slots = Slots([Node(*each) for each in self.address.nodes], self.ask_alone)

    def command(self, *parts: Arg) -> Any:
        """Run one plain command that only reads, at the node of the first shard."""
        (reply,) = self._at_nodes(
            [self.address.tag(0)], lambda lane, _: self._pipeline(lane, [parts])
        )
        if isinstance(reply, RedisError):
            raise self._named(reply)
        return reply

    def command_at_each(self, *parts: Arg) -> list[tuple[str, Any]]:
        """Run one plain command at each node that has a shard."""
        try:
            at = self.address
            slots = [key_slot(at.tag(number)) for number in range(at.shards)]
            nodes = dict.fromkeys(self._slots.owner(slot) for slot in slots)
            found: list[tuple[str, Any]] = []
            for node in nodes:
                try:
                    reply = self.ask_alone(node, parts)
                except ResponseError as error:
                    reply = self._named(error)
                found.append((f"{node.host}:{node.port}", reply))
        except (AuthenticationError, *LOST) as error:
            self._slots.forget()
            raise self._named(error) from error
        return found

    def _ask_calls(self, calls: Sequence[Call]) -> list[Any]:
        return self._at_nodes(
            [call.tag for call in calls],
            lambda lane, numbers: self._send(lane, [calls[n] for n in numbers]),
            counted=True,
        )

    def _at_nodes(self, tags: Sequence[bytes], send: Any, *, counted: bool = False) -> list[Any]:
        """The replies to what is in the slots of these tags, each from the node that has it."""
        lane = self._take()
        lane.count += counted
        replies: list[Any] = [None] * len(tags)
        left = list(range(len(tags)))
        deadline, pause = time.monotonic() + self._patience_s, FIRST_PAUSE_S
        try:
            while left:
                left, problem = self._round(lane, tags, left, send, replies)
                if problem is not None:
                    self._pause(problem, deadline, pause)
                    pause = min(2 * pause, LONGEST_PAUSE_S)
        except BaseException:
            lane.disconnect()
            raise
        finally:
            self._give_back(lane)
        return replies

    def _round(
        self,
        lane: Lane,
        tags: Sequence[bytes],
        numbers: Sequence[int],
        send: Any,
        replies: list[Any],
    ) -> tuple[list[int], Exception | None]:
        """What has to be sent again, and why that has to wait."""
        again = list[int]()
        problem: Exception | None = None
        try:
            by_node: dict[Node, list[int]] = {}
            for n in numbers:
                by_node.setdefault(self._slots.owner(key_slot(tags[n])), []).append(n)
        except AuthenticationError as error:
            raise self._named(error) from error
        except LOST as error:
            return list(numbers), error
        for node, some in by_node.items():
            at = lane.at(node, self._connection)
            try:
                self._make_ready(at)
                found = send(at, some)
            except AuthenticationError as error:
                raise self._named(error) from error
            except (*LOST, ReadOnlyError) as error:
                at.connection.disconnect()
                self._slots.forget()
                again, problem = [*again, *some], error
                continue
            for n, reply in zip(some, found, strict=True):
                why = self._astray(reply, key_slot(tags[n]))
                if why is None:
                    replies[n] = reply
                    continue
                again.append(n)
                if not isinstance(why, _Elsewhere):
                    problem = why
        return again, problem

    def _astray(self, reply: Any, slot: int) -> Exception | None:
        """Why a reply is no answer; None: it is one."""
        if isinstance(reply, MovedError):
            self._slots.moved(slot, Node(reply.host, reply.port))
            return _Elsewhere()
        if is_demotion(reply):
            self._slots.forget()
            return reply  # type: ignore[no-any-return]
        # Of `AskError` its slot moves just now.
        return reply if isinstance(reply, (AskError, TryAgainError, ClusterDownError)) else None

    def _scripts_here(self, lane: Lane, calls: Sequence[Call]) -> list[Any]:
        """Of a connection's first questions those that its node can answer; None for others."""
        found = self._scripts(lane, calls)
        return [None if isinstance(reply, RedisError) else reply for reply in found]


class _Elsewhere(Exception):
    """It is known now where it has to go."""
