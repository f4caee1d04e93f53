"""The shards of a buffer in Redis: which one a partition is in, and how full they are together.

All streams of a name are in one shard, so that what concerns a thread touches one slot. A shard knows
exactly what it holds; what the others hold is known by a view that is at most half a second old, kept
up by every reply. So a limit may be overshot by what other processes put into other shards meanwhile.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from zlib import crc32

from surgetank.buffer.redis.values import Load
from surgetank.exceptions import BufferCorrupt, BufferUnavailable, ConfigurationError, EntryRejected
from surgetank.redis.address import RedisAddress
from surgetank.redis.connecting import server_at
from surgetank.redis.scripts import Script, Scripts
from surgetank.redis.server import Arg, Ask, Call, Confirmation

VIEW_S = 0.5
_FORMAT = "1"
_SHARED = ("partition.lua",)


def scripts(file: str) -> Scripts:
    """The scripts of a file beside this one."""
    return Scripts("surgetank.buffer.redis", file, shared=_SHARED)


_OPEN, _PARKING, _UPKEEP = scripts("append.lua"), scripts("parking.lua"), scripts("upkeep.lua")


class Loss(NamedTuple):
    """A shard does not have any more what it accepted after one number, up to another one."""

    shard: int
    after: int
    through: int


class Shards:
    """The shards at an address, and the connections to them.

    Raises `ConfigurationError` when the buffer was made with another number of shards.
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        clock: Callable[[], float] | None = None,
        patience_s: float = 5.0,
        confirmation: Confirmation | None = None,
    ) -> None:
        self.address = address
        self.server = server_at(
            address,
            name="buffer",
            patience_s=patience_s,
            confirmation=confirmation,
            on_connect=self._meet,
        )
        self.clock = clock or self.server.clock
        self.count = address.shards
        self._tags = [address.tag(number) for number in range(self.count)]
        self._lock = threading.Lock()
        self._held = [(0, 0)] * self.count  # entries and bytes of each shard, as far as known
        self._sums = (0, 0)  # of all shards
        self._viewed_at = float("-inf")
        # In which run of the server the newest number of each shard was given to us.
        self._runs: list[bytes | None] = [None] * self.count
        self._newest = [0] * self.count
        self.losses: list[Loss] = []
        self.load: Load = _nowhere
        self.id = ""
        self._named_in: bytes | None = None  # in which run of the server it is known to have the id
        try:
            self.id = self._identify()
            self.view(fresh=True)
        except BaseException:
            self.server.close()
            raise

    def _identify(self) -> str:
        """Which buffer it is; the first one that opens it says."""
        return self._accept(
            self.server.call(
                _OPEN["open"], self._tags[0], [str(uuid.uuid4()), self.count, _FORMAT], once=True
            )
        )

    def _accept(self, made: Sequence[bytes]) -> str:
        id_, shards, format_ = (part.decode() for part in made)
        if int(shards) != self.count:
            raise ConfigurationError(
                f"The buffer {self.address.name} was made with {shards} shards, not {self.count}.",
                remedy=f"write shards={shards} into SURGETANK_BUFFER_URL, or choose another prefix.",
            )
        if format_ != _FORMAT:
            raise BufferUnavailable(
                f"The buffer {self.address.name} has the format {format_}, which this version of "
                "Surgetank does not know.",
                remedy="use the version that made it, or a newer one.",
            )
        return str(id_)

    # -- a server that lost its tail

    def _meet(self, ask: Ask) -> None:
        """A connection was made: see whether the server has what it said that it accepted."""
        for shard, met in enumerate(ask([Call(_OPEN["meet"], t) for t in self._tags])):
            if met is None:  # it is at another node of the cluster
                continue
            run, begin = met
            with self._lock:
                before, newest = self._runs[shard], self._newest[shard]
            is_lost = before != run and newest > begin
            if is_lost:  # no number is given again, also if the server's clock is behind
                ask([Call(_OPEN["raise_numbers"], self._tags[shard], [newest])])
            with self._lock:
                if is_lost and self._runs[shard] == before:  # else another connection noticed it
                    self._newest[shard] = 0
                    self.losses.append(Loss(shard, begin, newest))
                self._runs[shard] = run
        run = self._runs[0]
        if self.id and run != self._named_in:
            # It may have lost who it is as well. All processes go on with one name.
            (made,) = ask([Call(_OPEN["open"], self._tags[0], [self.id, self.count, _FORMAT])])
            if made is None:  # that is at another node
                return
            if isinstance(made, Exception):
                raise made
            self.id = self._accept(made)
            self._named_in = run

    def was_given(self, shard: int, seq: int) -> None:
        """The server said that it accepted this number."""
        with self._lock:
            self._newest[shard] = max(self._newest[shard], seq)

    def take_losses(self) -> list[Loss]:
        """What was lost and is not told yet."""
        with self._lock:
            losses, self.losses = self.losses, []
        return losses

    # -- which shard

    def of(self, partition: str) -> int:
        """The shard of a partition."""
        return crc32(partition.encode()) % self.count

    def tag(self, shard: int) -> bytes:
        """What the keys of a shard begin with."""
        return self._tags[shard]

    def by_shard(self, partitions: Iterable[str]) -> dict[int, list[str]]:
        """These partitions by their shards."""
        found: dict[int, list[str]] = {}
        for partition in partitions:
            found.setdefault(self.of(partition), []).append(partition)
        return found

    # -- asking

    def read(self, script: Script, partition: str, *args: Arg) -> Any:
        """Run a script that only reads, in the shard of a partition."""
        return self.server.call(script, self._tags[self.of(partition)], args)

    def write(self, script: Script, partition: str, *args: Arg) -> Any:
        """Run a script that changes something, in the shard of a partition; once, whatever gets
        lost."""
        return self.server.call(script, self._tags[self.of(partition)], args, once=True)

    def each(self, script: Script, *args: Arg, once: bool = False) -> list[Any]:
        """Run a script in every shard, in one round trip."""
        return self.server.call_all([Call(script, tag, args, once) for tag in self._tags])

    def note_damage(self, stream: str, partition: str, what: str) -> None:
        """Write down that something accepted is not there any more; once, whoever finds it."""
        args = (self.clock(), stream, partition, what)
        self.some(_UPKEEP["note_damage"], {0: args}, once=True)

    def some(
        self, script: Script, args_of: dict[int, Sequence[Arg]], *, once: bool = False
    ) -> dict[int, Any]:
        """Run a script in these shards, each with arguments of its own, in one round trip."""
        replies = self.server.call_all(
            [Call(script, self._tags[shard], args, once) for shard, args in args_of.items()]
        )
        return dict(zip(args_of, replies, strict=True))

    def many(self, script: Script, asked: Sequence[tuple[str, Sequence[Arg]]]) -> list[Any]:
        """Run a script that only reads for several partitions, in one round trip."""
        return self.server.call_all(
            [Call(script, self._tags[self.of(partition)], args) for partition, args in asked]
        )

    # -- how full

    def learn(self, shard: int, held: Sequence[bytes]) -> None:
        """What a shard held by its last reply."""
        entries, size = int(held[0]), int(held[1])
        with self._lock:
            before, sums = self._held[shard], self._sums
            self._held[shard] = (entries, size)
            self._sums = (sums[0] + entries - before[0], sums[1] + size - before[1])

    def view(self, *, fresh: bool = False) -> None:
        """Look again how full all shards are, if that was longer ago than it may be."""
        now = time.monotonic()
        if not fresh and now - self._viewed_at < VIEW_S:
            return
        self._viewed_at = now
        for shard, held in enumerate(self.each(_OPEN["totals"])):
            self.learn(shard, held)

    def held(self) -> tuple[int, int]:
        """Entries and bytes of all shards, as far as known."""
        return self._sums

    def kept(self) -> int:
        """Bytes of what was acknowledged and is kept, now."""
        return sum(int(totals[3]) for totals in self.each(_OPEN["totals"]))

    def new_parked_id(self) -> int:
        """An id for a parked entry, of all shards."""
        return int(self.server.call(_PARKING["new_id"], self._tags[0], once=True))

    def others(self, shard: int) -> tuple[int, int]:
        """Entries and bytes of all other shards, as far as known."""
        with self._lock:
            held, sums = self._held[shard], self._sums
        return sums[0] - held[0], sums[1] - held[1]


def _nowhere(number: int, _: bytes) -> bytes:
    raise BufferCorrupt(
        f"A value is in the spill file {number}, and nobody can read that.",
        remedy="open the buffer with the fallback location that it was spilled to.",
    )


def name_of(stream: str, partition: str) -> bytes:
    """The name of a partition in its shard. Raises `EntryRejected` for what is no text."""
    try:
        return f"{stream}\0{partition}".encode()
    except UnicodeEncodeError as error:
        raise EntryRejected(
            partition=partition,
            path="$",
            reason=f"a name that is not valid text ({error.reason})",
            remedy="use names without lone surrogates",
        ) from error
