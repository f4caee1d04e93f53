"""A buffer against the plainest model of one: lists in memory. Hypothesis looks for steps where
they part.

The steps are derived from a fixed seed (`derandomize`); a failure prints the steps that lead to it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.buffers import BAD, DOWN, KINDS, BufferHouse, examples, read_all
from surgetank.buffer.coordination import Ack, Due
from surgetank.buffer.protocol import Buffer
from surgetank.exceptions import LeaseLost
from surgetank.model import Entry, Lease, Record

PARTITIONS = [("s", "a"), ("s", "b"), ("s", "c"), ("t", "a")]
KEYS = [b"", b"\x00", b"k", b"k\xff", b"\xff"]
TTL_S = 10.0

partitions = st.sampled_from(PARTITIONS)
records = st.lists(st.tuples(st.sampled_from(KEYS), st.binary(max_size=9)), min_size=1, max_size=3)
picks = st.integers(min_value=0, max_value=10**6)


@dataclass
class Item:
    """One entry in the model."""

    seq: int
    birth: int  # the seq it was first accepted with: its identity
    records: tuple[Record, ...]
    replays: int = 0

    @property
    def size(self) -> int:
        return sum(len(r.key) + len(r.value) for r in self.records)


@dataclass
class Part:
    """One partition in the model."""

    waiting: list[Item] = field(default_factory=list)
    token: int = 0
    held: bool = False
    until: float = 0.0
    next_attempt_at: float = 0.0
    attempts: int = 0


class BufferMachine(RuleBasedStateMachine):
    """The rules: everything that an appender, a flusher and an operator can do."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.house = BufferHouse(kind, Path(self._folder.name))
        self.buffer: Buffer = self.house.open()
        self.clock = self.house.clock
        self.parts = {name: Part() for name in PARTITIONS}
        self.parked: dict[int, tuple[tuple[str, str], Item]] = {}
        self.leases: list[Lease] = []
        self.gone: set[int] = set()  # births of entries that were acknowledged or deleted
        self.births: set[int] = set()
        self.fences: dict[tuple[str, str], int] = {}
        self.last_seq = 0
        self.last_token = 0

    def teardown(self) -> None:
        self.house.close()
        assert self.house.miscounted() == []
        self._folder.cleanup()

    # -- what people and programs do

    @rule(where=partitions, data=records, deletes=st.integers(0, 9))
    def append(self, where: tuple[str, str], data: list[tuple[bytes, bytes]], deletes: int) -> None:
        entry = tuple(Record(k, v) for k, v in data)
        seq = self.buffer.append(*where, entry, start_guarding=deletes == 0)
        assert seq > self.last_seq
        self.last_seq = seq
        self.births.add(seq)
        self.parts[where].waiting.append(Item(seq, seq, entry))
        if deletes == 0:
            dropped = [id_ for id_, (place, _) in self.parked.items() if place == where]
            self.gone |= {self.parked.pop(id_)[1].birth for id_ in dropped}

    @rule(where=partitions, fence=st.integers(1, 6))
    def append_of_a_writer(self, where: tuple[str, str], fence: int) -> None:
        entry = (Record(b"f", bytes([fence])),)
        if fence < self.fences.get(where, 0):
            with pytest.raises(LeaseLost):
                self.buffer.append(*where, entry, fence=fence)
            return
        seq = self.buffer.append(*where, entry, fence=fence)
        assert seq > self.last_seq
        self.fences[where] = fence
        self.last_seq = seq
        self.births.add(seq)
        self.parts[where].waiting.append(Item(seq, seq, entry))

    @rule(where=partitions, fence=st.integers(1, 6))
    def another_writer_comes(self, where: tuple[str, str], fence: int) -> None:
        if fence < self.fences.get(where, 0):
            with pytest.raises(LeaseLost):
                self.buffer.raise_fence(*where, fence)
        else:
            self.buffer.raise_fence(*where, fence)
            self.fences[where] = fence

    @rule(where=partitions)
    def append_refused_by_a_guard(self, where: tuple[str, str]) -> None:
        birth = self.buffer.append(*where, (Record(b"g", b""),), start_guarding=True)
        assert birth > self.last_seq
        self.births.add(birth)
        assert (
            self.buffer.append(*where, (Record(b"g", b"x"),), guard=lambda view: {b"n": b"1"}) == 0
        )
        self.parts[where].waiting.append(Item(birth, birth, (Record(b"g", b""),)))
        self.last_seq = birth
        dropped = [id_ for id_, (place, _) in self.parked.items() if place == where]
        self.gone |= {self.parked.pop(id_)[1].birth for id_ in dropped}

    @rule(stream=st.sampled_from("st"), force=st.booleans())
    def lease(self, stream: str, force: bool) -> None:
        now = self.clock.now
        leased = self.buffer.lease(stream, Due(force=force), owner="w", ttl_s=TTL_S)
        expected = {
            place
            for place, part in self.parts.items()
            if place[0] == stream
            and part.waiting
            and not (part.held and now < part.until)
            and (force or part.next_attempt_at <= now)
        }
        assert {(x.lease.stream, x.lease.partition) for x in leased} == expected
        for x in leased:
            part = self.parts[x.lease.stream, x.lease.partition]
            assert x.lease.token > part.token
            assert (x.state.entries, x.state.attempts) == (len(part.waiting), part.attempts)
            part.token, part.held, part.until = x.lease.token, True, now + TTL_S
        self.leases += [x.lease for x in leased]
        assert len({x.lease.token for x in leased}) == len(leased)
        assert all(x.lease.token > self.last_token for x in leased)
        self.last_token = max([self.last_token, *(x.lease.token for x in leased)])

    @precondition(lambda self: self.leases)
    @rule(pick=picks, entries=st.integers(1, 3), size=st.integers(1, 30), skip=st.integers(0, 3))
    def read(self, pick: int, entries: int, size: int, skip: int) -> None:
        lease, part = self._pick(pick)
        after = part.waiting[skip - 1].seq if 0 < skip <= len(part.waiting) else 0
        got = self.buffer.read(lease, after_seq=after, max_entries=entries, max_bytes=size)
        rest = [item for item in part.waiting if item.seq > after]
        self._same(got, rest[: len(got)])
        assert len(got) <= entries
        assert bool(got) == bool(rest)
        assert sum(e.size for e in got[:-1]) < size

    @precondition(lambda self: self.leases)
    @rule(pick=picks, count=st.integers(1, 4), release=st.booleans())
    def ack(self, pick: int, count: int, release: bool) -> None:
        lease, part = self._pick(pick)
        entries = read_all(self.buffer, lease)[:count]
        lost = self.buffer.ack([Ack(lease, entries, release=release)])
        if not self._holds(lease, part):
            assert lost == [lease]
            return
        assert lost == []
        self.gone |= {item.birth for item in part.waiting[: len(entries)]}
        if entries:
            part.attempts, part.next_attempt_at = 0, 0.0
        del part.waiting[: len(entries)]
        part.held = not release

    @precondition(lambda self: self.leases)
    @rule(pick=picks, wait=st.sampled_from([0.0, 5.0, 50.0]))
    def postpone(self, pick: int, wait: float) -> None:
        lease, part = self._pick(pick)
        next_at = self.clock.now + wait
        step = lambda: self.buffer.postpone(  # noqa: E731
            lease, attempts=part.attempts + 1, next_attempt_at=next_at, failure=DOWN
        )
        if self._refused(step, lease, part):
            return
        part.attempts, part.next_attempt_at, part.held = part.attempts + 1, next_at, False

    @precondition(lambda self: any(self.parts[x.stream, x.partition].waiting for x in self.leases))
    @rule(pick=picks, which=picks)
    def park(self, pick: int, which: int) -> None:
        lease, part = self._pick(pick)
        if not part.waiting:
            return
        item = part.waiting[which % len(part.waiting)]
        parked = []
        if self._refused(
            lambda: parked.append(self.buffer.park(lease, item.seq, BAD)), lease, part
        ):
            return
        part.waiting.remove(item)
        assert (parked[0].seq, parked[0].bytes, parked[0].retries) == (
            item.seq,
            item.size,
            item.replays,
        )
        self.parked[parked[0].id] = ((lease.stream, lease.partition), item)

    @precondition(lambda self: self.parked)
    @rule(pick=picks)
    def unpark(self, pick: int) -> None:
        ids = sorted(self.parked)
        chosen = ids[pick % len(ids) :]
        seqs = self.buffer.unpark(chosen)
        assert len(seqs) == len(chosen)
        for id_, seq in zip(chosen, seqs, strict=True):
            assert seq > self.last_seq
            self.last_seq = seq
            where, item = self.parked.pop(id_)
            self.parts[where].waiting.append(Item(seq, item.birth, item.records, item.replays + 1))

    @precondition(lambda self: self.leases)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        lease, part = self._pick(pick)
        self.buffer.release([lease])
        if part.token == lease.token:
            part.held = False

    @precondition(lambda self: self.leases)
    @rule(pick=picks)
    def renew(self, pick: int) -> None:
        lease, part = self._pick(pick)
        kept = self.buffer.renew([lease], ttl_s=TTL_S)
        assert bool(kept) == self._holds(lease, part)
        if kept:
            part.until = self.clock.now + TTL_S

    @rule(seconds=st.sampled_from([0.5, TTL_S - 0.5, TTL_S, 100.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def retry_now(self) -> None:
        expected = [p for p in self.parts.values() if p.waiting and p.next_attempt_at > 0]
        assert self.buffer.retry_now() == len(expected)
        for part in expected:
            part.next_attempt_at = 0.0

    @rule()
    def maintain(self) -> None:
        self.buffer.maintain()
        hot = {place for place, _ in self.parked.values()}
        with self.buffer.snapshot() as view:
            noted = {p for p in PARTITIONS if view.notes(*p)}
        for (
            place,
            part,
        ) in self.parts.items():  # an empty partition is forgotten, its failure with it
            idle = not part.waiting and not (part.held and part.until >= self.clock.now)
            if idle and place not in hot and place not in noted:
                part.held, part.attempts, part.next_attempt_at = False, 0, 0.0

    @rule(pick=st.booleans())
    def open_again(self, pick: bool) -> None:
        if pick:
            self.buffer.close()
        self.buffer = self.house.open()

    # -- what must always hold

    @invariant()
    def nothing_is_lost_and_nothing_is_there_twice(self) -> None:
        hot = [i.birth for p in self.parts.values() for i in p.waiting]
        hot += [item.birth for _, item in self.parked.values()]
        assert len(hot) == len(set(hot))
        assert set(hot) | self.gone == self.births
        assert not set(hot) & self.gone
        for where, part in self.parts.items():
            items = part.waiting + [item for place, item in self.parked.values() if place == where]
            expected = sorted(
                (r.key, i.seq, n, r.value) for i in items for n, r in enumerate(i.records)
            )
            found = self._hot(where)
            assert [(f.key, f.seq, f.value) for f in found] == [
                (k, s, v) for k, s, _, v in expected
            ]
            seqs = {item.seq for place, item in self.parked.values() if place == where}
            assert {f.seq for f in found if f.parked} == seqs

    @invariant()
    def entries_wait_in_order(self) -> None:
        for part in self.parts.values():
            assert [i.seq for i in part.waiting] == sorted(i.seq for i in part.waiting)

    @invariant()
    def the_counters_equal_a_recount(self) -> None:
        depth = self.buffer.depth()
        waiting = [i for p in self.parts.values() for i in p.waiting]
        parked = [item for _, item in self.parked.values()]
        assert depth.entries == len(waiting) + len(parked)
        self._check_bytes(depth.bytes, waiting + parked)
        streams = {s.stream: s for s in depth.streams}
        for stream in "st":
            parts = [part for place, part in self.parts.items() if place[0] == stream]
            shown = streams.get(stream)
            counted = [i for p in parts for i in p.waiting]
            assert shown or not counted
            if shown:
                assert shown.entries == len(counted)
                self._check_bytes(shown.bytes, counted)
                assert shown.partitions == sum(bool(p.waiting) for p in parts)
                assert shown.parked == sum(place[0] == stream for place, _ in self.parked.values())
            last = max([i.seq for p in parts for i in p.waiting], default=0)
            assert self.buffer.last_seq(stream) == last
            assert len(self.buffer.waiting(stream, up_to_seq=last)) == sum(
                bool(p.waiting) for p in parts
            )
        for where, part in self.parts.items():
            state = self.buffer.state(*where)
            assert (state is not None) == bool(part.waiting)
            if state is not None:
                assert state.entries == len(part.waiting)
                self._check_bytes(state.bytes, part.waiting)
                assert (state.attempts, state.next_attempt_at) == (
                    part.attempts,
                    part.next_attempt_at,
                )

    @invariant()
    def parked_entries_keep_their_data(self) -> None:
        assert [p.id for p in self.buffer.parked()] == sorted(self.parked)
        for id_, (where, item) in self.parked.items():
            entry = self.buffer.parked_entry(id_)
            assert entry is not None
            assert (entry.stream, entry.partition) == where
            self._same([entry], [item])

    # -- helping hands

    def _hot(self, where: tuple[str, str]) -> list:
        with self.buffer.snapshot() as view:
            return view.scan(*where, b"")

    def _check_bytes(self, shown: int, items: list[Item]) -> None:
        assert shown == sum(item.size for item in items)

    def _pick(self, pick: int) -> tuple[Lease, Part]:
        recent = self.leases[-6:]
        lease = recent[pick % len(recent)]
        return lease, self.parts[lease.stream, lease.partition]

    @staticmethod
    def _holds(lease: Lease, part: Part) -> bool:
        return part.held and part.token == lease.token

    def _refused(self, step: Callable[[], object], lease: Lease, part: Part) -> bool:
        if self._holds(lease, part):
            step()
            return False
        with pytest.raises(LeaseLost):
            step()
        return True

    @staticmethod
    def _same(entries: list[Entry], items: list[Item]) -> None:
        assert [(e.seq, e.records, e.replayed) for e in entries] == [
            (i.seq, i.records, i.replays > 0) for i in items
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_buffer_does_what_its_model_does_whatever_the_order_of_steps(kind: str) -> None:
    run_state_machine_as_test(
        cast("Any", lambda: BufferMachine(kind)),
        settings=settings(
            max_examples=examples(kind, 120), stateful_step_count=40, derandomize=True, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
