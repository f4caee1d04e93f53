"""Many threads on one buffer, and its end among them."""

from __future__ import annotations

import threading
from collections import defaultdict

import pytest

from support.buffers import (
    BAD,
    DOWN,
    BufferHouse,
    FakeClock,
    drain,
    job,
    put,
    read_all,
    take,
    values,
    wait_until,
)
from surgetank.buffer.coordination import Ack
from surgetank.buffer.log import Snapshot
from surgetank.buffer.protocol import Buffer
from surgetank.exceptions import BufferUnavailable, EntryRejected
from surgetank.model import Record

# -- closing


def test_closing_twice_is_closing_once(buffer: Buffer) -> None:
    buffer.close()
    buffer.close()


def test_a_closed_buffer_says_so_and_what_to_do(buffer: Buffer, clock: FakeClock) -> None:
    seq = put(buffer)
    lease = take(buffer).lease
    buffer.close()
    uses = [
        lambda: put(buffer), lambda: buffer.snapshot().__enter__(), lambda: take(buffer),
        lambda: buffer.renew([lease], ttl_s=1), lambda: buffer.release([lease]), lambda: read_all(buffer, lease),
        lambda: buffer.ack([Ack(lease, [])]), lambda: buffer.park(lease, seq, BAD),
        lambda: buffer.postpone(lease, attempts=1, next_attempt_at=0, failure=DOWN), buffer.parked,
        lambda: buffer.parked_entry(1), lambda: buffer.unpark([1]), buffer.states,
        lambda: buffer.state("s", "p"), lambda: buffer.last_seq("s"), lambda: buffer.waiting("s", up_to_seq=1),
        buffer.retry_now, buffer.depth, lambda: buffer.save_job(job("1", 1.0)),
        lambda: buffer.job("1"), buffer.jobs, buffer.maintain,
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(BufferUnavailable, match=r"is closed.*Way out: open Surgetank again"):
            use()


def test_closing_while_others_append_loses_nothing_that_was_accepted(house: BufferHouse) -> None:
    buffer = house.open()
    accepted: list[int] = []
    refused = threading.Semaphore(0)

    def work() -> None:
        try:
            while True:
                accepted.append(put(buffer))
        except BufferUnavailable:
            refused.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(accepted) >= 200)
    buffer.close()
    for thread in threads:
        thread.join(10)
        assert refused.acquire(blocking=False)
    assert [e.seq for e in drain(house.open())] == sorted(accepted)


# -- many threads


def test_sixteen_threads_append_at_once_and_every_entry_is_there_in_each_threads_order(
    house: BufferHouse,
) -> None:
    buffers = [house.open(), house.open()]
    returned: dict[int, list[int]] = defaultdict(list)
    start = threading.Barrier(16)

    def work(me: int) -> None:
        start.wait()
        for i in range(60):
            seq = put(buffers[me % 2], f"p{i % 3}", b"%d:%d" % (me, i))
            returned[me].append(seq)

    threads = [threading.Thread(target=work, args=(me,)) for me in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert all(seqs == sorted(seqs) for seqs in returned.values())
    everything = [seq for seqs in returned.values() for seq in seqs]
    assert len(set(everything)) == 16 * 60
    entries = drain(buffers[0])
    by_seq = {e.seq: values([e])[0] for e in entries}
    assert by_seq == {
        seq: b"%d:%d" % (me, i) for me, seqs in returned.items() for i, seq in enumerate(seqs)
    }
    assert buffers[1].depth().entries == buffers[1].depth().bytes == 0


def test_one_append_that_is_refused_in_a_crowd_spares_its_neighbours(house: BufferHouse) -> None:
    buffer = house.open()
    buffer.append("s", "guarded", [Record(b"k", b"")], start_guarding=True)
    entered, go = threading.Event(), threading.Event()
    outcomes: dict[str, object] = {}

    def holding(view: Snapshot) -> None:
        entered.set()
        go.wait(20)

    def broken(view: Snapshot) -> None:
        raise RuntimeError("broken guard")

    def work(name: str, records: list[Record], guard: object = None) -> None:
        try:
            outcomes[name] = buffer.append("s", name.split("-")[0], records, guard=guard)  # type: ignore[arg-type]
        except Exception as error:
            outcomes[name] = error

    good = [Record(b"k", b"v")]
    threads = [threading.Thread(target=work, args=("guarded-slow", good, holding))]
    threads[0].start()
    assert entered.wait(20)
    threads += [threading.Thread(target=work, args=(f"good{i}", good)) for i in range(5)]
    threads += [threading.Thread(target=work, args=("guarded-broken", good, broken))]
    threads += [threading.Thread(target=work, args=("\ud800", good))]
    threads += [threading.Thread(target=work, args=(f"more{i}", good)) for i in range(5)]
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(20)

    assert isinstance(outcomes.pop("guarded-broken"), RuntimeError)
    assert isinstance(outcomes.pop("\ud800"), EntryRejected)
    assert all(isinstance(seq, int) and seq > 0 for seq in outcomes.values()), outcomes
    assert len(drain(buffer)) == len(outcomes) + 1
    assert buffer.depth().entries == 0
