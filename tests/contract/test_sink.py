"""What every sink promises (`sinks/protocol.py`), on each sink that there is.

What waits comes from a real buffer, and is written twice, under two leases and in part, as workers
that crash or lose their lease do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.memory import InMemorySaver

from support.buffers import FakeClock
from support.memory_sink import MemorySink, refuse_hostile
from support.savers import checkpoint, config
from surgetank.buffer.coordination import Due
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.database.pool import Database
from surgetank.exceptions import LeaseLost
from surgetank.flush.classify import classify
from surgetank.model import FailureKind, Record
from surgetank.sinks.protocol import Sink, Slice
from surgetank.streams.checkpoints.any_saver.sink import SaverSink
from surgetank.streams.checkpoints.cold.sink import PostgresCheckpointSink
from surgetank.streams.checkpoints.entries import EntryMaker
from surgetank.streams.checkpoints.hot import HotLookup
from surgetank.streams.checkpoints.serde import faithful
from surgetank.streams.errors.groups import KEY as ERROR_KEY
from surgetank.streams.errors.groups import ErrorReport
from surgetank.streams.errors.sink import error_sink
from surgetank.streams.logs.line import KEY as LINE_KEY
from surgetank.streams.logs.line import LogLine
from surgetank.streams.logs.sink import log_sink

TTL_S = 15.0


@dataclass
class Kind:
    """One kind of sink: how it is made, an entry that it takes and one that it refuses, and what it
    holds. `atomic` is false for what can't promise all or nothing, and says so in its docstring."""

    stream: str
    make: Callable[[SQLiteBuffer, Database], Sink]
    good: Callable[[str, int], list[Record]]
    bad: Callable[[str], list[Record]]
    holds: Callable[[Sink, Database], Any]
    atomic: bool = True


def a_checkpoint(thread: str, number: int) -> list[Record]:
    made = checkpoint(
        {"n": number, "items": ["x" * 100] * number}, {"n": f"{number}", "items": f"{number}"}
    )
    made["id"] = f"1f0c5e1a-7c1e-6b50-8003-{number:012}"
    metadata = {"source": "loop", "step": number, "parents": {}}
    maker = EntryMaker(faithful(None), max_value_bytes=1 << 20)
    return maker.checkpoint(config(thread), made, metadata, made["channel_versions"]).records


def rows(database: Database, query: str) -> list[Any]:
    with database.connection() as connection:
        return connection.execute(query).fetchall()


def of_saver(sink: Sink, _: Database) -> Any:
    assert isinstance(sink, SaverSink)
    found = sink._calls.saver.list(None)
    return sorted((t.config["configurable"]["thread_id"], t.checkpoint["id"]) for t in found)


KINDS = {
    "memory": Kind(
        "s",
        lambda buffer, database: MemorySink(refuse_hostile),
        lambda name, n: [Record(b"k%d" % n, b"v")],
        lambda name: [Record(b"k", b"hostile")],
        lambda sink, database: dict(sink.rows),  # type: ignore[attr-defined]
    ),
    "checkpoints": Kind(
        "checkpoints",
        lambda buffer, database: PostgresCheckpointSink(database, hot=HotLookup(buffer)),
        a_checkpoint,
        lambda name: [Record(b"c\x00\x00id", b"\xc1")],
        lambda sink, database: rows(
            database,
            "SELECT thread_id, checkpoint_id, metadata FROM surgetank.checkpoint_history ORDER BY 1, 2",
        ),
    ),
    "logs": Kind(
        "thread_logs",
        lambda buffer, database: log_sink(database),
        lambda name, n: [Record(LINE_KEY, LogLine(name, f"line {n}", at=float(n)).pack())],
        lambda name: [Record(LINE_KEY, b"\xc1")],
        lambda sink, database: rows(
            database, "SELECT thread_id, seq, message FROM surgetank.thread_logs ORDER BY 1, 2"
        ),
    ),
    "errors": Kind(
        "system_errors",
        lambda buffer, database: error_sink(database),
        lambda name, n: [
            Record(ERROR_KEY, ErrorReport("app", "m", fingerprint=name, at=float(n)).pack())
        ],
        lambda name: [Record(ERROR_KEY, b"\xc1")],
        lambda sink, database: rows(
            database, "SELECT fingerprint, occurrences FROM surgetank.system_errors ORDER BY 1"
        ),
    ),
    "saver": Kind(
        "checkpoints",
        lambda buffer, database: SaverSink(InMemorySaver(), faithful(None), HotLookup(buffer)),
        a_checkpoint,
        lambda name: [Record(b"c\x00\x00id", b"\xc1")],
        of_saver,
        atomic=False,
    ),
}  # fmt: skip


