"""What `Log` promises of entries that were accepted: order, visibility, lookups by key."""

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
from surgetank.buffer.coordination import Ack
from surgetank.buffer.protocol import Buffer
from surgetank.model import Record

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
