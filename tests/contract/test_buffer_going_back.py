"""What `Fence` promises: a buffer or a sink that went back in time is noticed, and mended."""

from __future__ import annotations

import pytest

from support.buffers import (
    BAD,
    BufferHouse,
    FakeClock,
    drain,
    put,
    read_all,
    take,
    values,
)
from surgetank.buffer.binding import Binding
from surgetank.buffer.coordination import Ack
from surgetank.buffer.protocol import Buffer
from surgetank.encode.digest import mark_of
from surgetank.exceptions import LeaseLost
from surgetank.model import Entry, Mark, Record

FAMILY = b"f"
KEEP_S = 100.0


def acknowledge(buffer: Buffer, count: int, partition: str = "p") -> list[Entry]:
    lease = take(buffer, partition).lease
    entries = read_all(buffer, lease)[:count]
    assert buffer.ack([Ack(lease, entries, release=True)]) == []
    return entries


def trusting(entry: Entry) -> dict[int, Mark]:
    return {entry.epoch: mark_of(entry)}


def test_a_partition_is_marked_with_what_was_acknowledged_last(
    buffer: Buffer, clock: FakeClock
) -> None:
    for name in ("a", "b", "held"):
        put(buffer, name, b"1")
        put(buffer, name, b"2")
        clock.advance(1)
    last = {name: acknowledge(buffer, 2, name)[-1] for name in ("a", "b")}
    acknowledge(buffer, 1, "held")
    take(buffer, "held")
    found = buffer.marks(limit=10)
    assert {m.partition: m.mark for m in found} == {n: mark_of(e) for n, e in last.items()}
    assert buffer.marks(limit=1, offset=1)[0] == found[1]
    assert buffer.state("s", "held") is not None
    clock.advance(1)
    put(buffer, "a", b"3")
    acknowledge(buffer, 1, "a")
    assert [m.partition for m in buffer.marks(limit=10)] == ["a", "b"], "those of late first"


def test_what_the_sink_lost_waits_again_and_what_it_has_does_not(house: BufferHouse) -> None:
    buffer = house.open(keep_s=KEEP_S)
    large = [bytes([n]) * 3000 + b"tail" for n in range(6)]
    for value in large:
        buffer.append("s", "p", [Record(b"k", b"head" * 500 + value, FAMILY)])
    done = acknowledge(buffer, 4)
    assert [v[-2000:] for v in values(read_all(buffer, take(buffer).lease))] == [
        v[-2000:] for v in large[4:]
    ]
    with buffer.snapshot() as view:
        assert len(view.scan("s", "p", b"")) == 2, "kept ones are seen by nobody"
    house.clock.advance(60)
    rewound = buffer.rewind("s", "p", trusting(done[1]))
    assert rewound is not None
    assert (rewound.entries, rewound.gone) == (2, None)
    lease = take(buffer).lease
    again = read_all(buffer, lease)
    assert [e.seq for e in again][:2] == [e.seq for e in done[2:]]
    assert again[:2] == done[2:]
    assert [v[2000:] for v in values(again)] == large[2:]
    assert buffer.depth().entries == 4
    assert buffer.marks(limit=9) == []
    assert buffer.ack([Ack(lease, again, release=True)]) == []
    assert buffer.depth().bytes == 0


def test_what_is_not_kept_any_more_is_told_as_a_range(house: BufferHouse) -> None:
    buffer = house.open(keep_s=KEEP_S)
    for n in range(4):
        put(buffer, "p", b"%d" % n)
    first = acknowledge(buffer, 2)
    house.clock.advance(KEEP_S + 1)
    buffer.forget_kept()
    second = acknowledge(buffer, 2)
    rewound = buffer.rewind("s", "p", {})
    assert rewound is not None
    assert (rewound.entries, rewound.gone) == (2, (1, first[-1].seq))
    assert [e.seq for e in drain(buffer)] == [e.seq for e in second]
    buffer.forget_kept(all_=True)
    rewound = buffer.rewind("s", "p", {})
    assert rewound is not None
    assert rewound.entries == 0
    assert rewound.gone == (1, second[-1].seq)


