"""What `Log.append` promises where a partition was deleted: guards are asked."""

from __future__ import annotations

import pytest

from support.buffers import (
    FakeClock,
    drain,
    notes,
    put,
    read_all,
    take,
    values,
)
from surgetank.buffer.coordination import NOTE_TTL_S, Ack
from surgetank.buffer.log import Snapshot
from surgetank.buffer.protocol import Buffer
from surgetank.model import Record


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
