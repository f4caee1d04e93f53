"""Records of one family come back whole, however a buffer keeps what they have in common, and
whoever reads them.

A family's records are mostly grown or changed a little from one to the next, as the versions of a
channel are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from test_buffer_machine import PARTITIONS, BufferMachine, Item, partitions  # type: ignore[import-not-found]

from support.buffers import BAD, KINDS, BufferHouse, drain, examples, read_all, take, values
from surgetank.buffer.coordination import Ack
from surgetank.buffer.protocol import Buffer
from surgetank.model import Record

FAMILY = b"f"
NOISE = random.Random(3).randbytes(200_000)


def grown(count: int, *, step: int = 300, first: int = 5000) -> list[bytes]:
    """Values of which each is the one before and some more, with a header that tells the length."""
    return [
        b"\xdd" + (first + i * step).to_bytes(4, "big") + NOISE[: first + i * step]
        for i in range(count)
    ]


def put_versions(buffer: Buffer, versions: Sequence[bytes], *, start: int = 0) -> list[int]:
    """One entry per version: the value and a small record that tells which it is."""
    return [
        buffer.append("s", "p", [Record(b"v%04d" % n, value, FAMILY), Record(b"n", b"%d" % n)])
        for n, value in enumerate(versions, start=start)
    ]


def hot(buffer: Buffer) -> dict[bytes, bytes]:
    """All versions that a reader sees, by scan; checked against the other ways to look."""
    with buffer.snapshot() as view:
        seen = {f.key: f.value for f in view.scan("s", "p", b"v")}
        assert {k: f.value for k, f in view.latest("s", "p", list(seen)).items()} == seen
        last = view.last("s", "p", b"v")
        assert (last.value if last else None) == (seen[max(seen)] if seen else None)
        assert all(f.value == b"" for f in view.scan("s", "p", b"v", keys_only=True))
    return seen


def by_key(versions: Sequence[bytes], start: int = 0) -> dict[bytes, bytes]:
    return {b"v%04d" % n: value for n, value in enumerate(versions[start:], start=start)}


def test_every_version_is_read_whole_by_whoever_reads(house: BufferHouse) -> None:
    versions = grown(100)
    writer = house.open()
    put_versions(writer, versions)

    assert hot(writer) == by_key(versions)
    assert hot(house.open()) == by_key(versions)
    assert values(drain(house.open()))[::2] == versions
    assert writer.depth().bytes == 0


def test_another_process_reads_what_this_one_wrote(house: BufferHouse) -> None:
    versions = grown(50)
    put_versions(house.open(), versions)
    answer = house.in_another_process(
        "with buffer.snapshot() as view: answer = [f.value.hex() for f in view.scan('s', 'p', "
        "b'v')]"
    )
    assert [bytes.fromhex(text) for text in answer] == versions


@pytest.mark.parametrize("done", [1, 20, 33, 39])
def test_versions_stay_whole_when_those_before_them_are_acknowledged(
    house: BufferHouse, done: int
) -> None:
    versions = grown(60)
    writer, flusher = house.open(), house.open()
    put_versions(writer, versions[:40])
    lease = take(flusher).lease
    assert flusher.ack([Ack(lease, read_all(flusher, lease)[:done])]) == []
    put_versions(writer, versions[40:], start=40)

    for reader in (writer, flusher, house.open()):
        assert hot(reader) == by_key(versions, done)
    assert values(read_all(flusher, lease))[::2] == versions[done:]
    assert flusher.ack([Ack(lease, read_all(flusher, lease), release=True)]) == []
    depth = writer.depth()
    assert (depth.entries, depth.bytes) == (0, 0)


def test_a_parked_version_and_those_around_it_stay_whole(house: BufferHouse) -> None:
    versions = grown(30)
    writer, flusher = house.open(), house.open()
    seqs = put_versions(writer, versions[:20])
    lease = take(flusher).lease
    parked = [flusher.park(lease, seqs[n], BAD) for n in (0, 7, 8, 19)]
    put_versions(writer, versions[20:], start=20)

    assert hot(house.open()) == by_key(versions)
    assert [p.bytes for p in parked] == [
        len(versions[n]) + len(b"v0000") + len(b"n") + len(b"%d" % n) for n in (0, 7, 8, 19)
    ]
    waiting = [n for n in range(30) if n not in (0, 7, 8, 19)]
    entries = read_all(flusher, lease)
    assert values(entries)[::2] == [versions[n] for n in waiting]
    assert flusher.ack([Ack(lease, entries, release=True)]) == []
    assert hot(house.open()) == {b"v%04d" % n: versions[n] for n in (0, 7, 8, 19)}

    flusher.unpark([p.id for p in parked])
    put_versions(writer, versions[-1:], start=30)
    assert values(drain(house.open()))[::2] == [*(versions[n] for n in (0, 7, 8, 19)), versions[-1]]
    depth = writer.depth()
    assert (depth.entries, depth.bytes) == (0, 0)


def test_a_version_after_a_parked_one_stays_whole_when_that_is_tried_again(
    house: BufferHouse,
) -> None:
    versions = grown(6)
    writer = house.open()
    seqs = put_versions(writer, versions[:4])
    lease = take(writer).lease
    parked = writer.park(lease, seqs[3], BAD)
    put_versions(writer, versions[4:], start=4)
    writer.unpark([parked.id])

    assert hot(house.open()) == by_key(versions)
    assert values(read_all(writer, lease))[::2] == [*versions[:3], *versions[4:], versions[3]]


def test_versions_stay_whole_when_parked_ones_are_removed(house: BufferHouse) -> None:
    versions = grown(30)
    writer, flusher = house.open(), house.open()
    seqs = put_versions(writer, versions[:20])
    lease = take(flusher).lease
    for n in (3, 10):
        flusher.park(lease, seqs[n], BAD)
    writer.append("s", "p", [Record(b"!", b"")], start_guarding=True)
    put_versions(writer, versions[20:], start=20)

    expected = by_key(versions)
    assert hot(house.open()) == {k: v for k, v in expected.items() if k not in (b"v0003", b"v0010")}
    flusher.release([lease])
    drain(flusher)
    assert writer.depth().bytes == 0


def test_two_writers_of_one_family_dont_spoil_each_others_versions(house: BufferHouse) -> None:
    versions = grown(60)
    writers = [house.open(), house.open()]
    for n, value in enumerate(versions):
        writers[n % 3 % 2].append("s", "p", [Record(b"v%04d" % n, value, FAMILY)])
        if n == 30:
            lease = take(writers[0]).lease
            writers[0].ack([Ack(lease, read_all(writers[0], lease)[:17], release=True)])
    for reader in (*writers, house.open()):
        assert hot(reader) == by_key(versions, 17)
    assert values(drain(writers[1])) == versions[17:]


def test_versions_in_one_entry_and_under_one_key_are_kept_apart(house: BufferHouse) -> None:
    versions = grown(6)
    writer = house.open()
    writer.append("s", "p", [Record(b"v", value, FAMILY) for value in versions[:3]])
    writer.append("s", "p", [Record(b"v", value, FAMILY) for value in versions[3:]])
    writer.append("s", "q", [Record(b"v", versions[0], FAMILY)])

    with house.open().snapshot() as view:
        assert [f.value for f in view.scan("s", "p", b"v")] == versions
        assert view.latest("s", "p", [b"v"])[b"v"].value == versions[-1]
        assert view.latest("s", "q", [b"v"])[b"v"].value == versions[0]
    (entries,) = [drain(writer)]
    assert [len(e.records) for e in entries if e.partition == "p"] == [3, 3]


def test_an_append_that_failed_leaves_nothing_that_others_build_on(house: BufferHouse) -> None:
    versions = grown(9)
    writer, other = house.open(), house.open()
    writer.append("s", "p", [Record(b"!", b"")], start_guarding=True)
    put_versions(writer, versions[:3])

    def fails(_: object) -> None:
        raise ZeroDivisionError

    for n in (3, 4):
        with pytest.raises(ZeroDivisionError):
            writer.append("s", "p", [Record(b"v%04d" % n, versions[n], FAMILY)], guard=fails)
        refused = [Record(b"v%04d" % n, versions[n], FAMILY)]
        assert writer.append("s", "p", refused, guard=lambda view: {}) == 0
        # takes the number that was given back
        other.append("s", "q", [Record(b"x", NOISE[:9000], FAMILY)])
    put_versions(writer, versions[3:], start=3)

    assert hot(house.open()) == by_key(versions)
    drain(other)
    assert writer.depth().bytes == 0


# -- against the model

edits = st.tuples(st.integers(0, 10**6), st.integers(0, 400), st.integers(0, 400))


class FamilyMachine(BufferMachine):
    """The buffer's machine with large values that change a little, written through two buffer
    objects in turn."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self._second = self.house.open()
        self._newest = dict.fromkeys(PARTITIONS, NOISE[:3000])

    @rule(where=partitions, change=edits, deletes=st.integers(0, 9), second=st.booleans())
    def append(
        self, where: tuple[str, str], change: tuple[int, int, int], deletes: int, second: bool
    ) -> None:
        at, gone, added = change
        old = self._newest[where]
        at %= len(old) + 1
        value = self._newest[where] = (
            old[:at] + NOISE[at + 7 : at + 7 + added] + old[at + gone :]
        )[:20_000]
        stored = (Record(b"k", value, FAMILY), Record(b"\xff", b"%d" % at))
        buffer = self._second if second else self.buffer
        seq = buffer.append(*where, stored, start_guarding=deletes == 0)
        assert seq > int(self.last_seq)  # type: ignore[has-type]
        self.last_seq = seq
        self.births.add(seq)
        self.parts[where].waiting.append(
            Item(seq, seq, tuple(Record(r.key, r.value) for r in stored))
        )
        if deletes == 0:
            dropped = [id_ for id_, (place, _) in self.parked.items() if place == where]
            self.gone |= {self.parked.pop(id_)[1].birth for id_ in dropped}

    def _check_bytes(self, shown: int, items: list[Item]) -> None:
        # What is kept is less than what was written, and nothing is counted where nothing is.
        assert shown <= sum(item.size for item in items)
        assert bool(shown) == bool(items)


@pytest.mark.parametrize("kind", KINDS)
def test_a_buffer_with_families_does_what_its_model_does(kind: str) -> None:
    run_state_machine_as_test(
        cast("Any", lambda: FamilyMachine(kind)),
        settings=settings(
            max_examples=examples(kind, 60), stateful_step_count=40, derandomize=True, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
