"""No partition waits for another one to be done: whoever comes has its turn at once, in a group
that all share."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support.flushing import Plant
from surgetank.buffer.coordination import Due
from surgetank.exceptions import EntryUnreadable
from surgetank.flush.policy import StreamPolicy
from surgetank.flush.rotation import Rotation
from surgetank.flush.run import Run
from surgetank.model import JobStatus
from surgetank.sinks.protocol import Slice

SHARED_DUE = Due(force=True)
SHARED = StreamPolicy(
    entries=1, age_s=0.0, batch_entries=20, share_entries=5, batch_bytes=4000, share_bytes=1000
)


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with Plant(tmp_path) as plant:
        yield plant


def none_unreadable(run: Run, error: EntryUnreadable) -> None:
    raise error


def names(group: list[tuple[str, list[int]]]) -> list[str]:
    return [name for name, _ in group]


def test_a_small_thread_that_comes_while_a_huge_one_is_flushed_is_in_the_next_group(
    plant: Plant,
) -> None:
    for i in range(500):
        plant.put("huge", key=b"%d" % i)

    def late(call: int, slices: Sequence[Slice]) -> None:
        if call == 3:
            plant.put("late")

    plant.sink.faults = [late]
    job = plant.flusher(policy=SHARED).run_if_due(threading.Event())
    assert job is not None
    assert job.ok
    assert [names(group) for group in plant.sink.groups[:4]] == [["huge"]] * 3 + [["late", "huge"]]
    assert len(plant.sink.groups) == 26
    assert job.result["partitions_processed"] == 2


def test_many_huge_threads_leave_room_for_a_small_one_in_each_round(plant: Plant) -> None:
    for i in range(100):
        for number in range(8):
            plant.put(f"huge{number}", key=b"%d" % i)
    plant.put("small")
    assert plant.flusher(policy=SHARED).run("manual").ok
    # Nine partitions with a share of five each, twenty entries a group: three groups until each had
    # its turn.
    first = next(i for i, group in enumerate(plant.sink.groups) if "small" in names(group))
    assert first <= 2
    assert all(
        plant.sink.arrivals[f"huge{n}"] == sorted(plant.sink.arrivals[f"huge{n}"]) for n in range(8)
    )
    assert sum(len(seqs) for seqs in plant.sink.arrivals.values()) == 801


def test_large_entries_share_a_group_by_their_bytes(plant: Plant) -> None:
    for name in ("a", "b", "c"):
        for i in range(10):
            plant.put(name, b"x" * 900, key=b"%d" % i)
    plant.flusher(policy=SHARED).run("manual")
    assert names(plant.sink.groups[0]) == ["a", "b", "c"]
    assert max(plant.sink.sizes) < SHARED.batch_bytes + 901


def test_what_room_is_left_goes_to_those_that_have_more(plant: Plant) -> None:
    for i in range(30):
        plant.put("huge", key=b"%d" % i)
    plant.put("small")
    leased = plant.buffer.lease("s", SHARED_DUE, owner="w", ttl_s=15.0)
    group, _ = Rotation(plant.buffer, SHARED, leased, none_unreadable).next_group()
    assert {s.lease.partition: len(s.entries) for s in group} == {"huge": 19, "small": 1}
    assert [e.seq for e in group[0].entries] == sorted(e.seq for e in group[0].entries)


def test_a_scheduled_job_ends_after_a_while_and_the_next_one_goes_on(plant: Plant) -> None:
    for i in range(200):
        plant.put("huge", key=b"%d" % i)
    plant.sink.faults = [lambda call, slices: plant.clock.advance(2.0)]
    flusher = plant.flusher(policy=SHARED)
    first = flusher.run_if_due(threading.Event())
    assert first is not None
    assert first.status is JobStatus.COMPLETED
    assert len(plant.sink.groups) == 3
    assert plant.waiting() == {"huge": 140}
    jobs = [flusher.run_if_due(threading.Event()) for _ in range(3)]
    assert all(job is not None and job.ok for job in jobs)
    assert plant.waiting() == {}


def test_a_job_leases_a_groups_worth_of_which_each_has_a_turn_also_when_its_time_is_over(
    plant: Plant,
) -> None:
    for number in range(12):
        for i in range(50):
            plant.put(f"huge{number}", key=b"%d" % i)
    plant.sink.faults = [lambda call, slices: plant.clock.advance(100.0)]
    first = plant.flusher(policy=SHARED, lease_ttl_s=1e6)
    first.run_if_due(threading.Event())
    assert {name: len(seqs) for name, seqs in plant.sink.arrivals.items()} == dict.fromkeys(
        (f"huge{n}" for n in range(4)), 5
    )


def test_what_a_worker_cannot_write_soon_is_left_to_others(plant: Plant) -> None:
    for number in range(60):
        plant.put(f"small{number}", key=b"1")

    def beside(call: int, slices: Sequence[Slice]) -> None:
        if call == 1:
            other = Due(force=True, limit=1000)
            left = plant.buffer.lease("s", other, owner="other", ttl_s=15.0)
            assert len(left) == 40
            plant.buffer.release([x.lease for x in left])

    plant.sink.faults = [beside]
    job = plant.flusher(policy=SHARED).run_if_due(threading.Event())
    assert job is not None
    assert job.ok
    assert len(plant.sink.arrivals) == 60


def test_a_lease_that_ran_out_and_was_taken_again_by_the_same_job_goes_on(plant: Plant) -> None:
    seqs = [plant.put("p", key=b"%d" % i) for i in range(60)]
    plant.sink.faults = [lambda call, slices: plant.clock.advance(60.0) if call == 1 else None]
    policy = StreamPolicy(entries=1, age_s=0.0, batch_entries=20, job_s=1e6)
    job = plant.flusher(policy=policy).run_if_due(threading.Event())
    assert job is not None
    while plant.waiting():
        plant.flusher(policy=policy).run_if_due(threading.Event())
    assert plant.sink.arrivals["p"] == seqs
