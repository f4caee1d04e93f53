"""Which servers an address leads to now: the primary that sentinels name, or the nodes of a cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as ReplyLate

_LOST = (ConnectionLost, ReplyLate, OSError)
_SLOTS = 16384
Command = tuple[bytes | str | int | float, ...]


class Node(NamedTuple):
    """A server."""

    host: str
    port: int


Ask = Callable[[Node, Command], Any]  # one command to one server, over a connection for just that


class Sentinels:
    """Asks sentinels for the primary of a service. Safe to use from several threads."""

    def __init__(self, nodes: Sequence[Node], service: str, ask: Ask) -> None:
        self._nodes = list(nodes)
        self._service = service
        self._ask = ask

    def primary(self) -> Node:
        """As the first sentinel says that answers. Raises an error of redis-py's when none does."""
        problem: Exception = ConnectionLost("no sentinel is named")
        for node in list(self._nodes):
            try:
                found = self._ask(node, ("SENTINEL", "get-master-addr-by-name", self._service))
            except AuthenticationError:
                raise
            except (*_LOST, ResponseError) as error:
                problem = error
                continue
            if found:
                self._nodes.sort(key=lambda each: each != node)  # it is asked first from now on
                return Node(found[0].decode(), int(found[1]))
            problem = ConnectionLost(f"sentinel {node.host}:{node.port} knows no {self._service!r}")
        raise ConnectionLost(f"no sentinel names a primary: {problem}") from problem


class Slots:
    """Which node of a cluster has which slot, as far as known. Safe to use from several threads."""

    def __init__(self, nodes: Sequence[Node], ask: Ask) -> None:
        self._seeds = list(nodes)
        self._ask = ask
        self._lock = threading.Lock()
        self._owners: list[Node | None] = [None] * _SLOTS

    def owner(self, slot: int) -> Node:
        """Who has it. Asks the cluster where that is not known. Raises an error of redis-py's."""
        with self._lock:
            if (known := self._owners[slot]) is not None:
                return known
        self._learn()
        with self._lock:
            if (known := self._owners[slot]) is None:
                raise ConnectionLost(f"no node of the cluster has slot {slot}")
            return known

    def moved(self, slot: int, node: Node) -> None:
        """A node said so."""
        with self._lock:
            self._owners[slot] = node

    def forget(self) -> None:
        """A node went, or was not there: ask again."""
        with self._lock:
            self._seeds = [
                *{node: None for node in [*self._owners, *self._seeds] if node is not None}
            ]
            self._owners = [None] * _SLOTS

    def _learn(self) -> None:
        problem: Exception = ConnectionLost("no node is named")
        for node in list(self._seeds):
            try:
                ranges = self._ask(node, ("CLUSTER", "SLOTS"))
            except AuthenticationError:
                raise
            except (*_LOST, ResponseError) as error:
                problem = error
                continue
            with self._lock:
                for first, last, owner, *_ in ranges:
                    host = owner[0].decode() if owner[0] else node.host
                    self._owners[first : last + 1] = [Node(host, owner[1])] * (last + 1 - first)
            if ranges:
                return
            problem = ConnectionLost(f"{node.host}:{node.port} knows no slots")
        raise ConnectionLost(f"no node of the cluster answers: {problem}") from problem
