"""What `Leases` promises of reading and acknowledging, and of the notes that stay."""

from __future__ import annotations

import os

from support.buffers import (
    BAD,
    BufferHouse,
    FakeClock,
    drain,
    note,
    notes,
    put,
    read_all,
    take,
    values,
)
from surgetank.buffer.coordination import NOTE_TTL_S, Ack, Due, ReadFrom
from surgetank.buffer.protocol import Buffer

# -- reading


def test_read_gives_at_least_one_entry_however_small_the_limits(buffer: Buffer) -> None:
    put(buffer, "p", b"x" * 1000)
    put(buffer, "p", b"y")
    lease = take(buffer).lease
    assert values(buffer.read(lease, max_entries=1, max_bytes=1)) == [b"x" * 1000]
    assert len(buffer.read(lease, max_entries=5, max_bytes=10)) == 1


def test_read_keeps_both_limits_but_for_one_entry(buffer: Buffer) -> None:
    sizes = [100, 400, 50, 900, 10, 10, 300]
    for size in sizes:
        put(buffer, "p", b"x" * size, key=b"")
    lease = take(buffer).lease
    for max_entries in (1, 2, 3, 100):
        for max_bytes in (1, 100, 101, 500, 549, 1000, 10_000):
            entries = buffer.read(lease, max_entries=max_entries, max_bytes=max_bytes)
            assert 1 <= len(entries) <= max_entries
            assert sum(e.size for e in entries[:-1]) < max_bytes
            assert [e.size for e in entries] == sizes[: len(entries)]
            full = len(entries) == max_entries or sum(sizes[: len(entries) + 1]) > max_bytes
            assert full or len(entries) == len(sizes)


def test_read_goes_on_after_a_seq_and_ends_empty(buffer: Buffer) -> None:
    seqs = [put(buffer, "p", b"%d" % i) for i in range(5)]
    lease = take(buffer).lease
    assert [
        e.seq for e in buffer.read(lease, after_seq=seqs[1], max_entries=2, max_bytes=10**6)
    ] == seqs[2:4]
    assert buffer.read(lease, after_seq=seqs[4], max_entries=2, max_bytes=10**6) == []


def test_several_partitions_are_read_in_turn_each_up_to_its_share(buffer: Buffer) -> None:
    seqs = {
        name: [put(buffer, name, b"%d" % i) for i in range(10)] for name in ("a", "b", "c", "d")
    }
    leased = {name: take(buffer, name).lease for name in seqs}
    places = [
        ReadFrom(leased["a"]),
        ReadFrom(leased["b"], seqs["b"][7]),
        ReadFrom(leased["c"]),
        ReadFrom(leased["d"]),
    ]
    limits = {"share_bytes": 10**6, "max_bytes": 10**6}
    got = buffer.read_many(places, share_entries=4, max_entries=9, **limits)
    assert [[e.seq for e in batch] for batch in got] == [
        seqs["a"][:4],
        seqs["b"][8:],
        seqs["c"][:3],
    ]
    got = buffer.read_many(places, share_entries=100, max_entries=100, **limits)
    assert [len(batch) for batch in got] == [10, 2, 10, 10]
    assert buffer.read_many([], share_entries=1, max_entries=1, **limits) == []


def test_reading_several_partitions_keeps_the_limits_but_for_one_entry(buffer: Buffer) -> None:
    for name in ("a", "b", "c"):
        for _ in range(5):
            put(buffer, name, b"x" * 100, key=b"")
    places = [ReadFrom(take(buffer, name).lease) for name in ("a", "b", "c")]
    for share_bytes, max_bytes, expected in (
        (150, 10_000, [2, 2, 2]),
        (1, 10_000, [1, 1, 1]),
        (10_000, 550, [5, 1]),
        (150, 350, [2, 2]),
        (1, 1, [1]),
    ):
        got = buffer.read_many(
            places, share_entries=100, share_bytes=share_bytes, max_entries=100, max_bytes=max_bytes
        )
        assert [len(batch) for batch in got] == expected


def test_a_partition_with_nothing_to_read_has_its_turn_too(buffer: Buffer) -> None:
    first, second = put(buffer, "a"), put(buffer, "b")
    a, b = take(buffer, "a").lease, take(buffer, "b").lease
    got = buffer.read_many(
        [ReadFrom(a, first), ReadFrom(b)],
        share_entries=5,
        share_bytes=100,
        max_entries=5,
        max_bytes=100,
    )
    assert [[e.seq for e in batch] for batch in got] == [[], [second]]


def test_large_values_are_read_as_they_were_written(buffer: Buffer) -> None:
    large, larger = os.urandom(1024**2), os.urandom(3 * 1024**2 + 1)
    put(buffer, "p", b"before", large, b"", larger)
    put(buffer, "p", larger)
    entries = read_all(buffer, take(buffer).lease)
    assert [[r.value for r in e.records] for e in entries] == [
        [b"before", large, b"", larger],
        [larger],
    ]


