"""Spilling: values lie in files and nobody who reads, writes or flushes can tell; what can't be
read is named."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.buffers import DOWN, child_env, put, read_all, take
from support.flushing import Told
from support.memory_sink import MemorySink
from support.spilling import ALL, SpillPlace
from support.waiting import wait_until
from surgetank.buffer.coordination import Ack, Due
from surgetank.buffer.spilling import SpillDue
from surgetank.exceptions import (
    BufferFull,
    EntryUnreadable,
    FallbackDamaged,
    FallbackUnavailable,
    LeaseLost,
)
from surgetank.flush.breaker import CircuitBreaker
from surgetank.flush.job import Clockwork, StreamFlusher
from surgetank.flush.policy import RetryPolicy, StreamPolicy
from surgetank.model import Record

NOISE = random.Random(1).randbytes(400_000)


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SpillPlace]:
    place = SpillPlace(tmp_path, request.param)
    yield place
    place.close()


@pytest.fixture
def buffer(place: SpillPlace) -> Any:
    return place.open()


def fill(buffer: Any) -> None:
    """Three partitions: growing values in families, small and large values side by side, many small
    entries."""
    for i in range(40):
        records = [
            Record(b"v%03d" % i, NOISE[: 5000 + i * 100], b"family"),
            Record(b"n%03d" % i, b"small"),
        ]
        buffer.append("s", "growing", records)
    for i in range(5):
        buffer.append(
            "s",
            "mixed",
            [Record(b"a", b"text %d " % i * 500), Record(b"b", b""), Record(b"c", b"x" * 64)],
        )
    for i in range(300):
        put(
            buffer,
            "many",
            b"line %05d of a log that is long enough to be moved out of the buffer ......" % i,
        )


def seen(buffer: Any) -> dict[str, Any]:
    """All that readers can see."""
    with buffer.snapshot() as view:
        return {
            name: [
                view.scan("s", name, b""), view.last("s", name, b""), view.last("s", name, b"v"),
                view.latest("s", name, [b"a", b"b", b"v007", b"k", b"none"]),
            ]
            for name in view.partitions("s")
        }  # fmt: skip


SEEN_ELSEWHERE = """
import json, sys, hashlib
from pathlib import Path
from support.spilling import SpillPlace
sys.path.insert(0, "integration")
from test_spilling import seen
place = SpillPlace(Path(sys.argv[1]), sys.argv[2])
print(hashlib.sha256(repr(seen(place.open())).encode()).hexdigest())
"""


def digest_elsewhere(place: SpillPlace) -> str:
    """What another process sees, as a checksum."""
    done = subprocess.run(
        [sys.executable, "-c", SEEN_ELSEWHERE, str(place.folder), place.kind], env=child_env(),
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def flusher(place: SpillPlace, buffer: Any, sink: MemorySink, told: Told) -> StreamFlusher:
    clockwork = Clockwork(place.clock, random=lambda: 1.0)
    return StreamFlusher(
        "s", buffer, sink, policy=StreamPolicy(entries=1, age_s=0.0, batch_entries=50),
        clockwork=clockwork, node="flusher",
        retry=RetryPolicy(base_s=1.0, max_s=60.0), breaker=CircuitBreaker(place.clock), listener=told.on_flush,
    )  # fmt: skip


# -- nobody can tell


def test_readers_of_two_processes_see_the_same_before_and_after(place, buffer):
    fill(buffer)
    before, before_elsewhere = seen(buffer), digest_elsewhere(place)
    entries = buffer.depth().entries

    assert place.spill_all(buffer) >= 1

    assert seen(buffer) == before
    assert seen(place.open()) == before  # remembers nothing
    assert digest_elsewhere(place) == before_elsewhere
    assert buffer.depth().entries == entries


def test_the_buffer_is_relieved_of_what_was_spilled(place, buffer):
    fill(buffer)
    before = buffer.depth()
    place.spill_all(buffer)
    after = buffer.depth()
    assert after.bytes < before.bytes / 2
    assert sum(s.bytes for s in after.streams) == after.bytes
    assert buffer.spilled_entries() == 345
    assert {f.state for f in buffer.spill_files()} == {"kept"}
    assert place.spiller(buffer).spill("s", ALL) is None  # there is nothing left


def test_a_flush_finds_every_entry_in_order_and_the_files_are_deleted_after_it(place, buffer):
    fill(buffer)
    sink, told = MemorySink(), Told()
    undisturbed = place.open(name="other.db")
    fill(undisturbed)
    place.spill_all(buffer)
    fill(buffer)
    fill(undisturbed)
    spiller = place.spiller(buffer)

    job = flusher(place, buffer, sink, told).run("manual")

    assert job.ok, job.result
    expected = MemorySink()
    assert flusher(place, undisturbed, expected, Told()).run("manual").ok
    assert sink.rows == expected.rows
    counts = {name: len(seqs) for name, seqs in sink.arrivals.items()}
    assert counts == {name: len(seqs) for name, seqs in expected.arrivals.items()}
    assert all(seqs == sorted(seqs) for seqs in sink.arrivals.values())
    assert (buffer.depth().entries, buffer.depth().bytes, buffer.spilled_entries()) == (0, 0, 0)
    assert place.files()
    assert spiller.clean() >= 1
    assert (place.files(), buffer.spill_files()) == ([], [])


def test_a_put_on_top_of_a_spilled_value_stands_on_its_own(place, buffer):
    fill(buffer)
    place.spill_all(buffer)
    for i in range(40, 60):
        buffer.append("s", "growing", [Record(b"v%03d" % i, NOISE[: 5000 + i * 100], b"family")])
    assert buffer.depth().bytes < 60_000  # the first one whole, the others as differences again
    shutil.rmtree(place.location)
    with place.open().snapshot() as view:
        found = view.scan("s", "growing", b"v04")
    assert [f.value for f in found] == [NOISE[: 5000 + i * 100] for i in range(40, 50)]


def test_what_stands_on_a_spilled_value_is_made_whole(place, buffer):
    for i in range(20):
        buffer.append("s", "p", [Record(b"%03d" % i, NOISE[: 20_000 + i * 100], b"family")])
    before = seen(buffer)
    place.spiller(buffer, file_bytes=100_000).spill("s", ALL)  # a part of the chain
    assert 0 < buffer.spilled_entries() < 20
    assert seen(place.open()) == before
    leased = take(buffer, "p")
    assert [r.value for e in read_all(buffer, leased.lease) for r in e.records] == [
        NOISE[: 20_000 + i * 100] for i in range(20)
    ]


def test_an_entry_that_the_sink_refuses_is_parked_and_tried_again_although_it_is_spilled(
    place, buffer
):
    value = b"hostile " * 100
    put(buffer, "p", b"good " * 100, key=b"1")
    put(buffer, "p", value, key=b"2")
    put(buffer, "p", b"good " * 100, key=b"3")
    place.spill_all(buffer)
    leased = take(buffer, "p")
    entries = read_all(buffer, leased.lease)
    parked = buffer.park(leased.lease, entries[1].seq, DOWN)
    assert (
        buffer.ack([Ack(leased.lease, [entries[0]]), Ack(leased.lease, [entries[2]], release=True)])
        == []
    )
    entry = buffer.parked_entry(parked.id)
    assert entry is not None
    assert entry.records[0].value == value
    assert place.spiller(buffer).clean() == 0  # the parked entry needs it

    assert buffer.unpark([parked.id])
    assert place.spiller(buffer).spill("s", ALL) is None  # it is in a file already
    leased = take(buffer, "p")
    (entry,) = read_all(buffer, leased.lease)
    assert entry.records[0].value == value
    buffer.ack([Ack(leased.lease, [entry], release=True)])
    assert place.spiller(buffer).clean() == 1
    assert buffer.depth().bytes == 0


def test_deleting_a_partition_s_parked_entries_lets_their_file_go(place, buffer):
    put(buffer, "p", b"bad " * 100)
    place.spill_all(buffer)
    leased = take(buffer, "p")
    buffer.park(leased.lease, read_all(buffer, leased.lease)[0].seq, DOWN)
    buffer.release([leased.lease])
    buffer.append("s", "p", [Record(b"operation", b"delete")], start_guarding=True)
    assert place.spiller(buffer).clean() == 1


def test_what_guards_look_into_is_never_spilled_and_no_append_reads_a_file(place, buffer):
    put(buffer, "p", b"value " * 100)
    buffer.append("s", "p", [Record(b"operation", b"delete " * 100)], start_guarding=True)
    place.spill_all(buffer)
    shutil.rmtree(place.location)
    asked = []

    def guard(view):
        asked.append((view.scan("s", "p", b"operation")[0].value, view.last("s", "p", b"k").key))

    assert buffer.append("s", "p", [Record(b"k", b"more")], guard=guard)
    assert asked == [(b"delete " * 100, b"k")]


# -- when


def test_only_what_has_waited_long_in_a_failing_partition_is_spilled(place, buffer):
    for name in ("failing", "fine"):
        put(buffer, name, b"value " * 100)
    leased = take(buffer, "failing")
    buffer.postpone(leased.lease, attempts=1, next_attempt_at=0.0, failure=DOWN)
    spiller = place.spiller(buffer, after_s=3600.0)
    assert spiller.step(()).files == 0
    place.clock.advance(3599)
    assert spiller.step(()).files == 0
    place.clock.advance(902)
    assert spiller.step(()).entries == 1
    put(buffer, "failing", b"fresh " * 100)
    place.clock.advance(1800)
    assert spiller.step(()).files == 0  # not a file a second
    place.clock.advance(1900)
    assert spiller.step(()).entries == 1
    assert place.problems == []


def test_what_waits_for_a_sink_that_is_away_is_spilled_though_nobody_tried_it(place, buffer):
    put(buffer, "p", b"value " * 100)
    spiller = place.spiller(buffer, after_s=10.0)
    place.clock.advance(11)
    assert spiller.step(()).files == 0
    place.clock.advance(11)
    assert spiller.step(("s",)).entries == 1


def test_a_buffer_near_its_limit_is_relieved_by_its_largest_partitions_and_accepts_again(place):
    buffer = place.open(max_bytes=1_000_000)
    put(buffer, "small", b"value " * 100)
    for _ in range(11):
        buffer.append("s", "large", [Record(b"k", NOISE[:90_000])])
    with pytest.raises(BufferFull):
        buffer.append("s", "large", [Record(b"k", NOISE[:90_000])], wait=False)
    waiting = threading.Thread(
        target=lambda: buffer.append("s", "late", [Record(b"k", NOISE[:90_000])])
    )
    waiting.start()

    done = place.spiller(buffer, fill=0.8, file_bytes=300_000).step(())

    waiting.join(20)
    assert not waiting.is_alive()
    assert (done.files, done.reasons) == (2, frozenset({"full"}))
    assert buffer.fill() < 0.6
    with buffer.snapshot() as view:
        assert {f.value for f in view.scan("s", "large", b"")} == {NOISE[:90_000]}
    assert {s.partition for s in buffer.states("s") if s.bytes > 500} >= {"small"}


def test_without_a_location_nothing_is_spilled(place):
    buffer = place.open(spills=False)
    put(buffer, "p", b"value " * 100)
    place.clock.advance(10_000)
    assert place.spiller(buffer).step(("s",)).files == 0
    buffer.close()


def test_a_location_that_can_not_be_used_is_told_and_tried_again_later(place, buffer):
    place.location.write_text("a file, not a folder")
    put(buffer, "p", b"value " * 100)
    spiller = place.spiller(buffer, after_s=10.0)
    place.clock.advance(11)
    assert spiller.step(("s",)).files == 0
    assert [type(p) for p in place.problems] == [FallbackUnavailable]
    with pytest.raises(FallbackUnavailable):
        spiller.spill("s", ALL)
    take(buffer, "p", ttl_s=0.0)  # no lease was left behind
    place.location.unlink()
    place.clock.advance(60)
    assert spiller.step(("s",)).entries == 1


def test_files_in_a_location_that_is_away_are_not_believed_deleted_and_hold_nothing_back(
    place, buffer
):
    put(buffer, "p", b"value " * 100)
    place.spill_all(buffer)
    assert flusher(place, buffer, MemorySink(), Told()).run("manual").ok
    (drained,) = buffer.spill_files()
    place.location.rename(place.folder / "away")
    former, place.location = place.location, place.folder / "another"
    there = place.open()
    put(there, "q", b"value " * 100)
    place.clock.advance(11)

    assert place.spiller(there, after_s=10.0).step(("s",)).entries == 1

    assert [type(p) for p in place.problems] == [FallbackUnavailable]
    assert drained in there.spill_files()
    with pytest.raises(FallbackUnavailable, match="no such folder"):
        place.spiller(there).clean()
    (place.folder / "away").rename(former)
    assert place.spiller(there).clean() == 1
    assert list(former.rglob("*.spill")) == []
    assert [file.number for file in there.spill_files()] == [drained.number + 1]


# -- what can't be read


def test_a_location_that_is_away_is_named_and_holds_back_only_its_partitions(place, buffer):
    put(buffer, "spilled", b"value " * 100)
    place.spill_all(buffer)
    put(buffer, "fine", b"value")
    place.location.rename(place.folder / "away")
    fresh = place.open()

    with pytest.raises(FallbackUnavailable, match="fallback"), fresh.snapshot() as view:
        view.scan("s", "spilled", b"")
    sink, told = MemorySink(), Told()
    job = flusher(place, fresh, sink, told).run("manual")
    assert (job.result["entries_flushed"], job.result["partitions_failed"]) == (1, 1)
    state = fresh.state("s", "spilled")
    assert state is not None
    assert state.failure is not None
    assert (state.failure.kind.value, state.attempts) == ("transient", 1)
    assert state.failure.remedy

    (place.folder / "away").rename(place.location)
    assert flusher(place, fresh, sink, told).run("manual").ok
    assert sink.rows["spilled", b"k"] == b"value " * 100


def test_a_damaged_value_is_parked_with_its_reason_and_its_neighbours_arrive(place, buffer):
    for i in range(4):
        put(buffer, "p", NOISE[i * 100_000 : (i + 1) * 100_000], key=b"%d" % i)
    put(buffer, "q", b"other " * 100)
    place.spill_all(buffer)
    (file,) = place.files()
    data = bytearray(file.read_bytes())
    data[data.index(NOISE[200_000:200_050]) + 7] ^= 1
    file.write_bytes(data)
    fresh, sink, told = place.open(), MemorySink(), Told()

    job = flusher(place, fresh, sink, told).run("manual")

    assert job.warnings
    assert set(sink.rows) == {("p", b"0"), ("p", b"1"), ("p", b"3"), ("q", b"k")}
    (parked,) = fresh.parked()
    assert file.name in parked.failure.message
    with pytest.raises(FallbackDamaged):
        fresh.parked_entry(parked.id)
    assert place.spiller(fresh).clean() == 0
    assert file.read_bytes() == bytes(data)

    data[data.index(NOISE[200_008:200_050]) - 1] ^= 1  # an undamaged copy
    file.write_bytes(data)
    fresh.unpark([parked.id])
    assert flusher(place, fresh, sink, told).run("manual").ok
    assert sink.rows["p", b"2"] == NOISE[200_000:300_000]
    assert place.spiller(fresh).clean() == 1


def test_what_stands_before_an_unreadable_entry_can_be_read(place, buffer):
    put(buffer, "p", b"value " * 100, key=b"1")
    place.spill_all(buffer)
    place.files()[0].unlink()
    fresh = place.open()
    leased = take(fresh, "p")
    with pytest.raises(EntryUnreadable) as caught:
        read_all(fresh, leased.lease)
    assert (caught.value.partition, caught.value.damaged) == ("p", True)


# -- leases


def test_a_partition_that_is_leased_is_not_spilled(place, buffer):
    put(buffer, "p", b"value " * 100)
    take(buffer, "p")
    assert place.spiller(buffer).spill("s", ALL) is None
    assert place.files() == []


def test_a_spiller_that_lost_its_lease_moves_nothing(place, buffer):
    put(buffer, "p", b"value " * 100)
    (chosen,) = buffer.lease_to_spill("s", SpillDue(), owner="slow", ttl_s=0.0)
    spiller = place.spiller(buffer)
    batch = spiller._read([chosen])
    buffer.files.store().prepare()
    (newer,) = buffer.lease("s", Due(force=True), owner="flusher", ttl_s=15.0)

    assert spiller._move("s", batch).entries == 0

    assert buffer.spilled_entries() == 0
    (entry,) = read_all(buffer, newer.lease)
    assert buffer.ack([Ack(newer.lease, [entry], release=True)]) == []
    assert spiller.clean() == 1
    assert buffer.depth().bytes == 0


def test_a_file_that_was_given_up_is_not_referred_to(place, buffer):
    put(buffer, "p", b"value " * 100)
    (chosen,) = buffer.lease_to_spill("s", SpillDue(), owner="slow", ttl_s=100_000.0)
    spiller = place.spiller(buffer)
    batch = spiller._read([chosen])
    buffer.files.store().prepare()
    plain = buffer.files.store().write

    def slow(name, pieces):
        place.clock.advance(7200)
        assert place.spiller(buffer).clean() == 1  # somebody tidies up
        plain(name, pieces)

    buffer.files.store().write = slow
    with pytest.raises(LeaseLost, match="given up"):
        spiller._move("s", batch)
    assert (buffer.spilled_entries(), place.files()) == (0, [])
    assert [e.records[0].value for e in read_all(buffer, chosen.leased.lease)] == [b"value " * 100]


def test_writers_and_flushers_of_other_threads_go_on_while_entries_are_spilled(place, buffer):
    sink, told, written = MemorySink(), Told(), 200

    def write() -> None:
        for i in range(written):
            for name in ("a", "b"):
                buffer.append("s", name, [Record(b"%04d" % i, NOISE[: 3000 + i], b"family")])

    writer = threading.Thread(target=write)
    writer.start()
    runner, spiller = flusher(place, buffer, sink, told), place.spiller(buffer, file_bytes=50_000)
    while writer.is_alive():
        spiller.spill("s", ALL)
        runner.run("manual")
    wait_until(
        lambda: runner.run("manual").ok and not buffer.depth().entries, "everything to be flushed"
    )
    assert sink.rows == {
        (n, b"%04d" % i): NOISE[: 3000 + i] for i in range(written) for n in ("a", "b")
    }
    assert [seqs == sorted(set(seqs)) for seqs in sink.arrivals.values()] == [True, True]
    spiller.clean()
    assert (buffer.depth().bytes, buffer.spill_files(), place.files()) == (0, [], [])
    assert json.dumps(told.parked) == "[]"
