"""The buffer in one SQLite file (WAL): its roles, each over the same `BufferFile`.

What is accepted is in `log.py` and `append.py`, what is counted in `ledger.py`, the format of the
file in `schema.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from surgetank.buffer.copies import RecentLimits
from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.sqlite.acks import SQLiteAcks
from surgetank.buffer.sqlite.append import Inserter
from surgetank.buffer.sqlite.attempts import SQLiteAttempts
from surgetank.buffer.sqlite.backlog import SQLiteBacklog
from surgetank.buffer.sqlite.binding import SQLiteBinding
from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.chain import Memory
from surgetank.buffer.sqlite.copies import CopyTables, SQLiteCopies
from surgetank.buffer.sqlite.fence import SQLiteFence, random_epoch
from surgetank.buffer.sqlite.jobs import SQLiteJobLog
from surgetank.buffer.sqlite.kept import KeptEntries
from surgetank.buffer.sqlite.leases import SQLiteLeases
from surgetank.buffer.sqlite.log import SQLiteLog
from surgetank.buffer.sqlite.parking import SQLiteParking
from surgetank.buffer.sqlite.space import Space
from surgetank.buffer.sqlite.spill import SpilledValues, SQLiteSpilling
from surgetank.buffer.sqlite.tallies import SQLiteTallies
from surgetank.buffer.sqlite.upkeep import SQLiteErasing, SQLiteUpkeep
from surgetank.buffer.sqlite.writers import SQLiteWriters
from surgetank.fallback.files import SpillFiles


class SQLiteBuffer:
    """A `Buffer`, and `Spilling`, in the SQLite file at `path`, shared by any number of threads and
    processes. Its methods are those of its roles.

    `durability`: `"process"` survives kill -9 of every process, `"power"` also a power cut (an
    fsync per group of appends). `files` knows where values may be spilled to; those with one of the
    `inline_keys` never are (what guards look into). Streams of `last_words` are accepted even when
    the file was deleted under this process: they tell of it, and it flushes them. Acknowledged
    entries are kept for `keep_s`, up to `keep_bytes` of them. `destination` is the database that it
    belongs to from its first entry on. `reserve_bytes` of the disk are set aside to flush with when
    it is full. Raises `BufferUnavailable`, `BufferCorrupt`.
    """

    over_network = False

    def __init__(  # noqa: PLR0915 - a line for each method of its roles
        self,
        path: Path,
        *,
        durability: Literal["process", "power"] = "process",
        limits: BufferLimits | None = None,
        clock: Callable[[], float] = time.time,
        jobs_kept: int = 10_000,
        notes_kept: int = 200_000,
        recent: RecentLimits | None = None,
        files: SpillFiles | None = None,
        inline_keys: frozenset[bytes] = frozenset(),
        last_words: frozenset[str] = frozenset(),
        reserve_bytes: int = 0,
        keep_s: float = 0.0,
        keep_bytes: int = 64 * 1024**2,
        new_epoch: Callable[[], int] | None = None,
        destination: str | None = None,
    ) -> None:
        limits, new_epoch = limits or BufferLimits(), new_epoch or random_epoch
        self.files = files or SpillFiles(None)
        memory = Memory()
        self.file = file = BufferFile(
            path,
            durability=durability,
            clock=clock,
            reserve_bytes=reserve_bytes,
            on_rollback=memory.rolled_back,
        )
        load = SpilledValues(self.files).load
        tables = CopyTables(recent or RecentLimits(), limits)
        self._inserter = inserter = Inserter(
            limits, memory, file.checker, copies=tables, epoch=new_epoch()
        )
        kept = KeptEntries(file, keep_s, keep_bytes)
        copies = SQLiteCopies(file, tables)
        self.space = space = Space(file, kept, copies)
        backlog = SQLiteBacklog(file, limits)
        leases = SQLiteLeases(file, load)

        self.log = log = SQLiteLog(
            file, inserter, memory=memory, load=load, backlog=backlog, last_words=last_words,
            destination=destination,
        )  # fmt: skip
        self.append = log.append
        self.try_append = log.try_append
        self.snapshot = log.snapshot
        writers = SQLiteWriters(file)
        self.raise_fence = writers.raise_fence
        self.try_raise_fence = writers.try_raise_fence

        tallies = SQLiteTallies(file, inserter, memory)
        self.tally = tallies.tally
        self.try_tally = tallies.try_tally
        self.send_tallies = tallies.send_tallies

        self.lease = leases.lease
        self.renew = leases.renew
        self.release = leases.release
        self.read = leases.read
        self.read_many = leases.read_many
        self.ack = SQLiteAcks(file, kept, tables, space).ack

        attempts = SQLiteAttempts(file)
        self.postpone = attempts.postpone
        self.retry_now = attempts.retry_now

        parking = SQLiteParking(file, load, inserter)
        self.park = parking.park
        self.parked = parking.parked
        self.parked_entry = parking.parked_entry
        self.unpark = parking.unpark
        self.discard_parked = parking.discard_parked

        self.states = backlog.states
        self.failures = backlog.failures
        self.state = backlog.state
        self.last_seq = backlog.last_seq
        self.waiting = backlog.waiting
        self.first_waiting = backlog.first_waiting
        self.depth = backlog.depth
        self.fill = backlog.fill

        jobs = SQLiteJobLog(file)
        self.save_job = jobs.save_job
        self.job = jobs.job
        self.jobs = jobs.jobs

        binding = SQLiteBinding(file, kept)
        self.binding = binding.binding
        self.bind = binding.bind

        fence = SQLiteFence(file, kept, inserter, new_epoch)
        self.marks = fence.marks
        self.rewind = fence.rewind
        self.renew_epoch = fence.renew_epoch
        self.raise_token = fence.raise_token
        self.forget_kept = kept.forget_kept

        self._tables = tables
        self.keep_copy = copies.keep_copy
        self.use_copy = copies.use_copy
        self.drop_copies = copies.drop_copies
        self.copies = copies.copies
        self.copies_held = copies.copies_held
        self.trim_copies = copies.trim_copies
        self.shed_copies = copies.shed_copies

        upkeep = SQLiteUpkeep(
            file, space, kept=kept, copies=copies, jobs_kept=jobs_kept, notes_kept=notes_kept
        )
        self.damage = upkeep.damage
        self.damage_announced = upkeep.damage_announced
        self.maintain = upkeep.maintain
        self.check = upkeep.check
        self.taken_away = upkeep.taken_away
        self.advices = upkeep.advices
        erasing = SQLiteErasing(file, tables)
        self.erase = erasing.erase
        self.scrub = erasing.scrub
        self.close = file.close

        spilling = SQLiteSpilling(file, leases, inserter, files=self.files, inline_keys=inline_keys)
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
        return self.file.id

    @property
    def name(self) -> str:
        """The path of its file."""
        return str(self.file.path)

    @property
    def path(self) -> Path:
        """Its file."""
        return self.file.path

    @property
    def durability(self) -> str:
        """What an accepted entry survives."""
        return self.file.durability

    @property
    def recent(self) -> RecentLimits:
        """How much copies may take."""
        return self._tables.recent

    @property
    def epoch(self) -> int:
        """The epoch of what this handle accepts."""
        return self._inserter.epoch