def test_many_partitions_are_acknowledged_at_once_but_for_those_whose_lease_was_lost(
    buffer: Buffer, clock: FakeClock
) -> None:
    for number in range(20):
        put(buffer, f"p{number}")
        put(buffer, f"p{number}", b"second")
    leased = buffer.lease("s", Due(force=True), owner="w", ttl_s=15.0)
    assert len({x.lease.token for x in leased}) == 20
    assert [x.state.entries for x in leased] == [2] * 20
    batches = buffer.read_many(
        [ReadFrom(x.lease) for x in leased],
        share_entries=1,
        share_bytes=100,
        max_entries=100,
        max_bytes=10_000,
    )
    clock.advance(16.0)
    (taken,) = buffer.lease("s", Due(partition="p3", force=True), owner="other", ttl_s=15.0)
    acks = [Ack(x.lease, b, release=True) for x, b in zip(leased, batches, strict=True)]
    lost = buffer.ack(acks)
    assert [lease.partition for lease in lost] == ["p3"]
    assert {s.partition: s.entries for s in buffer.states()} == {
        f"p{n}": 2 if n == 3 else 1 for n in range(20)
    }
    assert [s.partition for s in buffer.states() if s.leased_by] == ["p3"]
    assert values(read_all(buffer, taken.lease)) == [b"v", b"second"]


# -- acknowledging and notes


def test_acknowledged_entries_are_gone_and_the_rest_waits(buffer: Buffer) -> None:
    for i in range(6):
        put(buffer, "p", b"%d" % i, b"again")
    lease = take(buffer).lease
    entries = read_all(buffer, lease)
    assert buffer.ack([Ack(lease, entries[:2])]) == []
    assert buffer.ack([Ack(lease, entries[2:3])]) == []
    assert read_all(buffer, lease) == entries[3:]
    with buffer.snapshot() as view:
        assert {f.seq for f in view.scan("s", "p", b"")} == {e.seq for e in entries[3:]}
    assert buffer.ack([Ack(lease, entries[3:], release=True)]) == []
    assert buffer.state("s", "p") is None


def test_an_entry_accepted_while_others_are_acknowledged_stays(buffer: Buffer) -> None:
    put(buffer, "p", b"old")
    lease = take(buffer).lease
    entries = read_all(buffer, lease)
    put(buffer, "p", b"new")
    buffer.ack([Ack(lease, entries, release=True)])
    assert values(drain(buffer)) == [b"new"]


def test_ack_can_leave_out_entries_that_were_parked_meanwhile(buffer: Buffer) -> None:
    for i in range(3):
        put(buffer, "p", b"%d" % i)
    lease = take(buffer).lease
    first, bad, last = read_all(buffer, lease)
    buffer.park(lease, bad.seq, BAD)
    assert buffer.ack([Ack(lease, [first, last], release=True)]) == []
    assert buffer.state("s", "p") is None
    assert [p.seq for p in buffer.parked()] == [bad.seq]


def test_maxima_are_kept_where_they_are_larger(house: BufferHouse) -> None:
    buffer = house.open()
    note(buffer, maxima={b"h\x00": b"05", b"h\xff": b"05"})
    note(buffer, maxima={b"h\x00": b"04", b"h\xff": b"06", b"i": b"\x00"})
    expected = {b"h\x00": b"05", b"h\xff": b"06", b"i": b"\x00"}
    assert notes(buffer) == expected
    assert notes(house.open()) == expected
    assert notes(buffer, b"h") == {b"h\x00": b"05", b"h\xff": b"06"}
    assert notes(buffer, b"h\xff") == {b"h\xff": b"06"}
    with buffer.snapshot() as view:
        assert view.notes("s", "nobody") == {}


def test_forget_removes_notes_with_the_prefix_before_maxima_are_kept(buffer: Buffer) -> None:
    note(buffer, maxima={b"a1": b"9", b"a\xff": b"9", b"b": b"9"})
    note(buffer, forget=[b"a"], maxima={b"a1": b"1"})
    assert notes(buffer) == {b"a1": b"1", b"b": b"9"}


def test_passing_notes_end_after_their_time_and_maxima_stay(
    buffer: Buffer, clock: FakeClock
) -> None:
    note(buffer, passing={b"grave": b"1"}, maxima={b"head": b"1"})
    clock.advance(NOTE_TTL_S - 1)
    buffer.maintain()
    assert notes(buffer) == {b"grave": b"1", b"head": b"1"}
    clock.advance(1)
    assert notes(buffer) == {b"head": b"1"}
    buffer.maintain()
    assert notes(buffer) == {b"head": b"1"}


def test_an_ack_without_entries_may_leave_notes(buffer: Buffer) -> None:
    put(buffer)
    lease = take(buffer).lease
    assert buffer.ack([Ack(lease, [], maxima={b"m": b"1"})]) == []
    assert notes(buffer) == {b"m": b"1"}
    assert buffer.depth().entries == 1
