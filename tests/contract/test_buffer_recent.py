"""What every buffer promises about copies (`surgetank.buffer.copies`)."""

from __future__ import annotations

from support.buffers import put, read_all, take
from surgetank.buffer.coordination import Ack
from surgetank.buffer.copies import Glance, RecentLimits
from surgetank.buffer.protocol import Buffer
from surgetank.model import CopyChange, Keeper, OldCopy, Record


def weight(parts: dict[bytes, bytes]) -> int:
    return sum(len(key) + len(value) for key, value in parts.items())


def keeping(mark: bytes = b"m", **parts: bytes) -> Keeper:
    """A keeper that makes the copy just these parts."""
    put = {key.encode(): value for key, value in parts.items()}
    return lambda _: CopyChange(mark, weight(put), put, clear=True)


def flush(buffer: Buffer, partition: str, keep: Keeper | None) -> None:
    put(buffer, partition)
    lease = take(buffer, partition).lease
    assert buffer.ack([Ack(lease, read_all(buffer, lease), keep=keep, release=True)]) == []


def copy(buffer: Buffer, partition: str = "p") -> Glance:
    with buffer.snapshot() as snapshot:
        return snapshot.copy("s", partition)


def parts(buffer: Buffer, *keys: bytes, partition: str = "p") -> dict[bytes, bytes]:
    with buffer.snapshot() as snapshot:
        return snapshot.copied("s", partition, keys)


def test_a_copy_is_there_with_the_acknowledgement(buffer):
    assert copy(buffer).mark is None
    flush(buffer, "p", keeping(b"one", a=b"1", b=b"2"))
    assert copy(buffer).mark == b"one"
    assert parts(buffer, b"a", b"b", b"c") == {b"a": b"1", b"b": b"2"}
    with buffer.snapshot() as snapshot:
        assert snapshot.copied_keys("s", "p", b"") == [b"a", b"b"]


def test_a_keeper_sees_the_copy_and_changes_parts_of_it(buffer):
    flush(buffer, "p", keeping(b"one", a=b"1", b=b"22", keep=b"k"))
    seen: list[object] = []

    def change(old: OldCopy) -> CopyChange:
        seen.extend([old.mark, old.get(b"a"), old.get(b"x"), old.keys(b"")])
        return CopyChange(b"two", 2 - 3, {b"a": b"111"}, [b"b"])

    flush(buffer, "p", change)
    assert seen == [b"one", b"1", None, [b"a", b"b", b"keep"]]
    assert (copy(buffer).mark, parts(buffer, b"a", b"b", b"keep")) == (
        b"two",
        {b"a": b"111", b"keep": b"k"},
    )
    assert buffer.copies_held() == (1, weight({b"a": b"111", b"keep": b"k"}))


def test_acknowledged_without_a_keeper_a_partition_has_no_copy(buffer):
    for keep in (None, lambda _: None):
        flush(buffer, "p", keeping(a=b"1"))
        flush(buffer, "p", keep)
        assert (copy(buffer).mark, parts(buffer, b"a"), buffer.copies_held()) == (None, {}, (0, 0))


def test_a_lost_lease_changes_no_copy(house, buffer):
    flush(buffer, "p", keeping(b"one", a=b"1"))
    put(buffer)
    lost = take(buffer, ttl_s=1.0).lease
    entries = read_all(buffer, lost)
    house.clock.advance(2.0)
    take(buffer)
    assert buffer.ack([Ack(lost, entries, keep=keeping(b"two", a=b"2"))]) == [lost]
    assert (copy(buffer).mark, parts(buffer, b"a")) == (b"one", {b"a": b"1"})


def test_an_entry_that_deletes_the_partition_takes_the_copy_along_at_once(buffer):
    flush(buffer, "p", keeping(a=b"1"))
    flush(buffer, "other", keeping(a=b"1"))
    buffer.append("s", "p", [Record(b"!", b"")], start_guarding=True)
    assert (copy(buffer).mark, copy(buffer, "other").mark) == (None, b"m")
    assert parts(buffer, b"a") == {}


def test_what_a_reader_brings_is_kept_with_its_notes(buffer):
    change = CopyChange(b"read", 2, {b"a": b"1"})
    assert buffer.keep_copy("s", "p", copy(buffer), change, notes={b"head": b"7"})
    assert (copy(buffer).mark, parts(buffer, b"a")) == (b"read", {b"a": b"1"})
    with buffer.snapshot() as snapshot:
        assert snapshot.notes("s", "p") == {b"head": b"7"}
        assert snapshot.partitions("s") == []
    assert buffer.states() == []


