"""What `Log.try_append` promises an event loop."""

from __future__ import annotations

import pytest

from support.buffers import (
    BufferHouse,
    append_soon,
    put,
    read_all,
    take,
    values,
)
from surgetank.buffer.protocol import Buffer
from surgetank.exceptions import BufferFull, BufferUnavailable, EntryRejected, LeaseLost
from surgetank.model import Record


def test_an_append_that_must_not_wait_is_like_any_other_where_nobody_holds_the_buffer(
    buffer: Buffer,
) -> None:
    first = put(buffer, "p", b"1")
    second = append_soon(buffer, "s", "p", [Record(b"k", b"2")])
    assert second > first
    assert values(read_all(buffer, take(buffer).lease)) == [b"1", b"2"]
    with pytest.raises(EntryRejected):
        buffer.try_append("s", "p", [])
    with pytest.raises(EntryRejected):
        buffer.try_append("s", "\ud800", [Record(b"k", b"2")])


def test_an_append_that_must_not_wait_asks_its_guard(buffer: Buffer) -> None:
    buffer.append("s", "p", [Record(b"!", b"")], start_guarding=True)
    records = [Record(b"k", b"2")], [Record(b"k", b"3")]
    assert append_soon(buffer, "s", "p", records[0], guard=lambda _: {b"note": b""}) == 0
    assert append_soon(buffer, "s", "p", records[1], guard=lambda _: None) > 0
    assert values(read_all(buffer, take(buffer).lease)) == [b"", b"3"]


def test_an_append_that_must_not_wait_returns_none_while_another_process_holds_the_buffer(
    house: BufferHouse,
) -> None:
    buffer = house.open()
    put(buffer, "p", b"1")
    with house.held():
        assert buffer.try_append("s", "p", [Record(b"k", b"2")]) is None
        assert buffer.depth().entries == 1
    assert (buffer.try_append("s", "p", [Record(b"k", b"3")]) is not None) == house.at_once
    append_soon(buffer, "s", "p", [Record(b"k", b"4")])
    expected = [b"1", b"3", b"4"] if house.at_once else [b"1", b"4"]
    assert values(read_all(buffer, take(buffer).lease)) == expected


def test_an_append_that_must_not_wait_is_refused_at_the_limit_at_once(house: BufferHouse) -> None:
    buffer = house.open(max_entries=1, when_full="block", block_timeout_s=1000.0)
    assert append_soon(buffer, "s", "p", [Record(b"k", b"1")]) > 0
    with pytest.raises(BufferFull):
        append_soon(buffer, "s", "p", [Record(b"k", b"2")])


def test_an_append_that_must_not_wait_says_that_the_buffer_is_closed(buffer: Buffer) -> None:
    buffer.close()
    with pytest.raises(BufferUnavailable):
        buffer.try_append("s", "p", [Record(b"k", b"1")])


def test_a_fence_that_must_not_wait_is_raised_unless_another_process_holds_the_buffer(
    house: BufferHouse,
) -> None:
    buffer = house.open()
    with house.held():
        assert not buffer.try_raise_fence("s", "p", 5)
    assert buffer.append("s", "p", [Record(b"k", b"1")], fence=4) > 0
    for _ in range(2):
        assert buffer.try_raise_fence("s", "p", 5) == house.at_once
        buffer.raise_fence("s", "p", 5)
    with pytest.raises(LeaseLost):
        buffer.append("s", "p", [Record(b"k", b"2")], fence=4)
    if house.at_once:
        with pytest.raises(LeaseLost):
            buffer.try_raise_fence("s", "p", 4)
