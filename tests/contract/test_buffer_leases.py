"""What `Leases` and `Attempts` promise: one holder, fencing, what is due, clocks that jump."""

from __future__ import annotations

import pytest

from support.buffers import (
    BAD,
    DOWN,
    BufferHouse,
    FakeClock,
    due_now,
    names,
    never,
    put,
    read_all,
    take,
)
from surgetank.buffer.coordination import Ack, Due
from surgetank.buffer.protocol import Buffer
from surgetank.exceptions import LeaseLost

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
    assert due_now(buffer, Due(partitions=["b", "c", "nobody"], force=True)) == ["c", "b"]
    assert due_now(buffer, Due(partitions=[], force=True)) == []


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


def test_what_has_just_failed_is_leased_after_what_was_not_tried(
    buffer: Buffer, clock: FakeClock
) -> None:
    for name in ("oldest", "older", "new"):
        put(buffer, name)
        clock.advance(1)
    lease = take(buffer, "oldest").lease
    buffer.postpone(lease, attempts=1, next_attempt_at=clock.now + 60, failure=DOWN)
    leased = buffer.lease("s", Due(force=True, limit=2), owner="w", ttl_s=15)
    assert names(leased) == ["older", "new"]
    assert take(buffer).lease.partition == "oldest"
