"""What `Log` promises of fences: a partition has one writer, and an older one can't write any more."""

from __future__ import annotations

import threading

import pytest

from support.buffers import BAD, BufferHouse, FakeClock, append_soon, drain, read_all, take, values
from surgetank.buffer.protocol import Buffer
from surgetank.exceptions import BufferFull, LeaseLost
from surgetank.model import Record

DAY = 86_400.0


def write(buffer: Buffer, fence: int | None, value: bytes = b"v", partition: str = "p") -> int:
    return buffer.append("s", partition, [Record(b"k", value)], fence=fence)


def test_an_older_writer_is_refused_and_nothing_of_it_is_accepted(buffer: Buffer) -> None:
    assert write(buffer, 7, b"1") > 0
    assert write(buffer, 7, b"2") > 0
    assert write(buffer, 8, b"3") > 0
    before = buffer.depth()
    for _ in range(2):
        with pytest.raises(LeaseLost, match="'p' is written by a newer run"):
            write(buffer, 7, b"late")
        with pytest.raises(LeaseLost):
            append_soon(buffer, "s", "p", [Record(b"k", b"late")], fence=7)
    assert buffer.depth() == before
    assert values(drain(buffer)) == [b"1", b"2", b"3"]


def test_writers_without_a_fence_are_never_refused_for_it(buffer: Buffer) -> None:
    write(buffer, 8)
    assert write(buffer, None) > 0
    assert append_soon(buffer, "s", "p", [Record(b"k", b"2")]) > 0


def test_fences_of_partitions_and_streams_have_nothing_to_do_with_each_other(
    buffer: Buffer,
) -> None:
    write(buffer, 8)
    assert write(buffer, 1, partition="q") > 0
    assert buffer.append("other", "p", [Record(b"k", b"v")], fence=1) > 0


def test_a_raised_fence_refuses_at_once_also_where_nothing_was_written(buffer: Buffer) -> None:
    buffer.raise_fence("s", "p", 5)
    with pytest.raises(LeaseLost):
        write(buffer, 4)
    assert write(buffer, 5) > 0
    buffer.raise_fence("s", "p", 5)
    with pytest.raises(LeaseLost):
        buffer.raise_fence("s", "p", 4)
    assert buffer.depth().entries == 1
    assert buffer.states() != []


def test_a_partition_that_only_has_a_fence_does_not_wait_for_anything(buffer: Buffer) -> None:
    buffer.raise_fence("s", "p", 5)
    assert buffer.depth().entries == 0
    assert drain(buffer) == []


def test_the_fence_outlives_the_entries_the_process_and_the_deletion_of_the_partition(
    house: BufferHouse, clock: FakeClock
) -> None:
    buffer = house.open()
    write(buffer, 8)
    buffer.append("s", "p", [Record(b"k", b"gone")], start_guarding=True)
    drain(buffer)
    clock.advance(29 * DAY)
    buffer.maintain()
    answer = house.in_another_process(
        "from surgetank.exceptions import LeaseLost\n"
        "try:\n"
        "    answer = buffer.append('s', 'p', [Record(b'k', b'late')], fence=7)\n"
        "except LeaseLost:\n"
        "    answer = 'refused'\n"
    )
    assert answer == "refused"
    with pytest.raises(LeaseLost):
        write(house.open(), 7)
    assert write(buffer, 8) > 0


def test_a_fence_raised_by_another_process_holds_in_this_one(house: BufferHouse) -> None:
    buffer = house.open()
    write(buffer, 7)
    house.in_another_process("buffer.raise_fence('s', 'p', 8); answer = 0")
    with pytest.raises(LeaseLost):
        write(buffer, 7)


def test_fences_are_forgotten_in_the_end(buffer: Buffer, clock: FakeClock) -> None:
    write(buffer, 8)
    drain(buffer)
    buffer.raise_fence("s", "empty", 8)
    clock.advance(31 * DAY)
    buffer.maintain()
    assert write(buffer, 7) > 0
    assert write(buffer, 7, partition="empty") > 0


def test_erasing_a_partition_forgets_its_fence(buffer: Buffer) -> None:
    write(buffer, 8)
    drain(buffer)
    assert buffer.erase(["p"], []) == (1, [])
    assert write(buffer, 7) > 0


def test_an_older_writer_beside_others_of_a_group_is_refused_alone(house: BufferHouse) -> None:
    """The appends of threads are committed together: none pays for another's fence."""
    buffer = house.open()
    write(buffer, 8)
    results: dict[str, object] = {}

    def writing(name: str, fence: int | None, partition: str) -> None:
        try:
            results[name] = write(buffer, fence, partition=partition)
        except LeaseLost:
            results[name] = "refused"

    threads = [
        threading.Thread(target=writing, args=(f"{fence}/{partition}/{number}", fence, partition))
        for number in range(10)
        for fence, partition in ((7, "p"), (8, "p"), (None, "p"), (1, "q"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name for name, result in results.items() if result == "refused"} == {
        f"7/p/{number}" for number in range(10)
    }
    assert buffer.depth().entries == 31


def test_a_full_buffer_refuses_an_older_writer_as_such(house: BufferHouse) -> None:
    buffer = house.open(max_entries=1)
    write(buffer, 8)
    with pytest.raises(BufferFull):
        write(buffer, 9)
    with pytest.raises(LeaseLost):
        write(buffer, 7)


def test_what_is_taken_back_and_tried_again_needs_no_fence(buffer: Buffer) -> None:
    """It was accepted before; that its writer has been followed by another one changes nothing."""
    write(buffer, 7, b"parked")
    lease = take(buffer).lease
    (entry,) = read_all(buffer, lease)
    buffer.park(lease, entry.seq, BAD)
    buffer.release([lease])
    write(buffer, 8, b"newer")
    (parked,) = buffer.parked()
    buffer.unpark([parked.id])
    assert sorted(values(drain(buffer))) == [b"newer", b"parked"]
