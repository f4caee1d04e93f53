"""The log of the Redis buffer: an append is one script in one shard.

Concurrent appenders are sent together: each puts its request in a queue, and whoever holds the lock sends
all that wait, one script for each shard, in one round trip.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from surgetank.buffer.coordination import NOTE_TTL_S
from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.log import Guard
from surgetank.buffer.redis.codec import encode
from surgetank.buffer.redis.families import Families, Shortened
from surgetank.buffer.redis.shards import Shards, name_of, scripts
from surgetank.buffer.redis.view import RedisSnapshot, Views
from surgetank.exceptions import (
    BufferFull,
    BufferProblem,
    BufferUnavailable,
    EntryRejected,
    LeaseLost,
)
from surgetank.model import LOST_TAIL, Record
from surgetank.redis.server import Arg, Call

_SCRIPTS = scripts("append.lua")
_GROUP = 256  # appends sent together, at most
_MOST_RECORDS = 65_535
_ASK_AGAIN_S = 0.02  # while there is no room


@dataclass(slots=True, eq=False)
class Request:
    """One append on its way."""

    stream: str
    partition: str
    records: Sequence[Record]
    name: bytes
    shard: int
    flags: str
    fence: int | None
    tenant: str = ""
    shortened: Shortened = field(default_factory=lambda: Shortened([], 0))
    entry: bytes = b""
    seen: bytes = b""  # the partition's number that its guard saw
    done: bool = False
    code: bytes = b""
    seq: int = 0
    error: BufferProblem | None = None

    def args(self) -> tuple[Arg, ...]:
        """As the script takes it."""
        made = self.shortened
        return (
            self.name,
            made.size,
            "" if made.root is None else made.root,
            ",".join(map(str, made.bases)),
            "" if self.fence is None else self.fence,
            self.tenant,
            self.flags,
            self.seen,
            self.entry,
        )


class RedisLog:
    """The role `Log`. What this handle accepts is of its `epoch`."""

    def __init__(self, shards: Shards, views: Views, limits: BufferLimits) -> None:
        self.limits = limits
        self.epoch = new_epoch()
        self._shards = shards
        self._views = views
        self._families = Families()
        self._lock = threading.Lock()
        self._waiting: deque[Request] = deque()
        self.before_first: Callable[[], None] | None = None

    def append(
        self,
        stream: str,
        partition: str,
        records: Sequence[Record],
        *,
        guard: Guard | None = None,
        start_guarding: bool = False,
        ask_guards: bool = False,
        wait: bool = True,
        fence: int | None = None,
        tenant: str = "",
    ) -> int:
        flags = "g" * (guard is not None) + "s" * start_guarding + "a" * ask_guards
        request = self.request(stream, partition, records, flags, fence)
        request.tenant = tenant
        deadline: float | None = None
        if self.before_first is not None:  # what is accepted first says where all of it goes
            self.before_first()
            self.before_first = None
        self._shards.view()
        while True:
            self._submit(request)
            match request.code:
                case b"ok":
                    self._families.accepted(
                        request.name, request.seq, request.records, request.shortened
                    )
                    return request.seq
                case b"old":
                    raise outdated(partition)
                case b"base":  # it was acknowledged meanwhile
                    self.prepare(request, full=True)
                case b"guard":
                    assert guard is not None
                    if self._is_refused(request, guard):
                        return 0
                case _:
                    deadline = self._wait_for_space(request, deadline, wait=wait)

    def try_append(
        self,
        stream: str,
        partition: str,
        records: Sequence[Record],
        *,
        guard: Guard | None = None,  # noqa: ARG002
        fence: int | None = None,  # noqa: ARG002
        tenant: str = "",  # noqa: ARG002
    ) -> int | None:
        """Never at once: it waits for the network."""
        name_of(stream, partition)
        _require_records(partition, records)
        self._shards.server.require_open()
        return None

    def raise_fence(self, stream: str, partition: str, fence: int) -> None:
        now, name = self._shards.clock(), name_of(stream, partition)
        if not self._shards.write(_SCRIPTS["raise_fence"], partition, now, name, fence):
            raise outdated(partition)

    def try_raise_fence(self, stream: str, partition: str, fence: int) -> bool:  # noqa: ARG002
        """Never at once: it waits for the network."""
        return False

    @contextmanager
    def snapshot(self) -> Iterator[RedisSnapshot]:
        self._shards.server.require_open()
        yield RedisSnapshot(self._shards, self._views)

    # -- sending

    def request(
        self,
        stream: str,
        partition: str,
        records: Sequence[Record],
        flags: str = "",
        fence: int | None = None,
    ) -> Request:
        """An append, ready to be sent. Raises `EntryRejected`."""
        _require_records(partition, records)
        name = name_of(stream, partition)
        shard = self._shards.of(partition)
        request = Request(stream, partition, records, name, shard=shard, flags=flags, fence=fence)
        self.prepare(request)
        return request

    def prepare(self, request: Request, *, full: bool = False) -> None:
        """Make the entry that is sent."""
        try:
            request.shortened = self._families.shorten(request.name, request.records, full=full)
            request.entry = encode(request.name, request.shortened.records)
        except TypeError as error:
            raise EntryRejected(
                partition=request.partition, path="$", reason=f"no bytes ({error})"
            ) from error

    def head(self, shard: int) -> tuple[Arg, ...]:
        """What the arguments of an append begin with."""
        limits = self.limits
        others = self._shards.others(shard)
        return (self._shards.clock(), self.epoch, limits.max_entries, limits.max_bytes, *others)

    def _submit(self, request: Request) -> None:
        request.done, request.code, request.error = False, b"", None
        self._waiting.append(request)
        try:
            with self._lock:
                while not request.done and self._waiting:
                    self._send_group()
        except BaseException:  # KeyboardInterrupt: who was told so must not find it accepted later
            with suppress(ValueError, IndexError):
                self._waiting.remove(request)
            raise
        if self._shards.losses:
            self.tell_losses()
        if request.error is not None:
            raise request.error
        if not request.code:
            raise BufferUnavailable(
                "The append was interrupted; whether it was accepted is not known.",
                remedy="append again.",
            )

    def tell_losses(self) -> None:
        """The server came back without what it had accepted last: that is written down as damage, and
        what is accepted from now on is of another epoch."""
        for loss in self._shards.take_losses():
            self.epoch = new_epoch()
            self._shards.note_damage(
                "",
                "",
                f"{LOST_TAIL}: numbers above {loss.after}, up to {loss.through} at least, of shard {loss.shard}",
            )

    def _send_group(self) -> None:
        group: dict[int, list[Request]] = {}
        size = 0
        try:
            while self._waiting and size < _GROUP:
                request = self._waiting.popleft()
                group.setdefault(request.shard, []).append(request)
                size += 1
            calls = [
                Call(
                    _SCRIPTS["append"],
                    self._shards.tag(shard),
                    [*self.head(shard), *(arg for request in requests for arg in request.args())],
                    once=True,
                    confirm=True,
                )
                for shard, requests in group.items()
            ]
            replies = self._shards.server.try_all(calls)
            for (shard, requests), reply in zip(group.items(), replies, strict=True):
                self._take_reply(shard, requests, reply)
        except BufferProblem as error:
            for requests in group.values():
                for request in requests:
                    request.error = error
        finally:
            for requests in group.values():
                for request in requests:
                    request.done = True

    def _take_reply(self, shard: int, requests: list[Request], reply: Any) -> None:
        if isinstance(reply, BufferProblem):
            for request in requests:
                request.error = reply
            return
        outcomes, held = reply
        self._shards.learn(shard, held)
        for request, (code, seq) in zip(requests, outcomes, strict=True):
            request.code, request.seq = code, seq
            self._shards.was_given(shard, seq)

    # -- guards

    def _is_refused(self, request: Request, guard: Guard) -> bool:
        """Ask the guard about the partition as it is now. True, and its notes are kept, when it
        refuses."""
        view = self._views.read(request.stream, request.partition)
        notes = guard(RedisSnapshot(self._shards, self._views, given=view))
        request.seen = view.number
        if notes is None:
            return False
        now = self._shards.clock()
        flat = (part for note in notes.items() for part in note)
        kept = self._shards.write(
            _SCRIPTS["refuse"], request.partition, now, now + NOTE_TTL_S, request.name, view.number, *flat
        )  # fmt: skip
        return bool(kept)  # else the partition has changed since: it is asked again

    # -- limits

    def _wait_for_space(
        self, request: Request, deadline: float | None, *, wait: bool
    ) -> float | None:
        limits, size = self.limits, request.shortened.size
        self._shards.view(fresh=True)  # what other processes took out of other shards
        entries, held = self._shards.held()
        if entries < limits.max_entries and held + size <= limits.max_bytes:
            return deadline
        if not wait or size > limits.max_bytes or limits.when_full == "reject":
            raise self._full(request, waited=None)
        now = time.monotonic()
        if deadline is None:
            deadline = now + limits.block_timeout_s
        if now >= deadline:
            raise self._full(request, waited=limits.block_timeout_s)
        time.sleep(min(_ASK_AGAIN_S, deadline - now))
        return deadline

    def _full(self, request: Request, *, waited: float | None) -> BufferFull:
        entries, held = self._shards.held()
        limits = self.limits
        wait = f" after waiting {waited:.0f} s" if waited is not None else ""
        return BufferFull(
            f"The buffer is at its limit{wait}: {entries} of {limits.max_entries} entries, "
            f"{held} of {limits.max_bytes} bytes; {request.shortened.size} bytes for "
            f"{request.partition!r} were not accepted.",
            remedy="see `surgetank status` for why it doesn't drain (is the database up?), or "
            "raise SURGETANK_BUFFER_MAX_BYTES / SURGETANK_BUFFER_MAX_ENTRIES.",
        )


def new_epoch() -> int:
    """A name for what one handle accepts, never given twice. It is never 0."""
    return secrets.randbits(62) | 1


def outdated(partition: str) -> LeaseLost:
    """What is raised for a writer that has an older fence."""
    return LeaseLost(
        f"{partition!r} is written by a newer run or worker; what this one wrote was not accepted.",
        remedy="nothing to do: whoever has it now goes on with it.",
    )


def _require_records(partition: str, records: Sequence[Record]) -> None:
    if not 0 < len(records) <= _MOST_RECORDS:
        raise EntryRejected(
            partition=partition,
            path="$",
            reason=f"an entry of {len(records)} records",
            remedy=f"write between 1 and {_MOST_RECORDS} values at once",
        )
