"""Talking to one Redis or Valkey server: scripts in, replies out, in one round trip however many.

Connections are **lanes**: one pipeline at a time. What changes something carries the lane's count,
so that it can be sent again after a lost reply and is done once (`once.lua`). A connection that
broke is made anew, and what was under way is sent again, until the time is over.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as ConnectionLost,
)
from redis.exceptions import (
    TimeoutError as ReplyLate,
)
from redis.retry import Retry

from surgetank.exceptions import BufferFull, BufferProblem, BufferUnavailable
from surgetank.redis.address import RedisAddress
from surgetank.redis.clock import ServerClock, passed
from surgetank.redis.routes import Node, Sentinels
from surgetank.redis.scripts import Script

Arg = bytes | str | int | float

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.25
LOST = (ConnectionLost, ReplyLate, OSError)


class Call(NamedTuple):
    """A script to run in the slot of a hash tag. `once`: it changes something. `confirm`: what it
    changes must be where `Confirmation` says before it is answered."""

    script: Script
    tag: bytes
    args: Sequence[Arg] = ()
    once: bool = False
    confirm: bool = False


class Confirmation(NamedTuple):
    """Where a change must be: in the memory of so many replicas, or in the server's own file (which
    needs Redis 7.2)."""

    replicas: int = 0
    in_file: bool = False
    timeout_s: float = 5.0


# Runs scripts over the connection that was just made.
Ask = Callable[[Sequence[Call]], list[Any]]


class Lane:
    """A connection, and the number of what was sent over it last. In a cluster, one to each node."""

    __slots__ = ("_nodes", "connection", "count", "id")

    def __init__(self, connection: Any) -> None:  # of redis-py, which leaves it untyped
        self.connection = connection
        self.id = secrets.token_hex(8)
        self.count = 0
        self._nodes: dict[Node, Lane] = {}

    def at(self, node: Node, connect: Callable[[Node], Any]) -> Lane:
        """The lane at a node, with the same number."""
        if node not in self._nodes:
            self._nodes[node] = Lane(connect(node))
            self._nodes[node].id = self.id
        self._nodes[node].count = self.count
        return self._nodes[node]

    def disconnect(self) -> None:
        """Close what is open. It is opened again when it is used."""
        for connection in [self.connection, *(lane.connection for lane in self._nodes.values())]:
            with suppress(*LOST):
                connection.disconnect()


class RedisServer:
    """The server at an address, for one user of it, which `name` is for people.

    No answer in `timeout_s` counts as a lost connection; what is lost is tried again for `patience_s`.
    `on_connect` is called with each new connection, before anything else is sent over it.
    Safe to use from several threads; each has a connection while it asks. Raises `BufferUnavailable`,
    `BufferFull`.
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        name: str,
        timeout_s: float = 5.0,
        patience_s: float = 5.0,
        confirmation: Confirmation | None = None,
        on_connect: Callable[[Ask], None] | None = None,
    ) -> None:
        self.address = address
        self.confirmation = confirmation
        self.clock = ServerClock()
        self._on_connect = on_connect
        self._name = name
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[Lane] = []
        self._closed = False
        self._away: BufferUnavailable | None = None  # why, since it did not answer for so long
        self._asking = threading.Lock()  # for one that is away: one asks, the others wait for that
        self._sentinels: Sentinels | None = None
        if address.service is not None:
            nodes = [Node(*each) for each in address.nodes]
            self._sentinels = Sentinels(nodes, address.service, self.ask_alone)

    def call(
        self, script: Script, tag: bytes, args: Sequence[Arg] = (), *, once: bool = False
    ) -> Any:
        """Run one script and return its reply."""
        return self.call_all([Call(script, tag, args, once)])[0]

    def call_all(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts in one round trip. Each is atomic, all together are not: when this raises,
        some may have been done."""
        for reply in (replies := self.try_all(calls)):
            if isinstance(reply, BufferProblem):
                raise reply
        return replies

    def try_all(self, calls: Sequence[Call]) -> list[Any]:
        """`call_all`, but what the server said against one script stands in its reply's stead."""
        if not calls:
            return []
        changing = [call.tag for call in calls if call.once]
        # A slot remembers one reply for each lane.
        assert len(set(changing)) == len(changing), "one change of a slot in a pipeline"
        replies = self._ask_calls(calls)
        return [self._named(r) if isinstance(r, RedisError) else r for r in replies]

    def _ask_calls(self, calls: Sequence[Call]) -> list[Any]:
        return self._ask(lambda lane: self._send(lane, calls), counted=True)

    def command(self, *parts: Arg) -> Any:
        """Run one plain command that only reads."""
        (reply,) = self._ask(lambda lane: self._pipeline(lane, [parts]))
        if isinstance(reply, RedisError):
            raise self._named(reply)
        return reply

    def command_at_each(self, *parts: Arg) -> list[tuple[str, Any]]:
        """Run one plain command at each node that has something of ours: the node's name for people
        (empty where there is but one), and its reply, also an error that it said."""
        (reply,) = self._ask(lambda lane: self._pipeline(lane, [parts]))
        return [("", self._named(reply) if isinstance(reply, RedisError) else reply)]

    def problem(self) -> BufferUnavailable | None:
        """Why it can't be used; None when it answers. Asks now."""
        try:
            self.command("PING")
        except BufferUnavailable as error:
            return error
        return None

    def close(self) -> None:
        """Close all connections. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for lane in idle:
            lane.disconnect()

    def require_open(self) -> None:
        """Raise `BufferUnavailable` after `close`."""
        if self._closed:
            raise BufferUnavailable(
                f"The {self._name} {self.address.name} is closed.",
                remedy="open Surgetank again before you use it.",
            )

    # -- asking

    def _ask(self, send: Callable[[Lane], list[Any]], *, counted: bool = False) -> list[Any]:
        if self._away is None or self._closed:
            return self._try(send, self._patience_s, counted=counted)
        is_mine = self._asking.acquire(timeout=LONGEST_PAUSE_S)
        try:
            away = self._problem_now()
            if away is None:
                return self._try(send, self._patience_s, counted=counted)
            if is_mine:
                return self._try(send, 0.0, counted=counted)
        finally:
            if is_mine:
                self._asking.release()
        raise BufferUnavailable(away.what, remedy=away.remedy)

    def _problem_now(self) -> BufferUnavailable | None:
        return self._away

    def _try(
        self, send: Callable[[Lane], list[Any]], patience_s: float, *, counted: bool
    ) -> list[Any]:
        lane = self._take()
        try:
            lane.count += counted
            deadline, pause = time.monotonic() + patience_s, FIRST_PAUSE_S
            while True:
                try:
                    self._make_ready(lane)
                    replies = send(lane)
                    problem = next(filter(is_demotion, replies), None)
                    if problem is None:
                        self._away = None
                        return replies
                except AuthenticationError as error:
                    raise self._goes(error) from error
                except (*LOST, ReadOnlyError) as error:
                    problem = error
                lane.connection.disconnect()
                self._pause(problem, deadline, pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        except BaseException:  # an interrupt may have come before all replies did
            lane.connection.disconnect()
            raise
        finally:
            self._give_back(lane)

    def _pause(self, problem: Exception, deadline: float, pause: float) -> None:
        if self._closed or time.monotonic() + pause > deadline:
            raise self._goes(problem) from problem
        time.sleep(pause)

    def _goes(self, problem: Exception) -> BufferProblem:
        """It can't be used: whoever asks next does not wait so long to learn it."""
        error = self._named(problem)
        if isinstance(error, BufferUnavailable) and not self._closed:
            self._away = error
        return error

    def _make_ready(self, lane: Lane) -> None:
        if not lane.connection.is_connected:
            if self._sentinels is not None:
                node = self._sentinels.primary()
                lane.connection.host, lane.connection.port = node
            _connect(lane.connection)
            self._read_clock(lane)
            if self._on_connect is not None:
                self._on_connect(lambda calls: self._scripts_here(lane, calls))
        elif self.clock.is_due:
            self._read_clock(lane)

    def _read_clock(self, lane: Lane) -> None:
        sent = passed()
        (reply,) = self._pipeline(lane, [("TIME",)])
        if isinstance(reply, RedisError):
            raise self._named(reply)
        self.clock.learn(sent, passed(), int(reply[0]) + int(reply[1]) / 1e6)

    def _send(self, lane: Lane, calls: Sequence[Call]) -> list[Any]:
        replies = self._scripts(lane, calls)
        if self.confirmation is not None and any(call.confirm for call in calls):
            self._confirm(lane, self.confirmation)
        return replies

    def _confirm(self, lane: Lane, wanted: Confirmation) -> None:
        """Wait until what this connection wrote is where it must be."""
        timeout = int(1000 * wanted.timeout_s)
        if wanted.in_file:
            (reply,) = self._pipeline(lane, [("WAITAOF", 1, wanted.replicas, timeout)])
            found = reply if isinstance(reply, list) else [0, 0]
            missing = found[0] < 1 or found[1] < wanted.replicas
        else:
            (reply,) = self._pipeline(lane, [("WAIT", wanted.replicas, timeout)])
            missing = not isinstance(reply, int) or reply < wanted.replicas
        if isinstance(reply, RedisError):
            raise self._named(reply)
        if missing:
            where = "its file" if wanted.in_file else f"{wanted.replicas} of its replicas"
            raise BufferUnavailable(
                f"The {self._name} {self.address.name} has accepted it, but it is not in {where} after "
                f"{wanted.timeout_s:g} s: it would be lost with the server.",
                remedy="look at the server's replicas and its disk, then try again.",
            )

    def _scripts(self, lane: Lane, calls: Sequence[Call]) -> list[Any]:
        replies = self._pipeline(
            lane, [_command(b"EVALSHA", call.script.digest, lane, call) for call in calls]
        )
        unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            again = [_command(b"EVAL", calls[n].script.text, lane, calls[n]) for n in unknown]
            for n, reply in zip(unknown, self._pipeline(lane, again), strict=True):
                replies[n] = reply
        return replies

    def _scripts_here(self, lane: Lane, calls: Sequence[Call]) -> list[Any]:
        """Of a connection's first questions those that its server can answer; None for others."""
        return self._scripts(lane, calls)

    @staticmethod
    def _pipeline(lane: Lane, commands: Sequence[tuple[Arg, ...]]) -> list[Any]:
        connection = lane.connection
        alone = len(commands) == 1
        pack = connection.pack_command if alone else connection.pack_commands
        packed = pack(*commands[0]) if alone else pack(commands)
        connection.send_packed_command(packed, check_health=False)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(connection.read_response(disable_decoding=True))
            except ResponseError as error:
                replies.append(error)
        return replies

    # -- lanes

    def _take(self) -> Lane:
        if self._pid != os.getpid():
            raise BufferUnavailable(
                f"The {self._name} {self.address.name} was opened before this process was forked.",
                remedy="open Surgetank in the child process (for gunicorn: in post_fork, or without "
                "--preload).",
            )
        self.require_open()
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return Lane(self._connection())

    def _give_back(self, lane: Lane) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(lane)
                return
        lane.disconnect()

    def ask_alone(self, node: Node, command: Sequence[Arg]) -> Any:
        """One command to one server, over a connection for just that. Raises errors of redis-py's."""
        connection = self._connection(node, sentinel=self._sentinels is not None)
        try:
            connection.connect()
            connection.send_command(*command)
            return connection.read_response(disable_decoding=True)
        finally:
            connection.disconnect()

    def _connection(self, node: Node | None = None, *, sentinel: bool = False) -> Any:
        at = self.address
        options: dict[str, Any] = {
            "db": 0 if sentinel else at.database,
            "username": None if sentinel else at.username,
            "password": at.sentinel_password if sentinel else at.password,
            "socket_timeout": self._timeout_s,
            "socket_connect_timeout": self._timeout_s,
            "retry": Retry(NoBackoff(), 0),  # we try again ourselves, and know what was done
            "protocol": 2,
        }
        kind: Any = UnixDomainSocketConnection
        if at.path is not None:
            return kind(path=at.path, **options)
        host, port = node or Node(at.host, at.port)
        kind = Connection if at.tls is None else SSLConnection
        return kind(
            host=host, port=port, **options, **(at.tls.options if at.tls is not None else {})
        )

    # -- errors

    def _named(self, error: Exception) -> BufferProblem:
        """The family's error for what the server or the client raised."""
        where = f"The {self._name} {self.address.name}"
        if isinstance(error, OutOfMemoryError) or _says(error, "OOM"):
            return BufferFull(
                f"{where} is out of memory; nothing was accepted.",
                remedy="raise maxmemory of the server, or lower SURGETANK_BUFFER_MAX_BYTES so that "
                "Surgetank is full first. What waits is flushed meanwhile.",
            )
        if isinstance(error, AuthenticationError):
            return BufferUnavailable(
                f"{where} refuses our user or password ({error}).",
                remedy="put user and password into SURGETANK_BUFFER_URL: redis://user:password@host.",
            )
        if is_demotion(error):
            return BufferUnavailable(
                f"{where} is a replica, which takes no writes.",
                remedy="name the primary in SURGETANK_BUFFER_URL.",
            )
        if isinstance(error, LOST):
            return BufferUnavailable(
                f"{where} does not answer ({error}); whether what was under way was accepted is not "
                "known.",
                remedy="start the server, or check SURGETANK_BUFFER_URL and the network.",
            )
        return BufferUnavailable(
            f"{where} can't be used ({error}).",
            remedy="see the log of the server. It must allow EVAL, EVALSHA and plain commands.",
        )


def _connect(connection: Any) -> None:
    """Connect, and refuse a replica: what it says may be old, and nothing says so."""
    connection.connect()
    connection.send_command("INFO", "replication")
    if b"role:slave" in connection.read_response(disable_decoding=True):
        connection.disconnect()
        raise ReadOnlyError("READONLY it is a replica")


def _says(error: object, code: str) -> bool:
    """Whether it is this error, also where a script met it."""
    return isinstance(error, ResponseError) and re.search(rf"(^|-){code}\b", str(error)) is not None


def is_demotion(reply: object) -> bool:
    """A primary became a replica. Its name may lead to the new primary soon."""
    return isinstance(reply, ReadOnlyError) or _says(reply, "READONLY")


def _command(verb: bytes, what: bytes, lane: Lane, call: Call) -> tuple[Arg, ...]:
    if call.once:
        return (verb, what, 1, call.tag, lane.id, lane.count, *call.args)
    return (verb, what, 1, call.tag, b"", b"", *call.args)
