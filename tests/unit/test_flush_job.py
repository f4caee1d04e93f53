"""A whole flush job: taking turns, waiting for others, stopping, heartbeats, listeners."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from support.buffers import FakeClock, read_all, take, wait_until
from support.flushing import Plant, Told
from support.memory_sink import Switch, refuse_hostile
from surgetank.buffer.coordination import Ack
from surgetank.flush.events import EntryParked, FlushEvent, JobFinished, Listeners, PartitionFailed
from surgetank.flush.policy import StreamPolicy
from surgetank.model import FlushJob, JobStatus, Lease
from surgetank.sinks.protocol import Slice

TTL_S = 15.0


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with Plant(tmp_path) as plant:
        yield plant


class TickingStop(threading.Event):
    """A stop event that nobody sets: waiting for it moves the fake clock instead of taking time."""

    def __init__(
        self, clock: FakeClock, on_tick: Callable[[int], None] = lambda tick: None
    ) -> None:
        super().__init__()
        self.ticks = 0
        self._clock = clock
        self._on_tick = on_tick

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.ticks += 1
        self._clock.advance(timeout)
        self._on_tick(self.ticks)
        return self.is_set()


# -- taking turns


def test_a_huge_partition_does_not_starve_small_ones(plant: Plant) -> None:
    for i in range(500):
        plant.put("huge", b"x" * 100, key=b"%d" % i)
    for i in range(50):
        plant.put(f"small{i}")
    policy = StreamPolicy(entries=1, batch_entries=50)
    job = plant.flusher(policy=policy).run("manual")
    assert job.ok
    small = [i for i, (name, _) in enumerate(plant.sink.log) if name != "huge"]
    assert len(small) == 50
    assert max(small) < 200
    assert len(plant.sink.arrivals["huge"]) == 500


def test_a_group_never_holds_more_than_its_limits_and_one_entry(plant: Plant) -> None:
    rng = random.Random(7)
    sizes = [rng.choice([1, 10, 300, 2000]) for _ in range(300)]
    for size in sizes:
        plant.put(f"p{rng.randrange(6)}", bytes(size), key=b"")
    policy = StreamPolicy(entries=1, batch_entries=40, batch_bytes=4000)
    job = plant.flusher(policy=policy).run("manual")
    assert job.ok
    assert sum(plant.sink.sizes) == sum(sizes) == job.result["bytes"]
    assert max(plant.sink.sizes) < policy.batch_bytes + max(sizes)
    assert (
        max(sum(len(seqs) for _, seqs in group) for group in plant.sink.groups)
        <= policy.batch_entries
    )


def test_an_entry_larger_than_a_batch_arrives(plant: Plant) -> None:
    plant.put("p", bytes(10_000))
    plant.put("p", b"next")
    assert plant.flusher(policy=StreamPolicy(entries=1, batch_bytes=100)).run("manual").ok
    assert len(plant.sink.arrivals["p"]) == 2


def test_more_partitions_than_one_lease_call_takes_are_all_flushed(plant: Plant) -> None:
    for i in range(23):
        plant.put(f"p{i}")
    last = plant.buffer.last_seq("s")
    job = plant.flusher(policy=StreamPolicy(entries=1, batch_partitions=5)).run(
        "manual", up_to_seq=last
    )
    assert (job.ok, job.result["partitions_processed"]) == (True, 23)


def test_a_flush_of_more_partitions_than_one_lease_takes_ends_when_the_sink_is_down(
    plant: Plant,
) -> None:
    """It leased those that had just failed again and again, for twice the time of a lease."""
    for i in range(7):
        plant.put(f"p{i}")

    def down(call: int, slices: Sequence[Slice]) -> None:
        raise ConnectionError("down")

    plant.sink.faults = [down]
    stop = TickingStop(plant.clock)
    job = plant.flusher(policy=StreamPolicy(entries=1, batch_partitions=2)).run(
        "manual", up_to_seq=plant.buffer.last_seq("s"), stop=stop
    )
    assert (job.status, job.result["partitions_failed"]) == (JobStatus.FAILED, 7)
    assert stop.ticks == 0, "nothing was waited for"
    assert plant.sink.calls == 2, "the breaker opens at the second"


def test_what_is_accepted_during_a_flush_is_neither_lost_nor_waited_for(plant: Plant) -> None:
    late: list[int] = []

    def append(call: int, slices: Sequence[Slice]) -> None:
        if call <= 3:
            late.append(plant.put("p", b"late"))

    plant.sink.faults = [append]
    first = plant.put("p")
    job = plant.flusher().run("manual", up_to_seq=first)
    assert job.ok
    assert job.result["partitions_processed"] == 1
    plant.flusher().run("manual")
    plant.flusher().run("manual")
    assert plant.sink.arrivals["p"] == [first, *late]


# -- waiting for another worker


def test_a_flush_waits_until_another_worker_gives_the_partition_back(plant: Plant) -> None:
    seq = plant.put("held")
    other = take(plant.buffer, owner="other", ttl_s=60).lease
    stop = TickingStop(plant.clock, lambda tick: plant.buffer.release([other] if tick == 5 else []))
    job = plant.flusher(lease_ttl_s=TTL_S).run("manual", up_to_seq=seq, stop=stop)
    assert job.ok
    assert stop.ticks == 5
    assert plant.sink.arrivals["held"] == [seq]


def test_a_flush_is_done_when_another_worker_has_flushed_the_partition(plant: Plant) -> None:
    seq = plant.put("held")
    mine = plant.put("mine")
    other = take(plant.buffer, "held", owner="other", ttl_s=60).lease

    def finish(tick: int) -> None:
        if tick == 3:
            plant.buffer.ack([Ack(other, read_all(plant.buffer, other), release=True)])

    stop = TickingStop(plant.clock, finish)
    job = plant.flusher(lease_ttl_s=TTL_S).run("manual", up_to_seq=max(seq, mine), stop=stop)
    assert job.ok
    assert stop.ticks == 3
    assert job.result["rows_flushed"] == 1


@pytest.mark.parametrize("others", [False, True])
def test_a_partition_that_does_not_come_free_is_reported(plant: Plant, others: bool) -> None:
    seq = plant.put("held")
    if others:
        seq = plant.put("mine")
    lease = take(plant.buffer, "held", owner="other", ttl_s=TTL_S).lease

    def renew(_: int) -> None:
        plant.buffer.renew([lease], ttl_s=TTL_S)

    stop = TickingStop(plant.clock, renew)
    started = plant.clock.now

    job = plant.flusher(lease_ttl_s=TTL_S).run("manual", up_to_seq=seq, stop=stop)

    assert plant.clock.now - started == pytest.approx(2 * TTL_S, abs=0.1)
    (error,) = job.result["errors"]
    assert (error["partition"], error["kind"], error["error_type"]) == (
        "held",
        "transient",
        "StillWaiting",
    )
    assert "held by other" in error["message"]
    assert not job.ok
    assert job.status is (JobStatus.COMPLETED if others else JobStatus.FAILED)
    assert plant.waiting() == {"held": 1}


def test_a_flush_into_a_dead_sink_fails_at_once(plant: Plant) -> None:
    plant.sink.faults = [Switch(lambda: ConnectionRefusedError("refused"))]
    for i in range(10):
        plant.put(f"p{i}")
    stop = TickingStop(plant.clock)
    flusher = plant.flusher(policy=StreamPolicy(entries=1, batch_entries=2))
    job = flusher.run("manual", up_to_seq=plant.buffer.last_seq("s"), stop=stop)
    assert job.status is JobStatus.FAILED
    assert job.result["partitions_failed"] == 10
    assert (stop.ticks, plant.sink.calls) == (0, 2)


def test_a_lost_lease_does_not_hide_a_partition_that_was_left_behind(plant: Plant) -> None:
    def lose(call: int, slices: Sequence[Slice]) -> None:
        if call == 1:
            plant.clock.advance(60)
            lease = take(plant.buffer, "lost", owner="other").lease
            plant.buffer.ack([Ack(lease, read_all(plant.buffer, lease), release=True)])

    plant.sink.faults = [lose]
    for name in ("lost", "held", "mine"):
        plant.put(name)
    take(plant.buffer, "held", owner="other", ttl_s=500)
    job = plant.flusher(lease_ttl_s=TTL_S).run(
        "manual", up_to_seq=plant.buffer.last_seq("s"), stop=TickingStop(plant.clock)
    )
    assert plant.waiting() == {"held": 1}
    assert any(w.startswith("s/held:") for w in job.warnings)


def test_a_partition_that_the_job_was_not_asked_about_is_not_reported_as_left_behind(
    plant: Plant,
) -> None:
    asked = plant.put("held")
    plant.put("later")
    for name in ("held", "later"):
        take(plant.buffer, name, owner="other", ttl_s=500)
    job = plant.flusher(lease_ttl_s=TTL_S).run(
        "manual", up_to_seq=asked, stop=TickingStop(plant.clock)
    )
    assert [e["partition"] for e in job.result["errors"]] == ["held"]


# -- stopping and long writes


def test_stopping_finishes_the_group_that_is_written_and_gives_the_rest_back(plant: Plant) -> None:
    for i in range(9):
        plant.put(f"p{i}")
    last = plant.buffer.last_seq("s")
    plant.sink.gate = threading.Event()
    stop, jobs = threading.Event(), list[FlushJob]()
    flusher = plant.flusher(policy=StreamPolicy(entries=1, batch_entries=3))
    thread = threading.Thread(
        target=lambda: jobs.append(flusher.run("shutdown", up_to_seq=last, stop=stop))
    )
    thread.start()
    assert plant.sink.entered.wait(20)
    stop.set()
    plant.sink.gate.set()
    thread.join(20)

    (job,) = jobs
    assert plant.sink.calls == 1
    assert job.result["stopped"] is True
    assert (job.status, job.ok, job.result["rows_flushed"]) == (JobStatus.COMPLETED, False, 3)
    assert job.result["partitions_failed"] == 6
    assert len(plant.waiting()) == 6
    assert all(s.leased_by is None for s in plant.buffer.states())


def test_a_long_write_keeps_its_leases_and_its_job_alive(plant: Plant) -> None:
    plant.put("p")
    plant.sink.gate = threading.Event()
    flusher, jobs = plant.flusher(lease_ttl_s=0.06), list[FlushJob]()
    thread = threading.Thread(target=lambda: jobs.append(flusher.run("manual")))
    thread.start()
    assert plant.sink.entered.wait(20)

    def renewed() -> bool:
        state = plant.buffer.state("s", "p")
        assert state is not None
        (job,) = plant.buffer.jobs(status="running")
        now = plant.clock.now
        return state.lease_expires_at == now + 0.06 and job.result["heartbeat_at"] == now

    for _ in range(4):
        plant.clock.advance(0.04)
        wait_until(renewed)
    plant.sink.gate.set()
    thread.join(20)
    assert jobs[0].ok
    assert plant.waiting() == {}


def test_what_one_flush_learns_of_the_sink_is_not_lost_to_another_at_the_same_time(
    plant: Plant,
) -> None:
    """What was parked comes back when the sink turns out to take nothing, whoever flushes
    meanwhile."""
    flusher = plant.flusher()
    probes = count(1)

    def fault(call: int, slices: Sequence[Slice]) -> None:
        names = {part.lease.partition for part in slices}
        if call == 0:
            if next(probes) > 1:
                raise ValueError("takes nothing")
        elif names & {"b", "c", "d"}:
            if names == {"c", "d"}:
                plant.put("z")
                flusher.run("manual", partition="z")  # as another thread would
            raise ValueError("refused")

    plant.sink.faults = [fault]
    for name in "abcd":
        plant.put(name)
    flusher.run("manual")
    assert plant.buffer.parked() == []
    assert set(plant.waiting()) >= {"b", "c", "d"}


# -- records and listeners


def test_the_job_is_on_record_while_it_runs(plant: Plant) -> None:
    seen: list[FlushJob] = []
    plant.sink.faults = [lambda call, slices: seen.extend(plant.buffer.jobs())]
    plant.put("p")
    job = plant.flusher(node="n").run("manual")
    (running,) = seen
    assert (running.id, running.status, running.node) == (job.id, JobStatus.RUNNING, "n")
    assert running.result["heartbeat_at"] == running.started_at == plant.clock.now


def test_a_job_that_took_a_partition_twice_reports_it_once(plant: Plant) -> None:
    def append(call: int, slices: Sequence[Slice]) -> None:
        if call <= 2:
            plant.put("p")

    plant.sink.faults = [append]
    plant.put("p")
    job = plant.flusher().run("manual")
    assert (job.result["rows_flushed"], job.result["partitions_processed"]) == (3, 1)


def broken(event: FlushEvent) -> None:
    """A listener that fails as a hook with a misspelt name does."""
    raise AttributeError("no_such_name")


def test_a_listener_that_raises_stops_no_other_and_is_remembered(plant: Plant) -> None:
    plant.sink.faults = [refuse_hostile]
    told, late = Told(), Told()
    listeners = Listeners(broken, told.on_flush)
    listeners.add(broken)
    listeners.add(late.on_flush)
    plant.put("p", b"hostile")
    down = Switch(ConnectionError, partition="q", calls=range(99))
    job = plant.flusher(listener=listeners).run("manual")
    plant.sink.faults.append(down)
    plant.put("q")
    failed = plant.flusher(listener=listeners).run("manual")
    down.on = False
    recovered = plant.flusher(listener=listeners).run("manual")
    assert [j.id for j in told.jobs] == [job.id, failed.id, recovered.id]
    assert (len(told.parked), len(told.failed), len(told.recovered)) == (1, 1, 1)
    assert late == told
    assert len(listeners.failures) == 2 * 6
    assert listeners.failures[0] == ("broken", "EntryParked", "AttributeError('no_such_name')")


def test_remembered_failures_of_listeners_are_bounded(plant: Plant) -> None:
    listeners = Listeners(broken)
    event = JobFinished(plant.flusher().run("manual"))
    for _ in range(500):
        listeners(event)
    assert len(listeners.failures) == 100


def test_a_listener_hears_of_it_after_the_buffer_has_recorded_it(plant: Plant) -> None:
    at_that_time: list[object] = []

    def inspect(event: FlushEvent) -> None:
        match event:
            case PartitionFailed():
                at_that_time.append(plant.buffer.states(failing=True)[0].partition)
            case EntryParked(entry=entry):
                at_that_time.append(plant.buffer.parked() == [entry])
            case JobFinished(job=job):
                at_that_time.append(plant.buffer.job(job.id) == job)
            case _:
                raise AssertionError(event)

    plant.sink.faults = [refuse_hostile, Switch(ConnectionError, partition="q")]
    plant.put("p", b"hostile")
    plant.flusher(listener=inspect).run("manual", partition="p")
    plant.put("q")
    plant.flusher(listener=inspect).run("manual", partition="q")
    assert at_that_time == [True, True, "q", True]


def test_a_buffer_that_fails_during_a_flush_is_told_in_the_job(plant: Plant) -> None:
    from surgetank.exceptions import BufferUnavailable

    class Failing:
        def __getattr__(self, name: str) -> object:
            return getattr(plant.buffer, name)

        def ack(self, acks: Sequence[Ack]) -> list[Lease]:
            raise BufferUnavailable("The disk is full.", remedy="free some space")

    plant.put("p")
    job = plant.flusher(buffer=Failing()).run("manual")  # type: ignore[arg-type]
    assert job.status is JobStatus.FAILED
    assert job.result["errors"][0]["remedy"] == "free some space"
    assert plant.waiting() == {"p": 1}
    assert plant.buffer.job(job.id) == job