def test_a_partition_that_somebody_holds_is_rewound_by_that_one_alone(
    house: BufferHouse, clock: FakeClock
) -> None:
    buffer = house.open(keep_s=KEEP_S)
    put(buffer, "p", b"1")
    acknowledge(buffer, 1)
    put(buffer, "p", b"2")
    lease = take(buffer).lease
    assert buffer.rewind("s", "p", {}) is None
    assert buffer.rewind("s", "unknown", {}) is None
    rewound = buffer.rewind("s", "p", {}, lease=lease)
    assert rewound is not None
    assert rewound.entries == 1
    assert values(read_all(buffer, lease)) == [b"1", b"2"]
    clock.advance(16)
    take(buffer)
    with pytest.raises(LeaseLost):
        buffer.rewind("s", "p", {}, lease=lease)


def test_waiting_entries_get_numbers_beyond_and_an_epoch_that_nothing_else_has(
    buffer: Buffer,
) -> None:
    value = b"x" * 4000
    for n in range(3):
        buffer.append("s", "p", [Record(b"k", value + b"%d" % n, FAMILY)])
    parked_seq = put(buffer, "p", b"parked")
    lease = take(buffer).lease
    buffer.park(lease, parked_seq, BAD)
    before = read_all(buffer, lease)
    beyond = before[-1].seq + 10_000_000
    assert buffer.renew_epoch(lease, beyond=beyond, replayed=True) == 3
    after = read_all(buffer, lease)
    assert [e.records for e in after] == [e.records for e in before]
    assert all(e.seq > beyond and e.replayed for e in after)
    assert [e.seq for e in after] == sorted(e.seq for e in after)
    assert len({e.epoch for e in after}) == 1
    assert after[0].epoch not in {e.epoch for e in before}
    newest = buffer.append("s", "p", [Record(b"k", value + b"new", FAMILY)])
    assert newest > after[-1].seq
    entries = read_all(buffer, lease)
    assert entries[-1].epoch not in {before[0].epoch, after[0].epoch}
    with buffer.snapshot() as view:
        assert view.latest("s", "p", [b"k"])[b"k"].seq == newest
        assert len(view.scan("s", "p", b"k")) == 5
    buffer.release([lease])
    with pytest.raises(LeaseLost):
        buffer.renew_epoch(lease, beyond=0, replayed=False)


def test_a_token_is_raised_beyond_one_that_the_sink_saw(buffer: Buffer) -> None:
    put(buffer)
    lease = take(buffer).lease
    raised = buffer.raise_token(lease, beyond=lease.token + 1_000_000)
    assert raised is not None
    assert raised.token > lease.token + 1_000_000
    assert buffer.raise_token(lease, beyond=0) is None, "it is the other one now"
    assert buffer.ack([Ack(lease, [])]) == [lease]
    assert buffer.ack([Ack(raised, read_all(buffer, raised), release=True)]) == []
    put(buffer)
    assert take(buffer).lease.token > raised.token


def test_a_buffer_knows_its_database(house: BufferHouse) -> None:
    buffer = house.open(keep_s=KEEP_S)
    assert buffer.binding() is None
    binding = Binding("postgresql://h/d", "id", "system", 5)
    buffer.bind(binding)
    assert house.open().binding() == binding
    put(buffer, "p", b"1")
    acknowledge(buffer, 1)
    assert len(buffer.marks(limit=9)) == 1
    moved = binding._replace(address="postgresql://other/d")
    buffer.bind(moved, forget_marks=True)
    assert (buffer.binding(), buffer.marks(limit=9)) == (moved, [])
    rewound = buffer.rewind("s", "p", {})
    assert rewound is not None
    assert rewound.entries == 0
