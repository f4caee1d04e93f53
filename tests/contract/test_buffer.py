"""The promises of `buffer/protocol.py`, sentence by sentence, on every kind of buffer."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Mapping

import pytest

from support.buffers import (
    BAD,
    DOWN,
    BufferHouse,
    FakeClock,
    drain,
    names,
    put,
    read_all,
    take,
    values,
    wait_until,
)
from support.holder import held
from surgetank.buffer.coordination import NOTE_TTL_S, Ack, Due, ReadFrom
from surgetank.buffer.log import Snapshot
from surgetank.buffer.protocol import Buffer
from surgetank.exceptions import BufferFull, BufferUnavailable, EntryRejected, LeaseLost
from surgetank.model import FlushJob, JobStatus, Record

# -- order and visibility


def test_entries_of_a_partition_are_read_in_the_order_of_acceptance(buffer: Buffer) -> None:
    seqs = [put(buffer, "ab"[i % 2], b"%d" % i) for i in range(40)]

    assert seqs == sorted(set(seqs))
    for name, first in (("a", 0), ("b", 1)):
        entries = read_all(buffer, take(buffer, name).lease)
        assert [e.seq for e in entries] == seqs[first::2]
        assert values(entries) == [b"%d" % i for i in range(first, 40, 2)]


def test_an_entry_keeps_its_records_in_order_with_every_byte(
    buffer: Buffer, clock: FakeClock
) -> None:
    records = [Record(bytes([b]) * 2, bytes(range(b, 256))) for b in (255, 0, 7, 255, 0)] + [
        Record(b"", b"")
    ]
    seq = buffer.append("s", "p\u00e9\U0001f600 /:", records)

    (entry,) = read_all(buffer, take(buffer).lease)

    assert entry.records == tuple(records)
    assert (entry.stream, entry.partition, entry.seq) == ("s", "p\u00e9\U0001f600 /:", seq)
    assert (entry.accepted_at, entry.replayed) == (clock.now, False)


def test_an_accepted_entry_is_visible_at_once_to_another_buffer_object(house: BufferHouse) -> None:
    one, other = house.open(), house.open()
    assert one.id == other.id
    for i in range(5):
        seq = put(one, "p", b"%d" % i)
        with other.snapshot() as view:
            assert view.latest("s", "p", [b"k"])[b"k"].value == b"%d" % i
        assert other.last_seq("s") == seq
    assert values(drain(other)) == [b"0", b"1", b"2", b"3", b"4"]
    assert one.depth().entries == 0


def test_an_accepted_entry_is_visible_to_another_process_and_its_entries_here(
    house: BufferHouse,
) -> None:
    buffer = house.open()
    first = put(buffer, "p", b"from here")

    seen, second, id_ = house.in_another_process(
        "with buffer.snapshot() as view: seen = view.latest('s', 'p', "
        "[b'k'])[b'k'].value.decode()\n"
        "answer = [seen, put(buffer, 'p', b'from there'), buffer.id]"
    )

    assert seen == "from here"
    assert id_ == buffer.id
    assert second > first
    assert values(drain(buffer)) == [b"from here", b"from there"]


def test_a_snapshot_shows_one_moment(house: BufferHouse) -> None:
    one, other = house.open(), house.open()
    put(one, "p", b"before")
    with other.snapshot() as view:
        assert view.latest("s", "p", [b"k"])[b"k"].value == b"before"
        put(one, "p", b"after")
        drain(one)
        assert [f.value for f in view.scan("s", "p", b"")] == [b"before"]
    with other.snapshot() as view:
        assert view.scan("s", "p", b"") == []


def test_what_waits_is_there_after_close_and_open_with_the_same_id(house: BufferHouse) -> None:
    buffer = house.open()
    put(buffer, "p", b"kept")
    buffer.close()
    again = house.open()
    assert again.id == buffer.id
    assert values(drain(again)) == [b"kept"]


def test_a_seq_is_never_given_twice_even_after_everything_was_drained_and_reopened(
    house: BufferHouse,
) -> None:
    seen = 0
    for _ in range(3):
        buffer = house.open()
        for _ in range(3):
            seq = put(buffer)
            assert seq > seen
            seen = seq
            drain(buffer)
            buffer.maintain()
        buffer.close()


def test_the_same_name_in_two_streams_is_two_partitions(buffer: Buffer) -> None:
    put(buffer, "p", b"1", stream="s")
    put(buffer, "p", b"2", stream="t")
    with buffer.snapshot() as view:
        assert view.latest("s", "p", [b"k"])[b"k"].value == b"1"
        assert view.latest("t", "p", [b"k"])[b"k"].value == b"2"
    assert values(drain(buffer, stream="t")) == [b"2"]
    assert values(drain(buffer, stream="s")) == [b"1"]


# -- lookups by key


def test_latest_finds_the_newest_record_of_each_key_and_leaves_out_the_others(
    buffer: Buffer,
) -> None:
    buffer.append("s", "p", [Record(b"a", b"1"), Record(b"b", b"1")])
    seq = buffer.append("s", "p", [Record(b"a", b"2"), Record(b"a", b"3")])
    put(buffer, "q", b"x", key=b"a")
    with buffer.snapshot() as view:
        found = view.latest("s", "p", [b"b", b"a", b"absent"])
        assert {k: f.value for k, f in found.items()} == {b"a": b"3", b"b": b"1"}
        assert (found[b"a"].seq, found[b"a"].parked) == (seq, False)
        assert view.latest("s", "p", []) == {}
        assert view.latest("s", "nobody", [b"a"]) == {}


def test_latest_takes_any_number_of_keys(buffer: Buffer) -> None:
    buffer.append("s", "p", [Record(b"%05d" % i, b"%d" % i) for i in range(1700)])
    with buffer.snapshot() as view:
        found = view.latest("s", "p", [b"%05d" % i for i in range(3400)])
    assert {k: f.value for k, f in found.items()} == {b"%05d" % i: b"%d" % i for i in range(1700)}


AWKWARD = [
    b"", b"\x00", b"\x00\x00", b"\x00\xff", b"a", b"a\x00", b"a\xff", b"a\xff\xff", b"b", b"\xfe", b"\xff",
    b"\xff\x00", b"\xff\xff", b"\xff" * 40,
]  # fmt: skip


@pytest.mark.parametrize(
    "prefix", [b"", b"\x00", b"a", b"a\xff", b"a\xff\xff", b"\xfe", b"\xff", b"\xff\xff"]
)
def test_scan_and_last_mean_the_prefix_bytewise(buffer: Buffer, prefix: bytes) -> None:
    for key in reversed(AWKWARD):
        put(buffer, "p", b"old", key=key)
        put(buffer, "p", b"new", key=key)
        put(buffer, "q", b"other", key=key)
    expected = sorted(k for k in AWKWARD if k.startswith(prefix))
    with buffer.snapshot() as view:
        found = view.scan("s", "p", prefix)
        assert [(f.key, f.value) for f in found] == [
            (k, v) for k in expected for v in (b"old", b"new")
        ]
        bare = view.scan("s", "p", prefix, keys_only=True)
        assert [(f.key, f.seq, f.value) for f in bare] == [(f.key, f.seq, b"") for f in found]
        last = view.last("s", "p", prefix)
        assert last is not None
        assert (last.key, last.value) == (expected[-1], b"new")
        assert view.last("s", "nobody", prefix) is None


def test_a_key_of_many_0xff_is_found_by_its_prefix(buffer: Buffer) -> None:
    put(buffer, "p", key=b"\xff" * 65)
    with buffer.snapshot() as view:
        assert [f.key for f in view.scan("s", "p", b"\xff")] == [b"\xff" * 65]


def test_after_seq_leaves_out_what_is_not_newer(buffer: Buffer) -> None:
    seqs = [put(buffer, "p", b"%d" % i, key=b"k%d" % (i % 2)) for i in range(4)]
    with buffer.snapshot() as view:
        assert [f.value for f in view.scan("s", "p", b"k", after_seq=seqs[1])] == [b"2", b"3"]
        assert view.scan("s", "p", b"k", after_seq=seqs[3]) == []
        last = view.last("s", "p", b"k0", after_seq=seqs[1])
        assert last is not None
        assert last.value == b"2"
        assert view.last("s", "p", b"k0", after_seq=seqs[2]) is None


def test_partitions_lists_those_with_hot_records_parked_ones_included(buffer: Buffer) -> None:
    for name in ("c", "a", "b", "gone"):
        put(buffer, name)
    put(buffer, "x", stream="t")
    leased = take(buffer, "b")
    buffer.park(leased.lease, leased_seq := read_all(buffer, leased.lease)[0].seq, BAD)
    gone = take(buffer, "gone")
    buffer.ack([Ack(gone.lease, read_all(buffer, gone.lease), release=True)])
    with buffer.snapshot() as view:
        assert view.partitions("s") == ["a", "b", "c"]
        assert view.partitions("nothing") == []
        assert [(f.seq, f.parked) for f in view.scan("s", "b", b"")] == [(leased_seq, True)]


# -- leases and fencing


def test_a_leased_partition_is_not_leased_to_another_until_it_is_given_back(
    house: BufferHouse,
) -> None:
    one, other = house.open(), house.open()
    put(one)
    lease = take(one, owner="one").lease
    assert other.lease("s", Due(force=True), owner="other", ttl_s=15) == []
    one.release([lease])
    assert take(other, owner="other").lease.token > lease.token


def test_a_lease_tells_its_partitions_state(buffer: Buffer, clock: FakeClock) -> None:
    put(buffer, "p", b"12345")
    clock.advance(1)
    put(buffer, "p", b"67")
    leased = take(buffer, owner="me", ttl_s=15)
    assert (leased.lease.owner, leased.lease.expires_at) == ("me", clock.now + 15)
    state = leased.state
    assert (state.entries, state.bytes, state.oldest_at) == (2, 9, clock.now - 1)
    assert (state.leased_by, state.lease_expires_at) == ("me", clock.now + 15)
    assert (state.attempts, state.failing_since, state.failure) == (0, None, None)


def test_an_expired_lease_is_taken_by_another_and_the_old_one_can_do_nothing(
    house: BufferHouse, clock: FakeClock
) -> None:
    one, other = house.open(), house.open()
    seq = put(one)
    old = take(one, owner="one", ttl_s=15).lease
    entries = read_all(one, old)
    clock.advance(14.9)
    assert other.lease("s", Due(force=True), owner="other", ttl_s=15) == []
    clock.advance(0.1)
    new = take(other, owner="other").lease

    assert new.token > old.token
    assert one.ack(
        [Ack(old, entries, maxima={b"m": b"1"}, passing={b"n": b"1"}, release=True)]
    ) == [old]
    with pytest.raises(LeaseLost):
        one.postpone(old, attempts=1, next_attempt_at=clock.now + 9, failure=DOWN)
    with pytest.raises(LeaseLost):
        one.park(old, seq, BAD)
    assert one.renew([old], ttl_s=15) == []
    one.release([old])

    state = one.state("s", "p")
    assert state is not None
    assert (state.entries, state.attempts, state.leased_by) == (1, 0, "other")
    with one.snapshot() as view:
        assert view.notes("s", "p") == {}
    assert one.parked() == []
    assert other.ack([Ack(new, read_all(other, new), release=True)]) == []


def test_an_expired_lease_that_nobody_took_still_counts(buffer: Buffer, clock: FakeClock) -> None:
    put(buffer)
    lease = take(buffer, ttl_s=1).lease
    clock.advance(60)
    assert buffer.ack([Ack(lease, read_all(buffer, lease))]) == []
    assert buffer.depth().entries == 0


def test_a_lease_given_back_can_do_nothing_more(buffer: Buffer) -> None:
    seq = put(buffer)
    lease = take(buffer).lease
    entries = read_all(buffer, lease)
    buffer.release([lease])
    assert buffer.ack([Ack(lease, entries)]) == [lease]
    assert buffer.renew([lease], ttl_s=15) == []
    with pytest.raises(LeaseLost):
        buffer.park(lease, seq, BAD)
    assert buffer.depth().entries == 1


def test_one_lost_lease_does_not_keep_the_other_acks_of_the_call_back(
    buffer: Buffer, clock: FakeClock
) -> None:
    for name in "abc":
        put(buffer, name)
    leases = {n: take(buffer, n, ttl_s=15 if n == "b" else 99).lease for n in "abc"}
    acks = [Ack(lease, read_all(buffer, lease)) for lease in leases.values()]
    clock.advance(20)
    take(buffer, "b")
    assert buffer.ack(acks) == [leases["b"]]
    assert [s.partition for s in buffer.states()] == ["b"]


def test_renewing_extends_a_lease_and_leaves_out_the_lost_ones(
    buffer: Buffer, clock: FakeClock
) -> None:
    put(buffer, "a")
    put(buffer, "b")
    a, b = take(buffer, "a", ttl_s=15).lease, take(buffer, "b", ttl_s=5).lease
    clock.advance(10)
    take(buffer, "b")
    (kept,) = buffer.renew([a, b], ttl_s=15)
    assert (kept.partition, kept.token, kept.expires_at) == ("a", a.token, clock.now + 15)
    clock.advance(14)
    assert "a" not in names(buffer.lease("s", Due(force=True), owner="x", ttl_s=15))
    assert buffer.ack([Ack(kept, read_all(buffer, kept))]) == []


def test_the_token_grows_also_when_the_partition_vanished_and_was_made_again(
    buffer: Buffer, clock: FakeClock
) -> None:
    tokens = []
    old = None
    for _ in range(3):
        put(buffer)
        lease = take(buffer).lease
        tokens.append(lease.token)
        if old is not None:
            assert buffer.ack([Ack(old, read_all(buffer, lease))]) == [old]
        buffer.ack([Ack(lease, read_all(buffer, lease), release=True)])
        clock.advance(1)
        buffer.maintain()
        old = lease
    assert tokens == sorted(set(tokens))


def test_two_workers_share_the_partitions_of_a_stream_without_overlap(house: BufferHouse) -> None:
    one, other = house.open(), house.open()
    for i in range(10):
        put(one, f"p{i}")
    first = names(one.lease("s", Due(force=True, limit=4), owner="one", ttl_s=15))
    second = names(other.lease("s", Due(force=True), owner="other", ttl_s=15))
    assert len(first) == 4
    assert sorted(first + second) == [f"p{i}" for i in range(10)]


def test_a_long_lease_is_a_lease(buffer: Buffer) -> None:
    put(buffer)
    take(buffer, ttl_s=3600)
    assert buffer.lease("s", Due(force=True), owner="other", ttl_s=15) == []


# -- what is due


def due_now(buffer: Buffer, due: Due) -> list[str]:
    leased = buffer.lease("s", due, owner="w", ttl_s=15)
    buffer.release([x.lease for x in leased])
    return names(leased)


def never(**thresholds: object) -> Due:
    return Due(**{"entries": 10**9, "bytes": 10**12, "age_s": 1e9, **thresholds})  # type: ignore[arg-type]


def test_a_partition_is_due_by_entries_or_bytes_or_age(buffer: Buffer, clock: FakeClock) -> None:
    put(buffer, "old")
    clock.advance(100)
    put(buffer, "large", b"x" * 5000)
    for _ in range(5):
        put(buffer, "many")
    assert due_now(buffer, never()) == []
    assert due_now(buffer, never(entries=5)) == ["many"]
    assert due_now(buffer, never(entries=6)) == []
    assert due_now(buffer, never(bytes=5001)) == ["large"]
    assert due_now(buffer, never(bytes=5002)) == []
    assert due_now(buffer, never(age_s=100)) == ["old"]
    assert due_now(buffer, never(age_s=100.5)) == []
    assert due_now(buffer, never(entries=5, bytes=5000, age_s=100))[0] == "old"
    assert sorted(due_now(buffer, never(force=True))) == ["large", "many", "old"]


def test_due_takes_the_oldest_first_up_to_its_limit_and_one_partition_when_named(
    buffer: Buffer, clock: FakeClock
) -> None:
    for name in ("c", "a", "b"):
        put(buffer, name)
        clock.advance(1)
    assert due_now(buffer, Due(limit=2)) == ["c", "a"]
    assert due_now(buffer, Due(partition="b")) == ["b"]
    assert due_now(buffer, Due(partition="nobody", force=True)) == []


def test_a_partition_without_waiting_entries_is_never_due(buffer: Buffer) -> None:
    seq = put(buffer, "parked")
    put(buffer, "drained")
    leased = take(buffer, "drained")
    buffer.ack([Ack(leased.lease, read_all(buffer, leased.lease), release=True)])
    buffer.park(lease := take(buffer, "parked").lease, seq, BAD)
    buffer.release([lease])
    assert due_now(buffer, Due(force=True, entries=0)) == []


def test_a_postponed_partition_is_due_at_its_next_attempt_or_by_force(
    buffer: Buffer, clock: FakeClock
) -> None:
    put(buffer)
    buffer.postpone(take(buffer).lease, attempts=3, next_attempt_at=clock.now + 30, failure=DOWN)
    failing_since = clock.now

    assert due_now(buffer, Due()) == []
    assert due_now(buffer, Due(force=True)) == ["p"]
    clock.advance(29.9)
    assert due_now(buffer, Due()) == []
    clock.advance(0.1)
    (leased,) = buffer.lease("s", Due(), owner="w", ttl_s=15)
    assert (leased.state.attempts, leased.state.failure) == (3, DOWN)
    assert leased.state.failing_since == failing_since
    buffer.postpone(leased.lease, attempts=4, next_attempt_at=clock.now + 60, failure=DOWN)
    (state,) = buffer.states("s", failing=True)
    assert (state.failing_since, state.attempts, state.leased_by) == (failing_since, 4, None)


def test_an_ack_ends_the_failure(buffer: Buffer, clock: FakeClock) -> None:
    put(buffer)
    put(buffer)
    buffer.postpone(take(buffer).lease, attempts=3, next_attempt_at=clock.now + 30, failure=DOWN)
    lease = take(buffer).lease
    buffer.ack([Ack(lease, read_all(buffer, lease)[:1], release=True)])
    assert buffer.states(failing=True) == []
    state = buffer.state("s", "p")
    assert state is not None
    assert (state.attempts, state.next_attempt_at, state.failing_since, state.failure) == (
        0,
        0,
        None,
        None,
    )


def test_retry_now_makes_postponed_partitions_due(buffer: Buffer, clock: FakeClock) -> None:
    for name in ("a", "b", "fresh"):
        put(buffer, name)
    for name in ("a", "b"):
        buffer.postpone(
            take(buffer, name).lease, attempts=1, next_attempt_at=clock.now + 30, failure=DOWN
        )
    put(buffer, "x", stream="t")
    lease = take(buffer, "x", stream="t").lease
    buffer.postpone(lease, attempts=1, next_attempt_at=clock.now + 30, failure=DOWN)

    assert buffer.retry_now("s", "b") == 1
    assert sorted(due_now(buffer, Due())) == ["b", "fresh"]
    assert buffer.retry_now("nothing") == 0
    assert buffer.retry_now() == 2
    assert sorted(due_now(buffer, Due())) == ["a", "b", "fresh"]
    assert names(buffer.lease("t", Due(), owner="w", ttl_s=15)) == ["x"]


# -- clocks that jump

JUMPS = [-400 * 86400.0, -86400.0, -3000.0, -500.0, -20.0, -0.5, 20.0, 86400.0, 400 * 86400.0]


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("frozen", ["age", "postponed", "leased"])
def test_a_clock_that_jumps_freezes_no_partition_longer_than_the_horizon(
    buffer: Buffer, clock: FakeClock, jump: float, frozen: str
) -> None:
    due = Due(entries=10, bytes=10**9, age_s=5.0, max_horizon_s=3600.0)
    put(buffer)
    if frozen == "postponed":
        buffer.postpone(
            take(buffer).lease, attempts=9, next_attempt_at=clock.now + 60, failure=DOWN
        )
    elif frozen == "leased":
        take(buffer, owner="died", ttl_s=15)

    clock.advance(jump)
    waited = 0.0
    while not due_now(buffer, due):
        clock.advance(10)
        waited += 10

    assert waited <= due.max_horizon_s
    if jump >= 86400 or (frozen != "leased" and abs(jump) >= 86400):
        assert waited == 0


def test_a_lease_taken_before_the_clock_was_set_back_can_still_acknowledge(
    buffer: Buffer, clock: FakeClock
) -> None:
    put(buffer)
    lease = take(buffer).lease
    clock.advance(-86400)
    assert buffer.ack([Ack(lease, read_all(buffer, lease))]) == []


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


def note(buffer: Buffer, **what: object) -> None:
    put(buffer)
    lease = take(buffer).lease
    buffer.ack([Ack(lease, read_all(buffer, lease), release=True, **what)])  # type: ignore[arg-type]


def notes(buffer: Buffer, prefix: bytes = b"") -> Mapping[bytes, bytes]:
    with buffer.snapshot() as view:
        return view.notes("s", "p", prefix)


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


# -- parking


def test_a_parked_entry_is_set_aside_with_its_reason_and_stays_visible(
    buffer: Buffer, clock: FakeClock
) -> None:
    put(buffer, "p", b"good")
    seq = put(buffer, "p", b"bad", b"\x00\xff")
    accepted_at = clock.now
    clock.advance(5)
    lease = take(buffer).lease
    parked = buffer.park(lease, seq, BAD)

    assert values(read_all(buffer, lease)) == [b"good"]
    assert buffer.parked() == [parked]
    assert (parked.stream, parked.partition, parked.seq, parked.bytes) == ("s", "p", seq, 7)
    assert (parked.accepted_at, parked.parked_at, parked.retries) == (accepted_at, clock.now, 0)
    assert parked.failure == BAD
    with buffer.snapshot() as view:
        found = view.latest("s", "p", [b"k"])[b"k"]
    assert (found.value, found.seq, found.parked) == (b"\x00\xff", seq, True)
    entry = buffer.parked_entry(parked.id)
    assert entry is not None
    assert (entry.stream, entry.partition, entry.seq, entry.accepted_at) == (
        "s",
        "p",
        seq,
        accepted_at,
    )
    assert values([entry]) == [b"bad", b"\x00\xff"]


def test_parked_entries_are_listed_oldest_first_by_stream_and_partition(buffer: Buffer) -> None:
    for stream, name in (("s", "a"), ("t", "a"), ("s", "b")):
        seq = put(buffer, name, stream=stream)
        buffer.park(take(buffer, name, stream=stream).lease, seq, BAD)
    assert [(p.stream, p.partition) for p in buffer.parked()] == [
        ("s", "a"),
        ("t", "a"),
        ("s", "b"),
    ]
    assert [p.partition for p in buffer.parked(stream="s")] == ["a", "b"]
    assert [p.stream for p in buffer.parked(partition="a")] == ["s", "t"]
    assert buffer.parked(stream="t", partition="b") == []
    assert buffer.parked_entry(10**9) is None


def test_parked_entries_survive_maintenance_and_reopening(
    house: BufferHouse, clock: FakeClock
) -> None:
    buffer = house.open()
    seq = put(buffer, "p", b"bad")
    parked = buffer.park(take(buffer).lease, seq, BAD)
    clock.advance(400 * 86400)
    buffer.maintain()
    buffer.close()
    again = house.open()
    assert again.parked() == [parked]
    entry = again.parked_entry(parked.id)
    assert entry is not None
    assert values([entry]) == [b"bad"]


def test_an_unparked_entry_comes_at_the_end_of_its_partition(buffer: Buffer) -> None:
    bad = put(buffer, "p", b"bad", b"two")
    newer = put(buffer, "p", b"newer")
    lease = take(buffer).lease
    parked = buffer.park(lease, bad, BAD)
    buffer.release([lease])

    (seq,) = buffer.unpark([parked.id, 10**9])

    assert seq > newer
    assert buffer.parked() == []
    assert buffer.parked_entry(parked.id) is None
    lease = take(buffer).lease
    entries = read_all(buffer, lease)
    assert [(e.seq, e.replayed) for e in entries] == [(newer, False), (seq, True)]
    assert values(entries) == [b"newer", b"bad", b"two"]
    assert buffer.unpark([parked.id]) == []
    assert buffer.park(lease, seq, BAD).retries == 1


def test_an_entry_that_is_parked_again_has_the_id_that_it_had_and_no_other_gets_it(
    house: BufferHouse,
) -> None:
    buffer = house.open()
    first, second = put(buffer, "p", b"bad"), put(buffer, "p", b"worse")
    lease = take(buffer).lease
    one, two = buffer.park(lease, first, BAD), buffer.park(lease, second, BAD)
    for _ in range(3):
        again = buffer.unpark([two.id])
        newcomer = buffer.park(lease, put(buffer, "p", b"new"), BAD)
        assert newcomer.id not in (one.id, two.id)
        assert buffer.park(lease, again[0], BAD).id == two.id
    buffer.release([lease])
    buffer.unpark([two.id])
    buffer.close()
    buffer = house.open()
    lease = take(buffer).lease
    (entry,) = read_all(buffer, lease)
    assert buffer.park(lease, entry.seq, BAD).id == two.id
    assert [p.id for p in buffer.parked()][:2] == [one.id, two.id]


def test_an_unparked_entry_is_due_also_where_nothing_else_waits(
    buffer: Buffer, clock: FakeClock
) -> None:
    seq = put(buffer)
    lease = take(buffer).lease
    parked = buffer.park(lease, seq, BAD)
    buffer.release([lease])
    buffer.unpark([parked.id])
    clock.advance(10)
    assert due_now(buffer, never(age_s=5.0)) == ["p"]


def test_an_entry_that_starts_guarding_removes_the_parked_ones_of_its_partition(
    buffer: Buffer,
) -> None:
    for name in ("p", "other"):
        seq = put(buffer, name, b"bad")
        lease = take(buffer, name).lease
        buffer.park(lease, seq, BAD)
        buffer.release([lease])
    put(buffer, "p", b"waits")

    buffer.append("s", "p", [Record(b"delete", b"")], start_guarding=True)

    assert [p.partition for p in buffer.parked()] == ["other"]
    with buffer.snapshot() as view:
        assert [f.value for f in view.scan("s", "p", b"")] == [b"", b"waits"]
    assert buffer.depth().entries == 3


# -- guards


def test_a_guard_is_asked_only_where_guarding_has_started(buffer: Buffer) -> None:
    asked: list[str] = []

    def guard(view: Snapshot) -> None:
        asked.append("asked")

    assert buffer.append("s", "p", [Record(b"k", b"1")], guard=guard) > 0
    assert buffer.append("s", "p", [Record(b"k", b"2")], guard=guard, start_guarding=True) > 0
    assert asked == []
    assert buffer.append("s", "p", [Record(b"k", b"3")], guard=guard) > 0
    assert asked == ["asked"]
    assert buffer.append("s", "q", [Record(b"k", b"4")], guard=guard) > 0
    assert buffer.append("s", "p", [Record(b"k", b"5")]) > 0
    assert asked == ["asked"]


def test_a_guard_sees_the_partition_as_it_is_before_the_append(buffer: Buffer) -> None:
    seen: list[list[bytes]] = []

    def guard(view: Snapshot) -> None:
        seen.append([f.value for f in view.scan("s", "p", b"k")])

    buffer.append("s", "p", [Record(b"k", b"1")], start_guarding=True)
    buffer.append("s", "p", [Record(b"k", b"2")], guard=guard)
    buffer.append("s", "p", [Record(b"k", b"3")], guard=guard)
    assert seen == [[b"1"], [b"1", b"2"]]


@pytest.mark.parametrize("drained", [False, True])
def test_a_refusal_leaves_everything_as_it_was_and_keeps_its_notes(
    buffer: Buffer, drained: bool
) -> None:
    buffer.append("s", "p", [Record(b"k", b"1")], start_guarding=True)
    put(buffer, "other")
    if drained:
        lease = take(buffer, "p").lease
        buffer.ack([Ack(lease, read_all(buffer, lease), release=True)])
    before, states = buffer.depth(), buffer.states()

    seq = buffer.append("s", "p", [Record(b"k", b"2")], guard=lambda view: {b"late": b"2"})

    assert seq == 0
    after = buffer.depth()
    assert (after.entries, after.bytes, after.streams) == (
        before.entries,
        before.bytes,
        before.streams,
    )
    assert buffer.states() == states
    assert notes(buffer) == {b"late": b"2"}
    assert put(buffer) > 0


def test_notes_of_a_refusal_pass(buffer: Buffer, clock: FakeClock) -> None:
    buffer.append("s", "p", [Record(b"k", b"1")], start_guarding=True)
    buffer.append("s", "p", [Record(b"k", b"2")], guard=lambda view: {b"late": b"2"})
    clock.advance(NOTE_TTL_S)
    assert notes(buffer) == {}


def test_a_guard_that_raises_fails_its_own_append_and_nothing_of_it_is_accepted(
    buffer: Buffer,
) -> None:
    buffer.append("s", "p", [Record(b"k", b"1")], start_guarding=True)

    def guard(view: Snapshot) -> None:
        raise RuntimeError("broken guard")

    with pytest.raises(RuntimeError, match="broken guard"):
        buffer.append("s", "p", [Record(b"k", b"2")], guard=guard)
    assert values(drain(buffer)) == [b"1"]
    assert buffer.depth().entries == 0


# -- limits


@pytest.mark.parametrize("limit", [{"max_entries": 3}, {"max_bytes": 30}])
@pytest.mark.parametrize("how", ["reject", "no wait"])
def test_at_the_limit_an_append_raises_at_once_and_nothing_is_accepted(
    house: BufferHouse, limit: dict[str, int], how: str
) -> None:
    buffer = house.open(
        when_full="reject" if how == "reject" else "block", block_timeout_s=60, **limit
    )
    for _ in range(3):
        put(buffer, "p", b"123456789")
    with pytest.raises(BufferFull, match="Way out"):
        buffer.append("s", "new", [Record(b"k", b"1")], wait=how == "reject")
    assert (buffer.depth().entries, buffer.depth().bytes) == (3, 30)
    assert [s.partition for s in buffer.states()] == ["p"]
    drain(buffer)
    assert buffer.append("s", "new", [Record(b"k", b"1")], wait=False) > 0


def test_the_last_byte_below_the_limit_is_usable(house: BufferHouse) -> None:
    buffer = house.open(max_bytes=10)
    put(buffer, "p", b"123456789")
    with pytest.raises(BufferFull):
        buffer.append("s", "p", [Record(b"", b"1")])
    assert buffer.depth().bytes == 10


def test_parked_entries_count_against_the_limit(house: BufferHouse) -> None:
    buffer = house.open(max_entries=1)
    seq = put(buffer)
    lease = take(buffer).lease
    parked = buffer.park(lease, seq, BAD)
    buffer.release([lease])
    with pytest.raises(BufferFull):
        put(buffer)
    assert len(buffer.unpark([parked.id])) == 1
    assert len(drain(buffer)) == 1
    assert put(buffer) > 0


def test_a_blocked_append_goes_on_when_another_thread_made_space(house: BufferHouse) -> None:
    buffer = house.open(max_entries=2, when_full="block", block_timeout_s=30)
    put(buffer, "p", b"1")
    put(buffer, "p", b"2")
    accepted: list[int] = []
    thread = threading.Thread(target=lambda: accepted.append(put(buffer, "p", b"3")))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    assert accepted == []

    assert len(drain(buffer)) == 2
    thread.join(10)

    assert not thread.is_alive()
    assert values(drain(buffer)) == [b"3"]


def test_a_blocked_append_goes_on_when_another_process_made_space(house: BufferHouse) -> None:
    buffer = house.open(max_entries=1, when_full="block", block_timeout_s=60)
    put(buffer, "p", b"1")
    thread = threading.Thread(target=put, args=(buffer, "p", b"2"))
    thread.start()
    drained = house.in_another_process("answer = len(drain(buffer))")
    thread.join(10)
    assert not thread.is_alive()
    assert drained + len(drain(buffer)) == 2


def test_a_blocked_append_gives_up_after_its_time(house: BufferHouse) -> None:
    buffer = house.open(max_entries=1, when_full="block", block_timeout_s=0.1)
    put(buffer)
    with pytest.raises(BufferFull):
        put(buffer)
    assert buffer.depth().entries == 1


def test_an_entry_larger_than_the_whole_buffer_is_refused_at_once(house: BufferHouse) -> None:
    buffer = house.open(max_bytes=100, when_full="block", block_timeout_s=60)
    with pytest.raises(BufferFull):
        put(buffer, "p", b"x" * 101)
    assert buffer.depth().bytes == 0


@pytest.mark.parametrize("count", [65_536, 65_537, 100_000])
def test_an_entry_of_too_many_records_is_refused_and_others_go_on(
    buffer: Buffer, count: int
) -> None:
    put(buffer, "p", b"before")
    with pytest.raises(EntryRejected, match="records"):
        buffer.append("s", "p", [Record(b"k", b"")] * count)
    put(buffer, "p", b"after")
    assert values(drain(buffer)) == [b"before", b"after"]


def test_the_largest_entry_does_not_touch_its_neighbours(buffer: Buffer) -> None:
    put(buffer, "p", b"before")
    buffer.append("s", "p", [Record(b"%05d" % i, b"") for i in range(65_535)])
    put(buffer, "p", b"after")
    before, large, after = drain(buffer)
    assert (values([before]), values([after])) == ([b"before"], [b"after"])
    assert [r.key for r in large.records] == [b"%05d" % i for i in range(65_535)]


def test_an_entry_without_records_leaves_nothing_that_waits_forever(buffer: Buffer) -> None:
    with contextlib.suppress(EntryRejected):
        buffer.append("s", "p", [])
    drain(buffer)
    assert buffer.depth().entries == 0
    assert buffer.states() == []


def test_a_name_that_is_no_text_is_refused_and_others_go_on(buffer: Buffer) -> None:
    for stream, name in (("s", "\ud800"), ("\udfff", "p")):
        with pytest.raises(EntryRejected, match="not valid text"):
            buffer.append(stream, name, [Record(b"k", b"v")])
    assert put(buffer) > 0
    assert buffer.depth().entries == 1


def test_an_append_that_raised_leaves_no_trace_in_later_ones(buffer: Buffer) -> None:
    with pytest.raises((BufferUnavailable, EntryRejected)):
        buffer.append("s", "one", [Record(b"k", "no bytes")])  # type: ignore[arg-type]
    put(buffer, "two", b"of two")
    put(buffer, "one", b"of one")
    with buffer.snapshot() as view:
        assert view.partitions("s") == ["one", "two"]
        assert [f.value for f in view.scan("s", "one", b"")] == [b"of one"]
        assert [f.value for f in view.scan("s", "two", b"")] == [b"of two"]


# -- jobs


def job(
    id_: str, at: float, status: JobStatus = JobStatus.COMPLETED, stream: str = "s"
) -> FlushJob:
    return FlushJob(
        id_, stream, "manual", status, at, "node", result={"rows_flushed": 1, "warnings": []}
    )


def test_jobs_are_kept_and_listed_newest_first_by_stream_and_status(house: BufferHouse) -> None:
    buffer = house.open()
    buffer.save_job(job("1", 10.0))
    buffer.save_job(job("2", 20.0, JobStatus.FAILED))
    buffer.save_job(job("3", 30.0, JobStatus.RUNNING, stream="t"))
    other = house.open()
    assert [j.id for j in other.jobs()] == ["3", "2", "1"]
    assert [j.id for j in other.jobs(limit=2)] == ["3", "2"]
    assert [j.id for j in other.jobs(stream="s")] == ["2", "1"]
    assert [j.id for j in other.jobs(status="failed")] == ["2"]
    assert other.jobs(stream="t", status="failed") == []
    assert other.job("1") == job("1", 10.0)
    assert other.job("none") is None


def test_a_job_saved_again_has_its_new_state(buffer: Buffer) -> None:
    running = FlushJob(
        "1", "s", "manual", JobStatus.RUNNING, 10.0, "node", started_at=10.0, partition="p"
    )
    buffer.save_job(running)
    done = running.finished(
        JobStatus.FAILED, 12.0, {"message": "down", "errors": [{"sqlstate": None}]}
    )
    buffer.save_job(done)
    assert buffer.job("1") == done
    assert buffer.jobs() == [done]


def test_old_jobs_are_forgotten_and_running_ones_are_not(house: BufferHouse) -> None:
    buffer = house.open(jobs_kept=5)
    buffer.save_job(job("running", 1.0, JobStatus.RUNNING))
    for i in range(20):
        buffer.save_job(job(f"j{i:02}", 10.0 + i))
    buffer.maintain()
    kept = [j.id for j in buffer.jobs()]
    assert kept[0] == "j19"
    assert kept[-1] == "running"
    assert len(kept) == 5


# -- looking


def test_states_lists_waiting_partitions_oldest_first(buffer: Buffer, clock: FakeClock) -> None:
    for name in ("c", "a", "b"):
        put(buffer, name, b"12")
        clock.advance(1)
    put(buffer, "x", stream="t")
    assert [s.partition for s in buffer.states("s")] == ["c", "a", "b"]
    assert [s.partition for s in buffer.states()] == ["c", "a", "b", "x"]
    assert [s.partition for s in buffer.states(limit=2)] == ["c", "a"]
    state = buffer.state("s", "a")
    assert state == buffer.states("s")[1]
    assert state is not None
    assert (state.stream, state.entries, state.bytes, state.oldest_at) == ("s", 1, 3, clock.now - 2)
    assert buffer.state("s", "x") is None
    buffer.postpone(take(buffer, "a").lease, attempts=1, next_attempt_at=0, failure=DOWN)
    assert [s.partition for s in buffer.states(failing=True)] == ["a"]
    assert buffer.states("t", failing=True) == []


def test_the_age_of_a_partition_is_that_of_its_oldest_waiting_entry(
    buffer: Buffer, clock: FakeClock
) -> None:
    start = clock.now
    for _ in range(3):
        put(buffer)
        clock.advance(10)
    lease = take(buffer).lease
    entries = read_all(buffer, lease)
    buffer.ack([Ack(lease, entries[:1])])
    assert [s.oldest_at for s in buffer.states()] == [start + 10]
    buffer.park(lease, entries[1].seq, BAD)
    assert [s.oldest_at for s in buffer.states()] == [start + 20]


def test_last_seq_and_waiting_speak_of_unparked_entries(buffer: Buffer) -> None:
    assert buffer.last_seq("s") == 0
    a1, b1, a2 = put(buffer, "a"), put(buffer, "b"), put(buffer, "a")
    put(buffer, "x", stream="t")
    assert (buffer.last_seq("s"), buffer.last_seq("s", "a"), buffer.last_seq("s", "b")) == (
        a2,
        a2,
        b1,
    )
    assert buffer.last_seq("s", "nobody") == 0
    assert [len(buffer.waiting("s", up_to_seq=n)) for n in (0, a1, b1, a2)] == [0, 1, 2, 2]
    assert buffer.waiting("s", up_to_seq=a2, partition="b") == ["b"]
    assert buffer.waiting("s", up_to_seq=a1, partition="b") == []

    lease = take(buffer, "a").lease
    buffer.park(lease, a2, BAD)
    assert (buffer.last_seq("s"), buffer.last_seq("s", "a")) == (b1, a1)
    buffer.ack([Ack(lease, read_all(buffer, lease), release=True)])
    assert buffer.last_seq("s", "a") == 0
    assert len(buffer.waiting("s", up_to_seq=a2)) == 1


def test_depth_counts_entries_bytes_partitions_and_parked_by_stream(
    buffer: Buffer, clock: FakeClock
) -> None:
    start = clock.now
    seq = put(buffer, "a", b"123")
    put(buffer, "a", b"4")
    clock.advance(1)
    put(buffer, "b", b"5")
    put(buffer, "x", b"6", stream="t")
    buffer.park(lease := take(buffer, "a").lease, seq, BAD)
    buffer.postpone(lease, attempts=1, next_attempt_at=0, failure=DOWN)

    depth = buffer.depth()

    assert (depth.entries, depth.bytes) == (4, 10)
    s, t = depth.streams
    assert (s.stream, s.entries, s.bytes, s.partitions, s.failing, s.parked) == ("s", 2, 4, 2, 1, 1)
    assert s.oldest_at == start
    assert (t.stream, t.entries, t.bytes, t.partitions, t.failing, t.parked) == ("t", 1, 2, 1, 0, 0)


# -- closing


def test_closing_twice_is_closing_once(buffer: Buffer) -> None:
    buffer.close()
    buffer.close()


def test_a_closed_buffer_says_so_and_what_to_do(buffer: Buffer, clock: FakeClock) -> None:
    seq = put(buffer)
    lease = take(buffer).lease
    buffer.close()
    uses = [
        lambda: put(buffer), lambda: buffer.snapshot().__enter__(), lambda: take(buffer),
        lambda: buffer.renew([lease], ttl_s=1), lambda: buffer.release([lease]), lambda: read_all(buffer, lease),
        lambda: buffer.ack([Ack(lease, [])]), lambda: buffer.park(lease, seq, BAD),
        lambda: buffer.postpone(lease, attempts=1, next_attempt_at=0, failure=DOWN), buffer.parked,
        lambda: buffer.parked_entry(1), lambda: buffer.unpark([1]), buffer.states,
        lambda: buffer.state("s", "p"), lambda: buffer.last_seq("s"), lambda: buffer.waiting("s", up_to_seq=1),
        buffer.retry_now, buffer.depth, lambda: buffer.save_job(job("1", 1.0)),
        lambda: buffer.job("1"), buffer.jobs, buffer.maintain,
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(BufferUnavailable, match=r"is closed.*Way out: open Surgetank again"):
            use()


def test_closing_while_others_append_loses_nothing_that_was_accepted(house: BufferHouse) -> None:
    buffer = house.open()
    accepted: list[int] = []
    refused = threading.Semaphore(0)

    def work() -> None:
        try:
            while True:
                accepted.append(put(buffer))
        except BufferUnavailable:
            refused.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(accepted) >= 200)
    buffer.close()
    for thread in threads:
        thread.join(10)
        assert refused.acquire(blocking=False)
    assert [e.seq for e in drain(house.open())] == sorted(accepted)


# -- many threads


def test_sixteen_threads_append_at_once_and_every_entry_is_there_in_each_threads_order(
    house: BufferHouse,
) -> None:
    buffers = [house.open(), house.open()]
    returned: dict[int, list[int]] = defaultdict(list)
    start = threading.Barrier(16)

    def work(me: int) -> None:
        start.wait()
        for i in range(60):
            seq = put(buffers[me % 2], f"p{i % 3}", b"%d:%d" % (me, i))
            returned[me].append(seq)

    threads = [threading.Thread(target=work, args=(me,)) for me in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert all(seqs == sorted(seqs) for seqs in returned.values())
    everything = [seq for seqs in returned.values() for seq in seqs]
    assert len(set(everything)) == 16 * 60
    entries = drain(buffers[0])
    by_seq = {e.seq: values([e])[0] for e in entries}
    assert by_seq == {
        seq: b"%d:%d" % (me, i) for me, seqs in returned.items() for i, seq in enumerate(seqs)
    }
    assert buffers[1].depth().entries == buffers[1].depth().bytes == 0


def test_one_append_that_is_refused_in_a_crowd_spares_its_neighbours(house: BufferHouse) -> None:
    buffer = house.open()
    buffer.append("s", "guarded", [Record(b"k", b"")], start_guarding=True)
    entered, go = threading.Event(), threading.Event()
    outcomes: dict[str, object] = {}

    def holding(view: Snapshot) -> None:
        entered.set()
        go.wait(20)

    def broken(view: Snapshot) -> None:
        raise RuntimeError("broken guard")

    def work(name: str, records: list[Record], guard: object = None) -> None:
        try:
            outcomes[name] = buffer.append("s", name.split("-")[0], records, guard=guard)  # type: ignore[arg-type]
        except Exception as error:
            outcomes[name] = error

    good = [Record(b"k", b"v")]
    threads = [threading.Thread(target=work, args=("guarded-slow", good, holding))]
    threads[0].start()
    assert entered.wait(20)
    threads += [threading.Thread(target=work, args=(f"good{i}", good)) for i in range(5)]
    threads += [threading.Thread(target=work, args=("guarded-broken", good, broken))]
    threads += [threading.Thread(target=work, args=("\ud800", good))]
    threads += [threading.Thread(target=work, args=(f"more{i}", good)) for i in range(5)]
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(20)

    assert isinstance(outcomes.pop("guarded-broken"), RuntimeError)
    assert isinstance(outcomes.pop("\ud800"), EntryRejected)
    assert all(isinstance(seq, int) and seq > 0 for seq in outcomes.values()), outcomes
    assert len(drain(buffer)) == len(outcomes) + 1
    assert buffer.depth().entries == 0


# -- appends of an event loop


def test_an_append_that_must_not_wait_is_like_any_other_where_nobody_holds_the_buffer(
    buffer: Buffer,
) -> None:
    first = put(buffer, "p", b"1")
    second = buffer.try_append("s", "p", [Record(b"k", b"2")])
    assert second is not None
    assert second > first
    assert values(read_all(buffer, take(buffer).lease)) == [b"1", b"2"]
    with pytest.raises(EntryRejected):
        buffer.try_append("s", "p", [])
    with pytest.raises(EntryRejected):
        buffer.try_append("s", "\ud800", [Record(b"k", b"2")])


def test_an_append_that_must_not_wait_asks_its_guard(buffer: Buffer) -> None:
    buffer.append("s", "p", [Record(b"!", b"")], start_guarding=True)
    assert buffer.try_append("s", "p", [Record(b"k", b"2")], guard=lambda _: {b"note": b""}) == 0
    assert buffer.try_append("s", "p", [Record(b"k", b"3")], guard=lambda _: None)
    assert values(read_all(buffer, take(buffer).lease)) == [b"", b"3"]


def test_an_append_that_must_not_wait_returns_none_while_another_process_holds_the_buffer(
    house: BufferHouse,
) -> None:
    buffer = house.open()
    put(buffer, "p", b"1")
    with held(buffer.path):  # type: ignore[attr-defined]
        assert buffer.try_append("s", "p", [Record(b"k", b"2")]) is None
        assert buffer.depth().entries == 1
    assert buffer.try_append("s", "p", [Record(b"k", b"3")])
    assert values(read_all(buffer, take(buffer).lease)) == [b"1", b"3"]


def test_an_append_that_must_not_wait_is_refused_at_the_limit_at_once(house: BufferHouse) -> None:
    buffer = house.open(max_entries=1, when_full="block", block_timeout_s=1000.0)
    assert buffer.try_append("s", "p", [Record(b"k", b"1")])
    with pytest.raises(BufferFull):
        buffer.try_append("s", "p", [Record(b"k", b"2")])


def test_an_append_that_must_not_wait_says_that_the_buffer_is_closed(buffer: Buffer) -> None:
    buffer.close()
    with pytest.raises(BufferUnavailable):
        buffer.try_append("s", "p", [Record(b"k", b"1")])
