"""What `Parking` promises of entries that a sink refused."""

from __future__ import annotations

from support.buffers import BAD, BufferHouse, FakeClock, due_now, never, put, read_all, take, values
from surgetank.buffer.protocol import Buffer
from surgetank.model import Record


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