@dataclass
class Place:
    """A buffer, a database and the sink under test."""

    kind: Kind
    buffer: SQLiteBuffer
    clock: FakeClock
    database: Database
    sink: Sink = field(init=False)

    def __post_init__(self) -> None:
        self.sink = self.kind.make(self.buffer, self.database)

    def put(self, name: str, *numbers: int) -> None:
        for number in numbers:
            self.buffer.append(self.kind.stream, name, self.kind.good(name, number))

    def lease(self, name: str, owner: str = "worker") -> Slice:
        (leased,) = self.buffer.lease(
            self.kind.stream, Due(force=True, partition=name), owner=owner, ttl_s=TTL_S
        )
        entries = self.buffer.read(leased.lease, max_entries=100, max_bytes=1 << 20)
        return Slice(leased.lease, entries, leased.state.mark)

    def write(self, *slices: Slice) -> Any:
        return self.sink.write(list(slices), buffer_id=self.buffer.id)

    def holds(self) -> Any:
        return self.kind.holds(self.sink, self.database)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, database_url: str) -> Iterator[Place]:
    clock = FakeClock()
    buffer = SQLiteBuffer(tmp_path / "buffer.db", clock=clock)
    database = Database(database_url)
    made = Place(KINDS[request.param], buffer, clock, database)
    yield made
    made.sink.close()
    made.sink.close()  # idempotent
    database.close()
    buffer.close()


def test_what_it_wrote_is_there_with_one_result_for_each_slice(place: Place) -> None:
    before = place.holds()
    place.put("a", 1, 2)
    place.put("b", 3)
    written = place.write(place.lease("a"), place.lease("b"))
    assert len(written) == 2
    assert all(result.rows > 0 for result in written)
    assert place.holds() != before


def test_writing_the_same_again_changes_nothing(place: Place) -> None:
    """A worker wrote and died before it could tell the buffer."""
    place.put("a", 1, 2, 3)
    part = place.lease("a")
    place.write(part)
    after_first = place.holds()
    place.write(part)
    assert place.holds() == after_first
    place.clock.advance(TTL_S + 1)
    place.put("a", 4)
    again = place.lease("a", "another")
    assert [entry.seq for entry in again.entries][:3] == [entry.seq for entry in part.entries]
    place.write(again)
    once = place.holds()
    assert once != after_first, "the fourth"
    place.write(again)
    assert place.holds() == once


@pytest.mark.parametrize("place", [name for name in KINDS if KINDS[name].atomic], indirect=True)
def test_all_or_nothing(place: Place) -> None:
    """A saver's interface has no transactions: its sink says so."""
    before = place.holds()
    place.put("a", 1)
    place.put("b", 2)
    place.buffer.append(place.kind.stream, "b", place.kind.bad("b"))
    with pytest.raises(Exception) as caught:
        place.write(place.lease("a"), place.lease("b"))
    assert classify(caught.value).kind is FailureKind.REJECTED
    assert place.holds() == before, "nothing of its neighbours either"


def test_what_it_refuses_is_the_data_s_fault(place: Place) -> None:
    place.buffer.append(place.kind.stream, "b", place.kind.bad("b"))
    part = place.lease("b")
    with pytest.raises(Exception) as caught:
        place.write(part)
    assert classify(caught.value).kind is FailureKind.REJECTED
    seq = getattr(caught.value, "seq", None)
    assert seq in (None, part.entries[0].seq), "the entry that it names"


def test_a_lease_that_was_lost_can_not_write(place: Place) -> None:
    place.put("a", 1)
    lost = place.lease("a", "slow")
    place.clock.advance(TTL_S + 1)
    place.put("a", 2)
    newer = place.lease("a", "quick")
    assert newer.lease.token > lost.lease.token
    place.write(newer)
    after = place.holds()
    with pytest.raises(LeaseLost):
        place.write(lost)
    assert place.holds() == after


def test_a_probe_leaves_nothing_behind(place: Place) -> None:
    place.put("a", 1)
    place.write(place.lease("a"))
    before = place.holds()
    for _ in range(2):
        place.sink.probe(buffer_id=place.buffer.id)
    assert place.holds() == before


def test_it_says_who_answers_and_nothing_secret(place: Place) -> None:
    assert place.sink.name
    assert place.sink.ping()
    assert "@" not in place.sink.name


@pytest.mark.parametrize("place", ["checkpoints", "logs", "errors"], indirect=True)
def test_a_probe_fails_where_a_write_would(place: Place, database_url: str) -> None:
    table = {
        "checkpoints": "checkpoints",
        "thread_logs": "thread_logs",
        "system_errors": "system_errors",
    }
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f"ALTER TABLE surgetank.{table[place.kind.stream]} ADD CONSTRAINT nothing CHECK (false) NOT VALID"
        )
    with pytest.raises(psycopg.errors.CheckViolation):
        place.sink.probe(buffer_id=place.buffer.id)
