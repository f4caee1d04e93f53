"""Who is next: leased partitions take turns in groups of bounded size, and a huge one leaves room
for the others.

A group is filled in rounds. In the first each partition gives up to its share; what room is left
goes to those that have more. Whoever joins later has its turn before those that had theirs already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from surgetank.buffer.coordination import Leased, Leases, ReadFrom
from surgetank.exceptions import EntryUnreadable
from surgetank.flush.policy import StreamPolicy
from surgetank.flush.run import Run
from surgetank.model import Entry
from surgetank.sinks.protocol import Slice


class Rotation:
    """The partitions of one job that still have entries. `runs` has them by name, until they are
    settled."""

    def __init__(
        self,
        buffer: Leases,
        policy: StreamPolicy,
        leased: Sequence[Leased],
        unreadable: Callable[[Run, EntryUnreadable], None],
    ) -> None:
        self._buffer = buffer
        self._unreadable = unreadable
        self._policy = policy
        self._waiting = deque(Run(x.lease, x.state) for x in leased)
        self.runs = {run.lease.partition: run for run in self._waiting}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def all_served(self) -> bool:
        """True when each partition has had a turn."""
        return all(run.served for run in self._waiting)

    @property
    def unserved(self) -> int:
        """Entries of partitions that have had no turn, of each at most its share."""
        share = self._policy.share_entries
        return sum(min(share, run.left) for run in self._waiting if not run.served)

    def join(self, leased: Sequence[Leased]) -> None:
        """Let these have the next turns."""
        for x in leased:
            if (known := self.runs.get(x.lease.partition)) is not None:
                known.lease = x.lease  # ours ran out, and we got it again
        runs = [Run(x.lease, x.state) for x in leased if x.lease.partition not in self.runs]
        self.runs |= {run.lease.partition: run for run in runs}
        self._waiting.extendleft(reversed(runs))

    def next_group(self) -> tuple[list[Slice], list[Run]]:
        """The next group of entries, and the partitions that had their turn."""
        policy = self._policy
        count = len(self._waiting)
        try:
            taken = self._read(
                list(self._waiting),
                {},
                share_entries=min(
                    policy.batch_entries, max(policy.share_entries, policy.batch_entries // count)
                ),
                share_bytes=min(
                    policy.batch_bytes, max(policy.share_bytes, policy.batch_bytes // count)
                ),
            )
        except EntryUnreadable as error:  # of the first one: dealt with alone
            run = self._waiting.popleft()
            self._unreadable(run, error)
            return [], [run]
        members = [self._waiting.popleft() for _ in range(len(taken))]
        while hungry := [run for run in members if len(taken[run.lease.partition]) < run.left]:
            before = _size(taken)
            room = policy.batch_bytes - before[1]
            if before[0] >= policy.batch_entries or room <= 0:
                break
            self._read(
                hungry,
                taken,
                share_entries=max(1, (policy.batch_entries - before[0]) // len(hungry)),
                share_bytes=max(1, room // len(hungry)),
            )
            if _size(taken) == before:
                break
        for run in members:
            run.served = True
            entries = taken[run.lease.partition]
            if entries:
                run.after_seq = entries[-1].seq
            else:
                run.state = replace(run.state, entries=0)  # nothing left: exhausted
        return [
            Slice(run.lease, entries, run.mark)
            for run in members
            if (entries := taken[run.lease.partition])
        ], members

    def _read(
        self,
        runs: Sequence[Run],
        taken: dict[str, list[Entry]],
        *,
        share_entries: int,
        share_bytes: int,
    ) -> dict[str, list[Entry]]:
        """Add the next entries of the runs, in turn, to what was taken."""
        entries, size = _size(taken)
        starts = []
        for run in runs:
            known = taken.get(run.lease.partition)
            starts.append(ReadFrom(run.lease, known[-1].seq if known else run.after_seq))
        try:
            batches = self._buffer.read_many(
                starts,
                share_entries=share_entries,
                share_bytes=share_bytes,
                max_entries=self._policy.batch_entries - entries,
                max_bytes=self._policy.batch_bytes - size,
            )
        except EntryUnreadable:
            if not taken:
                raise
            return taken  # what was read goes first
        for run, batch in zip(runs, batches, strict=False):
            taken.setdefault(run.lease.partition, []).extend(batch)
        return taken

    def requeue(self, members: Sequence[Run]) -> list[Run]:
        """Let those that have more wait for their next turn; returns the others, which leave."""
        done = []
        for run in members:
            if run.closed or run.exhausted:
                done.append(run)
                del self.runs[run.lease.partition]
            else:
                self._waiting.append(run)
        return done


def _size(taken: dict[str, list[Entry]]) -> tuple[int, int]:
    """Entries and bytes."""
    return (
        sum(len(entries) for entries in taken.values()),
        sum(entry.size for entries in taken.values() for entry in entries),
    )
