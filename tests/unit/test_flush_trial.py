"""Before data is set aside, the sink is asked whether it takes anything at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
from psycopg import errors as pg

from support.flushing import Plant
from support.memory_sink import Switch, refuse_hostile
from surgetank.flush.breaker import BreakerState
from surgetank.flush.sqlstates import TABLE, Scope, meaning_of
from surgetank.model import FailureKind, JobStatus
from surgetank.sinks.protocol import Slice

SERVER_TROUBLE = [
    "25P04",
    "55000",
    "54000",
    "XX000",
    "XX001",
    "42501",
    "42P01",
    "0A000",
    "P0001",
    "22P02",
    "ZZ999",
]
OF_ONE_ROW = ["XX001", "42501", "0A000", "XX000", "55000", "58030"]


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with Plant(tmp_path) as plant:
        yield plant


def said(sqlstate: str) -> psycopg.Error:
    """What psycopg raises for a code, also for one that nobody knows."""
    try:
        return pg.lookup(sqlstate)("what the server said")
    except KeyError:
        error = psycopg.DatabaseError("what the server said")
        error.sqlstate = sqlstate
        return error


def about(name: str, sqlstate: str) -> Callable[[int, Sequence[Slice]], None]:
    """A fault of the entries whose value begins with `name`."""

    def fault(call: int, slices: Sequence[Slice]) -> None:
        if any(
            r.value.startswith(name.encode()) for s in slices for e in s.entries for r in e.records
        ):
            raise said(sqlstate)

    return fault


def test_every_class_that_postgresql_has_stands_in_the_table_with_its_reason() -> None:
    states = (getattr(error, "sqlstate", None) for error in vars(pg).values())
    known = {state[:2] for state in states if isinstance(state, str)}
    lines = {line.code for line in TABLE}
    assert known <= lines
    assert len(lines) == len(TABLE)
    assert all(line.reason for line in TABLE)
    for line in TABLE:  # data is never blamed for what is the sink's, and never retried for ever for what is the data's
        assert (line.kind is FailureKind.REJECTED) == (line.scope is Scope.ENTRY), line


@pytest.mark.parametrize("sqlstate", SERVER_TROUBLE)
def test_a_sink_that_takes_nothing_parks_nothing(plant: Plant, sqlstate: str) -> None:
    down = Switch(lambda: said(sqlstate))
    plant.sink.faults = [down]
    seqs = {name: [plant.put(name, b"%d" % i) for i in range(5)] for name in "abc"}
    flusher = plant.flusher()
    job = flusher.run("manual")
    assert plant.buffer.parked() == []
    assert plant.waiting() == {"a": 5, "b": 5, "c": 5}
    assert (job.status, job.result["partitions_failed"]) == (JobStatus.FAILED, 3)
    assert "what the server said" in job.result["message"]
    assert flusher.breaker.state() is BreakerState.OPEN
    assert plant.sink.calls + plant.sink.probes <= 6, "a dead sink is not hammered"

    down.on = False
    plant.clock.advance(400)
    assert flusher.run("manual").ok
    assert plant.sink.arrivals == seqs


@pytest.mark.parametrize("sqlstate", OF_ONE_ROW)
def test_trouble_of_one_row_does_not_keep_other_partitions_back(
    plant: Plant, sqlstate: str
) -> None:
    plant.sink.faults = [about("odd", sqlstate)]
    good = [plant.put(f"p{i}") for i in range(6)]
    odd = plant.put("p3", b"odd")
    behind = plant.put("p3", b"behind")
    flusher = plant.flusher()
    flusher.run("manual")
    arrived = [seq for seqs in plant.sink.arrivals.values() for seq in seqs]
    assert sorted(arrived) == good, "neighbours arrive in the same job"
    assert flusher.breaker.state() is BreakerState.CLOSED

    for _ in range(3):
        plant.clock.advance(120)
        flusher.run("manual")
    assert [p.seq for p in plant.buffer.parked()] == [odd], (
        "what is refused again and again is set aside"
    )
    assert plant.sink.arrivals["p3"][-1] == behind
    assert plant.waiting() == {}


def test_an_entry_whose_trouble_passes_is_never_parked(plant: Plant) -> None:
    fault = about("odd", "XX000")
    plant.sink.faults = [fault]
    odd, behind = plant.put("p", b"odd"), plant.put("p", b"behind")
    plant.put("other")
    flusher = plant.flusher()
    flusher.run("manual")
    assert plant.buffer.parked() == []
    plant.sink.faults.clear()
    plant.clock.advance(60)
    assert flusher.run("manual").ok
    assert plant.sink.arrivals["p"] == [odd, behind]


@pytest.mark.parametrize("sqlstate", ["57014", "25P04", "40P01", "55P03", "53200"])
def test_what_a_smaller_group_may_escape_is_never_parked(plant: Plant, sqlstate: str) -> None:
    plant.sink.faults = [about("huge", sqlstate)]
    plant.put("bad", b"huge")
    for name in ("good1", "good2"):
        plant.put(name)
    for _ in range(6):
        plant.flusher().run("manual")
        plant.clock.advance(120)
    assert plant.waiting() == {"bad": 1}
    assert plant.buffer.parked() == []


def test_what_was_parked_before_the_sink_turned_out_to_take_nothing_comes_back(
    plant: Plant,
) -> None:
    """It answers at first, so one entry is set aside; then it refuses whatever comes."""
    answers = iter(range(1))

    def trouble(call: int, slices: Sequence[Slice]) -> None:
        if slices or next(answers, None) is None:
            raise said("22P02")

    plant.sink.faults = [trouble]
    for name in "abcdefgh":
        plant.put(name)
    job = plant.flusher().run("manual")
    assert plant.buffer.parked() == []
    assert sum(plant.waiting().values()) == 8
    assert job.status is JobStatus.FAILED
    assert job.result["entries_parked"] == 0
    plant.sink.faults.clear()
    plant.clock.advance(400)
    assert plant.flusher().run("manual").ok
    assert {name: len(seqs) for name, seqs in plant.sink.arrivals.items()} == dict.fromkeys(
        "abcdefgh", 1
    )
    assert plant.sink.arrivals["a"] > [8], "it was parked, or this test shows nothing"


def test_a_sink_that_dies_while_it_is_asked_counts_as_away_not_as_refusing(plant: Plant) -> None:
    def dies(call: int, slices: Sequence[Slice]) -> None:
        raise said("22P02") if slices else ConnectionResetError("reset")

    plant.sink.faults = [dies]
    plant.put("p")
    plant.flusher().run("manual")
    state = plant.buffer.state("s", "p")
    assert state is not None
    assert state.failure is not None
    assert (state.failure.kind, state.failure.error_type) == (
        FailureKind.TRANSIENT,
        "ConnectionResetError",
    )


def test_a_job_that_saved_nothing_and_parked_everything_has_failed(plant: Plant) -> None:
    plant.sink.faults = [refuse_hostile]
    for name in "ab":
        plant.put(name, b"hostile")
    job = plant.flusher().run_if_due(threading.Event())
    assert job is not None
    assert (job.status, job.result["entries_parked"]) == (JobStatus.FAILED, 2)
    assert "hostile data" in job.result["message"]


def test_many_refused_entries_cost_few_questions(plant: Plant) -> None:
    plant.sink.faults = [refuse_hostile]
    for i in range(300):
        plant.put(f"p{i}", b"hostile")
    plant.put("good")
    plant.flusher().run("manual")
    assert len(plant.buffer.parked()) == 300
    assert plant.sink.probes <= 12


def test_a_code_of_nobody_is_the_data_s_until_the_sink_refuses_all() -> None:
    assert (meaning_of("ZZ999").kind, meaning_of("ZZ999").scope) == (
        FailureKind.REJECTED,
        Scope.ENTRY,
    )
    assert meaning_of("22P02").code == "22"
    assert meaning_of("25P04").code == "25P04"
