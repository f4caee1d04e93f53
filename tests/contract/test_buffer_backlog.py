"""What `Backlog` says of what waits."""

from __future__ import annotations

from support.buffers import (
    BAD,
    DOWN,
    FakeClock,
    put,
    read_all,
    take,
)
from surgetank.buffer.coordination import Ack
from surgetank.buffer.protocol import Buffer


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


def test_first_waiting_tells_for_many_partitions_what_has_not_left(buffer: Buffer) -> None:
    a1, b1, _ = put(buffer, "a"), put(buffer, "b"), put(buffer, "a")
    put(buffer, "a", stream="t")
    put(buffer, "left")
    lease = take(buffer, "left").lease
    buffer.ack([Ack(lease, read_all(buffer, lease), release=True)])
    asked = ["a", "b", "left", "nobody", "quote'\"%"]
    assert buffer.first_waiting("s", asked) == {"a": a1, "b": b1}
    assert buffer.first_waiting("s", ["b"]) == {"b": b1}
    assert buffer.first_waiting("s", []) == {}

    lease = take(buffer, "b").lease
    buffer.park(lease, b1, BAD)
    assert buffer.first_waiting("s", asked) == {"a": a1, "b": 0}, "one that was set aside"
    put(buffer, "b")
    assert buffer.first_waiting("s", asked) == {"a": a1, "b": 0}


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


def test_failures_are_counted_by_stream_and_reason(buffer: Buffer, clock: FakeClock) -> None:
    assert buffer.failures() == []
    start = clock.now
    for name in ("a", "b", "c", "well"):
        put(buffer, name, b"12")
    put(buffer, "a", stream="t")
    for number, (name, failure) in enumerate([("a", DOWN), ("b", DOWN), ("c", BAD)], start=1):
        buffer.postpone(
            take(buffer, name).lease,
            attempts=number,
            next_attempt_at=start + number,
            failure=failure,
        )
        clock.advance(1)
    buffer.postpone(
        take(buffer, "a", stream="t").lease, attempts=1, next_attempt_at=start, failure=DOWN
    )
    found = {(group.stream, group.failure.message): group for group in buffer.failures()}
    assert set(found) == {("s", DOWN.message), ("s", BAD.message), ("t", DOWN.message)}
    group = found["s", DOWN.message]
    assert group.failure == DOWN
    assert (group.partitions, group.entries, group.attempts, group.since) == (2, 2, 2, start)
    assert (group.bytes, group.next_attempt_at) == (6, start + 1)
    assert group.partition in ("a", "b")
    assert [g.partitions for g in buffer.failures(limit=1)] == [2], "the largest first"

    lease = take(buffer, "a").lease
    buffer.ack([Ack(lease, read_all(buffer, lease), release=True)])
    assert {g.partition for g in buffer.failures() if g.stream == "s"} == {"b", "c"}
