"""The buffer in Redis or Valkey: its roles, each over the same `Shards`.

What is accepted is in `log.py` and `append.lua`, what is kept of a partition and counted in
`partition.lua`. Plain commands and Lua only; each step touches the keys of one shard, which are in one
slot of a cluster.
"""

from __future__ import annotations

from collections.abc import Callable

from surgetank.buffer.copies import RecentLimits
from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.redis.acks import RedisAcks, RedisCopies
from surgetank.buffer.redis.backlog import RedisBacklog, RedisJobLog, RedisTallies
from surgetank.buffer.redis.leases import RedisLeases
from surgetank.buffer.redis.log import RedisLog
from surgetank.buffer.redis.parking import RedisParking
from surgetank.buffer.redis.shards import Shards
from surgetank.buffer.redis.spilling import RedisSpilling, SpilledValues
from surgetank.buffer.redis.upkeep import RedisBinding, RedisFence, RedisUpkeep
from surgetank.buffer.redis.view import Views
from surgetank.fallback.files import SpillFiles
from surgetank.redis.address import RedisAddress
from surgetank.redis.facts import Durability, confirmation, facts_of


class RedisBuffer:
    """A `Buffer`, and `Spilling`, on the server at an address, shared by any number of threads,
    processes and hosts. Its methods are those of its roles.

    `durability`: what an append waits for. `"process"`: the server has it in memory; `"power"`: it is
    in the server's file, on its disk; `"replicated"`: a replica has it as well.
    `clock` gives the time that is stored; without one it is the server's, the same on every host.
    `files` knows where values may be spilled to; those with one of the `inline_keys` never are.
    `destination` is the database that it belongs to from its first entry on.
    Acknowledged entries are kept for `keep_s`, up to `keep_bytes` of them. What was lost on its way is
    sent again for `patience_s`. Raises `BufferUnavailable`,
    `BufferCorrupt`, `ConfigurationError`.
    """

    over_network = True

    def __init__(  # noqa: PLR0915 - a line for each method of its roles
        self,
        address: RedisAddress,
        *,
        durability: Durability = "process",
        limits: BufferLimits | None = None,
        clock: Callable[[], float] | None = None,
        jobs_kept: int = 10_000,
        recent: RecentLimits | None = None,
        keep_s: float = 0.0,
        keep_bytes: int = 64 * 1024**2,
        files: SpillFiles | None = None,
        inline_keys: frozenset[bytes] = frozenset(),
        destination: str | None = None,
        patience_s: float = 5.0,
    ) -> None:
        limits = limits or BufferLimits()
        self._shards = shards = Shards(address, clock=clock, patience_s=patience_s)
        self._durability = durability
        try:
            facts = facts_of(shards.server)
            shards.server.confirmation = confirmation(facts, durability)
        except BaseException:
            shards.server.close()
            raise
        views = Views(shards)
        self._log = entries = RedisLog(shards, views, limits)
        self.append = entries.append
        self.try_append = entries.try_append
        self.snapshot = entries.snapshot
        self.raise_fence = entries.raise_fence
        self.try_raise_fence = entries.try_raise_fence

        tallies = RedisTallies(shards, entries)
        self.tally = tallies.tally
        self.try_tally = tallies.try_tally
        self.send_tallies = tallies.send_tallies

        leases = RedisLeases(shards)
        self.lease = leases.lease
        self.renew = leases.renew
        self.release = leases.release
        self.read = leases.read
        self.read_many = leases.read_many
        self.postpone = leases.postpone
        self.retry_now = leases.retry_now

        copies = RedisCopies(shards, views, recent or RecentLimits(), limits)
        self.ack = RedisAcks(shards, copies, keep=keep_s > 0).ack
        self._copies = copies
        self.keep_copy = copies.keep_copy
        self.use_copy = copies.use_copy
        self.drop_copies = copies.drop_copies
        self.copies = copies.copies
        self.copies_held = copies.copies_held
        self.trim_copies = copies.trim_copies
        self.shed_copies = copies.shed_copies

        parking = RedisParking(shards, leases, entries)
        self.park = parking.park
        self.parked = parking.parked
        self.parked_entry = parking.parked_entry
        self.unpark = parking.unpark
        self.discard_parked = parking.discard_parked

        backlog = RedisBacklog(shards, limits)
        self.states = backlog.states
        self.state = backlog.state
        self.failures = backlog.failures
        self.last_seq = backlog.last_seq
        self.waiting = backlog.waiting
        self.first_waiting = backlog.first_waiting
        self.depth = backlog.depth
        self.fill = backlog.fill

        jobs = RedisJobLog(shards, jobs_kept)
        self.save_job = jobs.save_job
        self.job = jobs.job
        self.jobs = jobs.jobs

        fence = RedisFence(shards, leases, entries, keep_s, keep_bytes)
        self.marks = fence.marks
        self.rewind = fence.rewind
        self.renew_epoch = fence.renew_epoch
        self.raise_token = fence.raise_token
        self.forget_kept = fence.forget_kept

        binding = RedisBinding(shards, fence)
        self.binding = binding.binding
        self.bind = binding.bind
        if destination is not None:
            entries.before_first = lambda: binding.note_destination(destination)

        upkeep = RedisUpkeep(shards, entries, copies=copies, jobs=jobs, fence=fence)
        upkeep.judge()
        self.advices = upkeep.advices
        self.damage = upkeep.damage
        self.damage_announced = upkeep.damage_announced
        self.erase = upkeep.erase
        self.scrub = upkeep.scrub
        self.maintain = upkeep.maintain
        self.check = upkeep.check
        self.miscounted = upkeep.miscounted
        self.taken_away = upkeep.taken_away
        self.close = shards.server.close

        self.files = files or SpillFiles(None)
        shards.load = SpilledValues(shards, self.files).load
        spilling = RedisSpilling(
            shards, views, leases, entries, limits=limits, files=self.files, inline_keys=inline_keys
        )
        self.lease_to_spill = spilling.lease_to_spill
        self.begin_spill = spilling.begin_spill
        self.stub = spilling.stub
        self.keep_spill = spilling.keep_spill
        self.spill_files = spilling.spill_files
        self.spilled_entries = spilling.spilled_entries
        self.drained_spills = spilling.drained_spills
        self.forget_spill = spilling.forget_spill
        self.begin_recovery = spilling.begin_recovery
        self.take_over = spilling.take_over
        self.pending = spilling.pending
        self.relocate_spill = spilling.relocate_spill
        self.end_recovery = spilling.end_recovery

    @property
    def id(self) -> str:
        """Identity of the buffer's contents."""
        return self._shards.id

    @property
    def name(self) -> str:
        """The server's URL, without its password."""
        return self._shards.address.name

    @property
    def durability(self) -> str:
        """What an accepted entry survives."""
        return self._durability

    @property
    def clock(self) -> Callable[[], float]:
        """The time that is stored."""
        return self._shards.clock

    @property
    def recent(self) -> RecentLimits:
        """How much copies may take."""
        return self._copies.recent

    @property
    def epoch(self) -> int:
        """The epoch of what this handle accepts."""
        return self._log.epoch
