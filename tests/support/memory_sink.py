"""A sink in memory that keeps the promises of `sinks/protocol.py`, and fails just as a test tells
it to."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence

from surgetank.exceptions import EntryRejected, LeaseLost
from surgetank.model import Entry
from surgetank.sinks.protocol import Slice, Written

# Called before each write with the number of the call (from 1; 0 is a probe) and the slices; raises
# to fail it.
Fault = Callable[[int, Sequence[Slice]], None]


class MemorySink:
    """Rows by partition and key. `arrivals` lists the seqs of each partition in the order they
    first came."""

    name = "memory"

    def __init__(self, *faults: Fault) -> None:
        self.faults: list[Fault] = list(faults)
        self.rows: dict[tuple[str, bytes], bytes] = {}
        self.arrivals: dict[str, list[int]] = defaultdict(list)
        self.log: list[tuple[str, int]] = []
        self.tokens: dict[str, int] = {}
        self.sizes: list[int] = []
        self.groups: list[list[tuple[str, list[int]]]] = []
        self.calls = 0
        self.probes = 0
        self.entered = threading.Event()
        self.gate: threading.Event | None = None
        self.closed = False

    def write(self, slices: Sequence[Slice], *, buffer_id: str) -> list[Written]:
        self.calls += 1
        self.groups.append([(s.lease.partition, [e.seq for e in s.entries]) for s in slices])
        self.sizes.append(sum(e.size for s in slices for e in s.entries))
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(30)
        for fault in tuple(self.faults):
            fault(self.calls, slices)
        for part in slices:
            if part.lease.token < self.tokens.get(part.lease.partition, 0):
                raise LeaseLost(f"The sink saw a newer lease of {part.lease.partition}.")
        return [self._keep(part) for part in slices]

    def _keep(self, part: Slice) -> Written:
        name = part.lease.partition
        self.tokens[name] = part.lease.token
        rows = 0
        for entry in part.entries:
            if entry.seq not in self.arrivals[name]:
                self.arrivals[name].append(entry.seq)
                self.log.append((name, entry.seq))
            for record in entry.records:
                self.rows[name, record.key] = record.value
                rows += 1
        return Written(rows=rows, size=sum(e.size for e in part.entries))

    def probe(self, *, buffer_id: str) -> None:
        self.probes += 1
        for fault in tuple(self.faults):
            fault(0, [])

    def ping(self) -> str:
        return "memory 1.0"

    def close(self) -> None:
        self.closed = True


class Switch:
    """A fault that can be switched off and on: raises what `make` gives for the writes that it is
    about."""

    def __init__(
        self,
        make: Callable[[], BaseException],
        *,
        partition: str | None = None,
        calls: range | None = None,
    ) -> None:
        self.on = True
        self._make = make
        self._partition = partition
        self._calls = calls

    def __call__(self, call: int, slices: Sequence[Slice]) -> None:
        about = self._partition is None or any(s.lease.partition == self._partition for s in slices)
        if self.on and about and (self._calls is None or call in self._calls):
            raise self._make()


def is_hostile(entry: Entry) -> bool:
    """Whether a test marked the entry as one that the sink refuses."""
    return any(record.value.startswith(b"hostile") for record in entry.records)


def refuse_hostile(call: int, slices: Sequence[Slice]) -> None:
    """A fault: the transaction fails on hostile data, without a word which entry it was."""
    if any(is_hostile(e) for s in slices for e in s.entries):
        raise ValueError("hostile data")


def name_hostile(call: int, slices: Sequence[Slice]) -> None:
    """A fault: the sink names the first hostile entry."""
    for part in slices:
        for entry in part.entries:
            if is_hostile(entry):
                raise EntryRejected(
                    partition=part.lease.partition,
                    seq=entry.seq,
                    path="$.value",
                    reason="hostile data",
                )
