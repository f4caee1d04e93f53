"""A stream is a folder and one line: this file is the folder (a codec, a sink in memory), `TOY` is
the line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.memory_sink import MemorySink
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.exceptions import ConfigurationError, SinkError
from surgetank.flush.policy import StreamPolicy
from surgetank.model import Record
from surgetank.streams.installed import STREAMS
from surgetank.streams.stream import Stream, Streams

KEY = b"visit"
VISITS = Stream(
    name="visits", subject="user", entries="visits", make_sink=lambda at: MemorySink(), in_database=False,
    policy=StreamPolicy(entries=1, age_s=0.0),
)  # fmt: skip


def encode(page: str) -> Record:
    return Record(KEY, json.dumps({"page": page}).encode())


def visit(tank: Surgetank, user: str, page: str) -> int:
    return tank.parts.buffer.append(VISITS.name, user, [encode(page)])


class Users:
    """An engine with the toy stream, and the sink that it made."""

    def __init__(self, home: Path, database_url: str, *, background: bool = False) -> None:
        self.sink = MemorySink()
        self.tank = Surgetank(
            home, database_url=database_url, flush_in_process=background, critical_after=0.05, retry_base=0.05,
            retry_max=0.1, breaker_max=0.1, flush_tick=0.02,
            streams=[replace(VISITS, make_sink=lambda at: self.sink)],
        )  # fmt: skip

    def fail(self, error: Exception, user: str | None = None) -> None:
        def fault(call: int, slices: object) -> None:
            if user is None or any(part.lease.partition == user for part in slices):  # type: ignore[attr-defined]
                raise error

        self.sink.faults = [fault]


@pytest.fixture
def users(tmp_path: Path, fresh_database: str) -> Iterator[Users]:
    made = Users(tmp_path / "home", fresh_database)
    with made.tank:
        yield made


@pytest.fixture
def flushing(tmp_path: Path, fresh_database: str) -> Iterator[Users]:
    made = Users(tmp_path / "home", fresh_database, background=True)
    with made.tank:
        yield made


def test_it_is_flushed_by_name_and_with_all_others(users: Users) -> None:
    visit(users.tank, "anna", "/")
    assert users.tank.flush(VISITS.name).result["rows_flushed"] == 1
    visit(users.tank, "ben", "/cart")
    assert users.tank.flush().ok
    assert set(users.sink.rows) == {("anna", KEY), ("ben", KEY)}


def test_it_is_flushed_in_the_background(flushing: Users) -> None:
    visit(flushing.tank, "anna", "/")
    wait_until(lambda: ("anna", KEY) in flushing.sink.rows, "the flush")


def test_a_failing_partition_is_a_banner_that_calls_it_by_its_subject(users: Users) -> None:
    users.fail(SinkError("anna's shelf is in use"), "anna")
    visit(users.tank, "anna", "/")
    assert not users.tank.flush(VISITS.name).ok
    status = users.tank.status(ping=False)
    (state,) = status.failing
    assert (state.stream, state.partition) == (VISITS.name, "anna")
    banner = next(notice for notice in status.notices if "anna" in notice.message)
    assert banner.message.startswith("The user 'anna' is saved later")
    assert banner.thread_id is None
    assert "thread" not in banner.message


def test_a_sink_that_is_away_is_told_of_and_the_recovery_too(flushing: Users) -> None:
    tank = flushing.tank
    flushing.fail(ConnectionError("the shop is closed"))
    visit(tank, "anna", "/")

    def banner() -> bool:
        return any(
            "the sink of visits can't be reached" in notice.message
            for notice in tank.status(ping=False).notices
        )

    def is_open() -> bool:
        sinks = tank.status(ping=False).sinks
        return next(s for s in sinks if s.stream == VISITS.name).breaker != "closed"

    wait_until(banner, "the banner")
    wait_until(is_open, "the breaker")
    wait_until(tank.incidents, "the incident")
    (incident,) = tank.incidents()
    assert (incident.thread_id, incident.affected) == (None, 1)
    flushing.sink.faults = []
    wait_until(lambda: ("anna", KEY) in flushing.sink.rows, "the flush")
    wait_until(lambda: not banner(), "the end of the banner")


def test_what_needs_an_operator_is_a_system_error(users: Users) -> None:
    users.fail(ConfigurationError("The shop has no shelf.", remedy="build one."), "anna")
    visit(users.tank, "anna", "/")
    users.tank.flush(VISITS.name)
    (notice,) = users.tank.status(ping=False).notices
    assert notice.severity == "critical"
    assert "the sink of visits refuses it" in notice.message
    assert "build one." in notice.message
    (found,) = users.tank.errors.find().errors
    assert (found.error_context["stream"], found.error_context["affected"]) == (VISITS.name, 1)


def test_a_refused_entry_is_parked_and_told_with_the_subject(users: Users) -> None:
    users.sink.faults = [refuse]
    visit(users.tank, "anna", "refused")
    visit(users.tank, "anna", "/")
    users.tank.flush(VISITS.name)
    (parked,) = users.tank.parked()
    assert (parked.stream, parked.partition) == (VISITS.name, "anna")
    assert any(
        "One entry of the user 'anna'" in n.message for n in users.tank.status(ping=False).notices
    )
    assert json.loads(users.sink.rows["anna", KEY]) == {"page": "/"}


def refuse(call: int, slices: object) -> None:
    for part in slices:  # type: ignore[attr-defined]
        for entry in part.entries:
            if b"refused" in entry.records[0].value:
                raise ValueError("the shop takes no such visit")


def test_a_frozen_sink_holds_up_neither_spilling_nor_telling(
    tmp_path: Path, fresh_database: str
) -> None:
    sink = MemorySink()
    sink.gate = threading.Event()
    tank = Surgetank(
        tmp_path / "home", database_url=fresh_database, fallback_url=(tmp_path / "spilled").as_uri(),
        fallback_fill=0.3, buffer_max_bytes=1024**2, flush_tick=0.02, flush_on_close=False,
        streams=[replace(VISITS, make_sink=lambda at: sink)],
    )  # fmt: skip
    with tank:
        visit(tank, "anna", "/")
        assert sink.entered.wait(20)
        try:
            for number in range(10):
                visit(tank, "ben", f"/{number}" * 16_000)
            wait_until(tank.parts.buffer.spilled_entries, "spilling")
            wait_until(
                lambda: any(
                    "fallback location" in n.message for n in tank.status(ping=False).notices
                ),
                "the banner",
            )
            assert not sink.rows
        finally:
            sink.gate.set()


def test_its_migrations_are_ordered_with_all_others(tmp_path: Path, fresh_database: str) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "9001_visits.sql").write_text(
        "CREATE TABLE surgetank.visits (page text);", encoding="utf-8"
    )
    stream = replace(VISITS, migrations=folder, relations=("visits",))
    with Surgetank(tmp_path / "home", database_url=fresh_database, streams=[stream]) as tank:
        tank.parts.database.prepare()  # unless a thread of the engine has done so already
        with tank.parts.database.connection() as connection:
            applied = connection.execute(
                "SELECT version, name FROM surgetank.schema_migrations ORDER BY version"
            ).fetchall()
            assert applied[-1] == (9001, "visits")
            rows = connection.execute(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = 'surgetank'"
            ).fetchall()
    owned = [name for each in (*STREAMS, stream) for name in each.relations]
    assert len(set(owned)) == len(owned)
    assert set(owned) <= {name for (name,) in rows}


@pytest.mark.parametrize(
    "module", ["flush", "spilling", "sinks", "notify", "buffer", "events", "sqlite"]
)
def test_no_room_beneath_knows_a_stream_by_name(module: str) -> None:
    source = Path(__file__).parents[2] / "src" / "surgetank" / module
    names = [f'"{stream.name}"' for stream in STREAMS] + [
        "envelope.STREAM",
        "logline.STREAM",
        "groups.STREAM",
    ]
    named = {
        'channels.py: "system_errors"'
    }  # the table that the channel fills, no stream that it asks for
    found = {
        f"{file.name}: {name}"
        for file in source.rglob("*.py")
        for name in names
        if name in file.read_text()
    }
    assert found <= named


def test_partitions_with_one_subject_are_one_concern() -> None:
    streams = Streams([*STREAMS, VISITS])
    assert streams.concern("checkpoints", "x") == streams.concern("thread_logs", "x")
    assert streams.concern("checkpoints", "x").thread_id == "x"
    assert streams.concern("visits", "x") == ("user:x", None, "The user 'x'")
    assert streams.concern("system_errors", "x") == (
        "stream:system_errors",
        None,
        "The stream 'system_errors'",
    )
    assert streams.concern("of_a_later_version", "x").key == "stream:of_a_later_version"
    assert streams.sharing("thread_logs") == streams.of_threads == ("checkpoints", "thread_logs")