def test_what_a_reader_brings_is_not_kept_when_something_came_in_between(buffer):
    change = CopyChange(b"read", 2, {b"a": b"1"})
    new = copy(buffer)
    put(buffer)
    assert not buffer.keep_copy("s", "p", new, change, notes={})
    lease = take(buffer).lease
    buffer.ack([Ack(lease, read_all(buffer, lease), release=True)])
    # nothing waits, but it was flushed since
    assert not buffer.keep_copy("s", "p", new, change, notes={})
    seen = copy(buffer)
    assert buffer.keep_copy("s", "p", seen, change, notes={})
    assert not buffer.keep_copy("s", "p", seen, change, notes={})  # another reader was first
    assert copy(buffer).mark == b"read"


def test_copies_that_were_of_use_longest_ago_make_room(house):
    buffer = house.open(recent=RecentLimits(max_bytes=1000))
    for name in ("old", "used", "new"):
        flush(buffer, name, keeping(a=bytes(240)))
        house.clock.advance(10)
    buffer.use_copy("s", "old")
    for number in range(2):
        house.clock.advance(10)
        flush(buffer, f"n{number}", keeping(a=bytes(240)))
    assert copy(buffer, "old").mark is not None
    assert copy(buffer, "used").mark is None
    assert copy(buffer, "n1").mark is not None
    assert buffer.copies_held().bytes <= 1000


def test_one_copy_never_takes_more_than_its_share(house):
    buffer = house.open(recent=RecentLimits(max_bytes=1000))
    flush(buffer, "small", keeping(a=b"1"))
    flush(buffer, "large", keeping(a=bytes(900)))
    assert not buffer.keep_copy(
        "s", "x", copy(buffer, "x"), CopyChange(b"m", 901, {b"a": bytes(900)}), notes={}
    )
    assert (copy(buffer, "large").mark, copy(buffer, "small").mark) == (None, b"m")


def test_copies_age(house):
    buffer = house.open()
    flush(buffer, "p", keeping(a=b"1"))
    house.clock.advance(buffer.recent.max_age_s - 1)
    flush(buffer, "q", keeping(a=b"1"))
    buffer.trim_copies()
    assert buffer.copies_held().copies == 2
    house.clock.advance(2)
    buffer.trim_copies()
    assert (copy(buffer, "p").mark, copy(buffer, "q").mark) == (None, b"m")


def test_copies_make_room_for_what_waits(house):
    buffer = house.open(max_bytes=2000)
    flush(buffer, "p", keeping(a=bytes(300)))
    flush(buffer, "q", keeping(a=bytes(300)))
    put(buffer, "r", bytes(1900))
    buffer.trim_copies()
    assert buffer.copies_held() == (0, 0)


def test_a_buffer_without_room_for_copies_keeps_none(house):
    buffer = house.open(recent=RecentLimits(max_bytes=0))
    flush(buffer, "p", keeping(a=b"1"))
    assert not buffer.keep_copy(
        "s", "x", copy(buffer, "x"), CopyChange(b"m", 2, {b"a": b"1"}), notes={}
    )
    assert buffer.copies_held() == (0, 0)


def test_copies_are_found_by_name_and_dropped_by_mark(buffer):
    for name in ("a", "b", "c"):
        flush(buffer, name, keeping(name.encode(), x=b"1"))
    assert buffer.copies("s", limit=2) == [("a", b"a"), ("b", b"b")]
    assert buffer.copies("s", after="b") == [("c", b"c")]
    assert (
        buffer.drop_copies("s", {"a": b"another mark", "b": b"b", "c": None, "unknown": None}) == 2
    )
    assert buffer.copies("s") == [("a", b"a")]


def test_all_copies_can_be_given_up_for_space(buffer):
    assert not buffer.shed_copies()
    flush(buffer, "p", keeping(a=b"1"))
    assert buffer.shed_copies()
    assert (buffer.copies_held(), copy(buffer).mark) == ((0, 0), None)


def test_housekeeping_keeps_copies_and_the_partitions_that_they_belong_to(house, buffer):
    flush(buffer, "p", keeping(a=b"1"))
    house.clock.advance(60.0)
    buffer.maintain()
    assert (copy(buffer).mark, parts(buffer, b"a")) == (b"m", {b"a": b"1"})


def test_every_process_sees_a_copy(house, buffer):
    flush(buffer, "p", keeping(b"one", a=b"1"))
    answer = house.in_another_process(
        "with buffer.snapshot() as s:\n"
        "    answer = [s.copy('s', 'p').mark.decode(), s.copied('s', 'p', [b'a'])[b'a'].decode()]"
    )
    assert answer == ["one", "1"]
