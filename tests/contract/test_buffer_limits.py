"""What a full buffer does, and which entries no buffer takes."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest

from support.buffers import (
    BAD,
    BufferHouse,
    drain,
    put,
    take,
    values,
)
from surgetank.buffer.protocol import Buffer
from surgetank.exceptions import BufferFull, BufferUnavailable, EntryRejected
from surgetank.model import Record


@pytest.mark.parametrize("limit", [{"max_entries": 3}, {"max_bytes": 30}])
@pytest.mark.parametrize("how", ["reject", "no wait"])
def test_at_the_limit_an_append_raises_at_once_and_nothing_is_accepted(
    house: BufferHouse, limit: dict[str, Any], how: str
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
