"""From the buffer to the sink: what happens to good entries, bad entries and whole partitions."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from psycopg import errors as pg

from support.buffers import read_all, take
from support.flushing import Plant
from support.memory_sink import MemorySink, Switch, name_hostile, refuse_hostile
from surgetank.buffer.coordination import Ack
from surgetank.exceptions import EntryRejected, LeaseLost
from surgetank.flush.breaker import BreakerState, CircuitBreaker
from surgetank.flush.policy import StreamPolicy
from surgetank.model import FailureKind, JobStatus
from surgetank.sinks.protocol import Slice


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with Plant(tmp_path) as plant:
        yield plant


# -- clean


def test_everything_that_waits_arrives_in_order_and_the_buffer_is_empty(plant: Plant) -> None:
    seqs: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for i in range(30):
        name = "abc"[i % 3]
        seqs[name].append(plant.put(name, b"%d" % i, key=b"k%d" % i))

    job = plant.flusher().run("manual")

    assert job.ok
    assert (job.stream, job.trigger, job.status, job.node) == (
        "s",
        "manual",
        JobStatus.COMPLETED,
        "node-1",
    )
    assert plant.sink.arrivals == seqs
    assert plant.waiting() == {}
    assert plant.buffer.depth().entries == 0
    assert job.result["rows_flushed"] == job.result["entries_flushed"] == 30
    assert job.result["bytes"] == sum(len(k) + len(v) for (_, k), v in plant.sink.rows.items())
    assert (job.result["partitions_processed"], job.result["partitions_failed"]) == (3, 0)
    assert plant.buffer.job(job.id) == job
    assert plant.told.jobs == [job]
    assert (plant.told.failed, plant.told.parked, plant.told.recovered) == ([], [], [])


def test_a_flush_of_nothing_is_completed_with_zeros(plant: Plant) -> None:
    job = plant.flusher().run("manual", up_to_seq=plant.buffer.last_seq("s"))
    assert job.ok
    zeros = ("rows_flushed", "bytes", "partitions_processed", "partitions_failed", "entries_parked")
    assert [job.result[name] for name in zeros] == [0] * 5
    assert plant.sink.calls == 0
    assert plant.buffer.jobs() == [job]


def test_nothing_due_makes_no_job(plant: Plant) -> None:
    plant.put("p")
    lazy = plant.flusher(policy=StreamPolicy(entries=10, age_s=60))
    assert lazy.run_if_due(threading.Event()) is None
    assert plant.buffer.jobs() == []
    plant.clock.advance(60)
    job = lazy.run_if_due(threading.Event())
    assert job is not None
    assert (job.ok, job.trigger) == (True, "schedule")
    assert lazy.run_if_due(threading.Event()) is None


def test_a_flush_of_one_partition_leaves_the_others(plant: Plant) -> None:
    plant.put("a")
    plant.put("b")
    job = plant.flusher().run("manual", partition="a", up_to_seq=plant.buffer.last_seq("s", "a"))
    assert (job.ok, job.partition) == (True, "a")
    assert plant.waiting() == {"b": 1}


# -- hostile entries


@pytest.mark.parametrize("partitions", [1, 2, 3, 4])
@pytest.mark.parametrize("fault", [refuse_hostile, name_hostile])
def test_a_hostile_entry_is_parked_alone_and_its_neighbours_arrive_in_order(
    plant: Plant, partitions: int, fault: object
) -> None:
    plant.sink.faults = [fault]  # type: ignore[list-item]
    for total in range(partitions, 10):
        for position in range(total):
            names = [f"{total}/{position}/p{i % partitions}" for i in range(total)]
            seqs = [
                plant.put(n, b"hostile" if i == position else b"good") for i, n in enumerate(names)
            ]

            job = plant.flusher().run("manual")

            where = f"{position} of {total} in {partitions}"
            (parked,) = plant.told.parked
            assert (parked.seq, parked.partition) == (seqs[position], names[position]), where
            assert (
                parked.failure.message.endswith("hostile data")
                or "hostile data" in parked.failure.stack_trace
            )
            for name in set(names):
                good = [
                    s
                    for i, (s, n) in enumerate(zip(seqs, names, strict=True))
                    if n == name and i != position
                ]
                assert plant.sink.arrivals.get(name, []) == good, where
            if total > 1:
                assert (job.status, len(job.warnings)) == (JobStatus.COMPLETED, 1), where
            else:  # nothing was saved
                assert (job.status, len(job.warnings)) == (JobStatus.FAILED, 0), where
            assert (job.result["entries_parked"], job.result["entries_flushed"]) == (
                1,
                total - 1,
            ), where
            assert job.result["rows_flushed"] == total - 1
            assert plant.waiting() == {}
            plant.told.parked.clear()


@pytest.mark.parametrize("fault", [refuse_hostile, name_hostile])
def test_many_hostile_entries_are_all_parked_and_all_others_arrive(
    plant: Plant, fault: object
) -> None:
    plant.sink.faults = [fault]  # type: ignore[list-item]
    hostile = {0, 1, 7, 8, 9, 20, 39}
    seqs = [plant.put(f"p{i % 3}", b"hostile" if i in hostile else b"good") for i in range(40)]
    job = plant.flusher().run("manual")
    assert {p.seq for p in plant.buffer.parked()} == {seqs[i] for i in hostile}
    for name, arrived in plant.sink.arrivals.items():
        assert arrived == [
            s for i, s in enumerate(seqs) if f"p{i % 3}" == name and i not in hostile
        ]
    assert (job.result["entries_parked"], job.result["entries_flushed"]) == (7, 33)
    assert len(job.warnings) == 3
    assert plant.waiting() == {}


@pytest.mark.parametrize("fault", [refuse_hostile, name_hostile])
def test_a_batch_of_hostile_entries_only_is_parked_whole_and_says_so(
    plant: Plant, fault: object
) -> None:
    plant.sink.faults = [fault]  # type: ignore[list-item]
    for _ in range(6):
        plant.put("p", b"hostile")
    job = plant.flusher().run("manual")
    assert (job.status, job.ok, job.result["entries_parked"]) == (JobStatus.FAILED, False, 6)
    assert job.result["message"].startswith("s/p: 6 entries were parked")
    assert plant.sink.rows == {}


def test_a_thousand_entries_named_as_hostile_are_parked(plant: Plant) -> None:
    plant.sink.faults = [name_hostile]
    for _ in range(1000):
        plant.put("p", b"hostile")
    plant.put("p", b"good")
    job = plant.flusher().run("manual")
    assert (job.result["entries_parked"], job.result["entries_flushed"]) == (1000, 1)


def test_an_entry_that_the_sink_names_is_parked_without_a_search(plant: Plant) -> None:
    plant.sink.faults = [name_hostile]
    for i in range(64):
        plant.put(f"p{i % 4}", b"hostile" if i == 33 else b"good")
    plant.flusher().run("manual")
    assert plant.sink.calls == 2
    (parked,) = plant.told.parked
    assert (parked.failure.kind, parked.failure.error_type) == (
        FailureKind.REJECTED,
        "EntryRejected",
    )


def test_the_search_for_one_hostile_entry_is_logarithmic(plant: Plant) -> None:
    plant.sink.faults = [refuse_hostile]
    for i in range(256):
        plant.put("p", b"hostile" if i == 77 else b"good")
    plant.flusher().run("manual")
    assert plant.sink.calls <= 2 * 8 + 1


def test_a_sink_that_names_an_entry_it_was_not_given_is_searched_as_if_it_named_none(
    plant: Plant,
) -> None:
    def liar(call: int, slices: Sequence[Slice]) -> None:
        if any(e.seq == seqs[1] for s in slices for e in s.entries):
            raise EntryRejected(partition="p", seq=10**6, path="$", reason="hostile data")

    plant.sink.faults = [liar]
    seqs = [plant.put("p") for _ in range(4)]
    plant.flusher().run("manual")
    assert [p.seq for p in plant.buffer.parked()] == [seqs[1]]
    assert plant.sink.arrivals["p"] == [seqs[0], seqs[2], seqs[3]]


def test_a_parked_entry_tried_again_after_a_fix_arrives_after_its_neighbours(plant: Plant) -> None:
    plant.sink.faults = [refuse_hostile]
    plant.put("p", b"hostile", key=b"h")
    good = plant.put("p", b"good")
    plant.flusher().run("manual")
    plant.sink.faults = []
    (again,) = plant.buffer.unpark([p.id for p in plant.buffer.parked()])
    job = plant.flusher().run("retry", retry_of="job-1")
    assert (job.ok, job.trigger, job.retry_of) == (True, "retry", "job-1")
    assert plant.sink.arrivals["p"] == [good, again]
    assert plant.sink.rows["p", b"h"] == b"hostile"


@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_partition_that_ended_with_a_parked_entry_is_given_back_at_once(
    plant: Plant, before: int
) -> None:
    plant.sink.faults = [refuse_hostile]
    for _ in range(before):
        plant.put("p", b"good")
    plant.put("p", b"hostile")
    plant.flusher(node="a").run("manual")
    plant.put("p", b"good")
    state = plant.buffer.state("s", "p")
    assert state is not None
    assert state.leased_by is None


def test_hostile_data_does_not_open_the_breaker(plant: Plant) -> None:
    plant.sink.faults = [refuse_hostile]
    breaker = CircuitBreaker(plant.clock, threshold=2)
    for _ in range(9):
        plant.put("p", b"hostile")
    plant.flusher(breaker=breaker).run("manual")
    assert breaker.view().failures == 0


# -- failures that pass, and those that don't


def test_a_transient_failure_keeps_the_entries_and_comes_back_with_growing_waits(
    plant: Plant,
) -> None:
    down = Switch(lambda: pg.ConnectionFailure("server closed the connection"))
    plant.sink.faults = [down]
    seqs = [plant.put("p", b"%d" % i) for i in range(3)]
    started = plant.clock.now
    waits = []
    for attempt in range(1, 9):
        job = plant.flusher().run("manual")
        assert (job.status, job.result["partitions_failed"]) == (JobStatus.FAILED, 1)
        assert "server closed the connection" in job.result["message"]
        state = plant.buffer.state("s", "p")
        assert state is not None
        assert (state.entries, state.attempts, state.failing_since) == (3, attempt, started)
        assert state.failure is not None
        assert (state.failure.kind, state.failure.sqlstate) == (FailureKind.TRANSIENT, "08006")
        assert state.leased_by is None
        waits.append(state.next_attempt_at - plant.clock.now)
        assert plant.flusher().run_if_due(threading.Event()) is None
        plant.clock.now = state.next_attempt_at
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert plant.buffer.parked() == []

    down.on = False
    recovered = plant.flusher().run_if_due(threading.Event())
    assert recovered is not None
    assert recovered.ok
    assert plant.sink.arrivals["p"] == seqs
    assert [(o.partition, o.recovered) for o in plant.told.recovered] == [("p", True)]
    assert len(plant.told.failed) == 8


def test_a_fatal_failure_waits_long_and_keeps_the_entries(plant: Plant) -> None:
    plant.sink.faults = [Switch(lambda: pg.UndefinedTable('relation "checkpoints" does not exist'))]
    plant.put("p")
    job = plant.flusher().run("manual")
    state = plant.buffer.state("s", "p")
    assert state is not None
    assert state.next_attempt_at == plant.clock.now + 300
    assert state.failure is not None
    assert state.failure.kind is FailureKind.FATAL
    assert job.status is JobStatus.FAILED
    assert job.result["errors"][0]["remedy"].startswith("run `surgetank migrate`")
    assert plant.buffer.parked() == []


@pytest.mark.parametrize("kind", ["transient", "fatal"])
def test_a_failing_partition_and_one_in_another_group_do_not_hinder_each_other(
    plant: Plant, kind: str
) -> None:
    error = {"transient": pg.DeadlockDetected, "fatal": pg.InsufficientPrivilege}[kind]
    plant.sink.faults = [Switch(lambda: error("x"), partition="bad")]
    good = plant.put("good")
    plant.put("bad")
    job = plant.flusher(policy=StreamPolicy(entries=1, batch_entries=1)).run("manual")
    assert plant.sink.arrivals == {"good": [good]}
    assert plant.waiting() == {"bad": 1}
    assert (job.status, job.result["partitions_failed"], len(job.warnings)) == (
        JobStatus.COMPLETED,
        1,
        1,
    )
    assert job.warnings[0].startswith(f"s/bad: {kind}")


def test_a_partition_that_always_fails_does_not_keep_those_of_its_group_back(plant: Plant) -> None:
    """For example one huge row that always runs into the statement timeout."""
    plant.sink.faults = [Switch(lambda: pg.QueryCanceled("statement timeout"), partition="bad")]
    for name in ("good1", "bad", "good2"):
        plant.put(name)
    for _ in range(5):
        plant.flusher().run("manual")
        plant.clock.advance(120)
    assert plant.waiting() == {"bad": 1}


def test_entries_before_a_failure_in_the_same_partition_stay_flushed(plant: Plant) -> None:
    plant.sink.faults = [Switch(lambda: pg.DiskFull("x"), calls=range(2, 3))]
    seqs = [plant.put("p") for _ in range(4)]
    job = plant.flusher(policy=StreamPolicy(entries=1, batch_entries=2)).run("manual")
    assert plant.sink.arrivals["p"] == seqs[:2]
    assert plant.waiting() == {"p": 2}
    assert (job.status, job.result["entries_flushed"]) == (JobStatus.FAILED, 2)


# -- leases lost on the way


def other_worker_takes_over(plant: Plant, name: str) -> None:
    plant.clock.advance(60)
    lease = take(plant.buffer, name, owner="other").lease
    plant.buffer.ack([Ack(lease, read_all(plant.buffer, lease), release=True)])


@pytest.mark.parametrize("told_by", ["buffer", "sink"])
def test_a_lease_lost_during_the_write_leaves_the_work_to_its_new_holder(
    plant: Plant, told_by: str
) -> None:
    def lose(call: int, slices: Sequence[Slice]) -> None:
        if call == 1:
            other_worker_takes_over(plant, "lost")
        if told_by == "sink" and any(s.lease.partition == "lost" for s in slices):
            raise LeaseLost("a newer lease was seen")

    plant.sink.faults = [lose]
    plant.put("lost")
    kept = plant.put("kept")
    job = plant.flusher().run("manual")
    assert plant.sink.arrivals["kept"] == [kept]
    assert plant.waiting() == {}
    assert plant.buffer.depth().entries == 0
    assert (job.status, len(job.warnings)) == (JobStatus.COMPLETED, 1)
    assert job.warnings[0].startswith("s/lost: transient")


@pytest.mark.parametrize("error", [pg.ConnectionFailure, ValueError])
def test_a_lease_lost_during_a_write_that_failed_changes_nothing_of_the_new_holders(
    plant: Plant, error: type[Exception]
) -> None:
    def lose(call: int, slices: Sequence[Slice]) -> None:
        plant.clock.advance(60)
        take(plant.buffer, "p", owner="other")
        raise error("x")

    plant.sink.faults = [lose]
    plant.put("p")
    job = plant.flusher().run("manual")
    state = plant.buffer.state("s", "p")
    assert state is not None
    assert (state.leased_by, state.attempts, state.entries) == ("other", 0, 1)
    assert plant.buffer.parked() == []
    assert job.status is JobStatus.FAILED


# -- the breaker in the flusher


def test_a_dead_sink_is_asked_once_per_group_until_the_breaker_opens(plant: Plant) -> None:
    plant.sink.faults = [Switch(lambda: ConnectionRefusedError("refused"))]
    for i in range(50):
        plant.put(f"p{i}")
    flusher = plant.flusher(policy=StreamPolicy(entries=1, batch_entries=5))
    flusher.run_if_due(threading.Event())
    assert plant.sink.calls == 2
    assert flusher.breaker.state() is BreakerState.OPEN
    assert flusher.run_if_due(threading.Event()) is None
    assert plant.sink.calls == 2
    assert sum(plant.waiting().values()) == 50
    assert all(s.leased_by is None for s in plant.buffer.states())


def test_a_half_open_breaker_lets_one_partition_through_and_all_when_it_arrived(
    plant: Plant,
) -> None:
    down = Switch(lambda: ConnectionRefusedError("refused"))
    plant.sink.faults = [down]
    for i in range(20):
        plant.put(f"p{i:02}")
    flusher = plant.flusher()
    flusher.run_if_due(threading.Event())
    flusher.run("manual")
    assert flusher.breaker.state() is BreakerState.OPEN
    plant.clock.advance(60)
    assert flusher.breaker.state() is BreakerState.HALF_OPEN

    flusher.run_if_due(threading.Event())
    assert [len(g) for g in plant.sink.groups[2:]] == [1]
    assert flusher.breaker.state() is BreakerState.OPEN

    down.on = False
    plant.clock.advance(60)
    flusher.run_if_due(threading.Event())
    assert [len(g) for g in plant.sink.groups[3:]] == [1]
    assert flusher.breaker.state() is BreakerState.CLOSED
    flusher.run_if_due(threading.Event())
    assert plant.waiting() == {}


def test_a_flush_by_hand_is_a_probe_even_while_the_breaker_is_open(plant: Plant) -> None:
    down = Switch(lambda: ConnectionRefusedError("refused"))
    plant.sink.faults = [down]
    plant.put("p")
    flusher = plant.flusher()
    flusher.run("manual")
    flusher.run("manual")
    assert flusher.breaker.state() is BreakerState.OPEN
    down.on = False
    assert flusher.run("manual").ok
    assert flusher.breaker.state() is BreakerState.CLOSED


def test_a_flusher_gives_back_every_lease_however_it_ends(plant: Plant) -> None:
    class Bug(BaseException):
        pass

    plant.sink.faults = [Switch(Bug)]
    plant.put("a")
    plant.put("b")
    with pytest.raises(Bug):
        plant.flusher().run("manual")
    assert all(s.leased_by is None for s in plant.buffer.states())
    assert sum(plant.waiting().values()) == 2


def test_a_sink_in_memory_keeps_the_promises_of_a_sink(plant: Plant) -> None:
    """The tests above stand on it."""
    sink = MemorySink()
    plant.put("p", b"1")
    plant.put("p", b"2")
    old = take(plant.buffer).lease
    entries = read_all(plant.buffer, old)
    plant.buffer.release([old])
    new = take(plant.buffer).lease
    for _ in range(2):
        assert [w.rows for w in sink.write([Slice(new, entries)], buffer_id="x")] == [2]
    assert sink.arrivals["p"] == [e.seq for e in entries]
    with pytest.raises(LeaseLost):
        sink.write([Slice(old, entries)], buffer_id="x")
