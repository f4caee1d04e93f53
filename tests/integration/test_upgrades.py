"""Upgrades lose nothing: homes as released versions left them open, are read whole, drain, and are
gone on with.

The fixtures were made by the released code (support/homes.py); each released format has one.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from support.buffers import DOWN, FakeClock, child_env
from support.graphs import agent
from support.homes import AT, FIXTURES, LEASE_S, TALKS, open_home, picture, talks, told, unpack
from surgetank.buffer.coordination import Due
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.buffer.sqlite.schema import BUFFER
from surgetank.events.sqlite import EVENTS, SQLiteEventLog
from surgetank.events.types import NewEvent
from surgetank.exceptions import BufferCorrupt, BufferProblem
from surgetank.fallback.files import SpillFiles
from surgetank.notify.alerts.sqlite_book import SQLiteAlertBook

FORMATS = (3,)


@pytest.fixture(params=FORMATS)
def old_home(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A home as that format's version left it, and what it read from it."""
    return unpack(f"home-format-{request.param}.tar.xz", tmp_path)


def version_of(path: Path) -> int:
    file = sqlite3.connect(path)
    (version,) = file.execute("PRAGMA user_version").fetchone()
    file.close()
    return int(version)


def open_buffer(home: Path, clock: FakeClock) -> SQLiteBuffer:
    return SQLiteBuffer(home / "buffer.db", clock=clock, files=SpillFiles(str(home / "fallback")))


def test_every_released_format_has_a_fixture() -> None:
    made = {
        int(path.name.split("-")[-1].split(".")[0])
        for path in FIXTURES.glob("home-format-*.tar.xz")
    }
    assert made == set(FORMATS) == set(BUFFER.upgrades)


def test_a_buffer_of_an_older_format_is_read_whole(old_home: tuple[Path, dict[str, Any]]) -> None:
    home, expected = old_home
    buffer = open_buffer(home, FakeClock(AT))
    assert picture(buffer) == expected["picture"]
    assert version_of(buffer.path) == BUFFER.version
    buffer.check()
    buffer.close()
    again = open_buffer(home, FakeClock(AT))
    assert picture(again) == expected["picture"]
    again.close()


def test_an_upgraded_file_is_made_like_a_new_one(
    old_home: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    home, _ = old_home
    open_buffer(home, FakeClock(AT)).close()
    SQLiteBuffer(tmp_path / "new.db").close()
    assert schema_of(home / "buffer.db") == schema_of(tmp_path / "new.db")


def schema_of(path: Path) -> dict[str, Any]:
    """Tables with their columns in order, and all indexes and triggers."""
    file = sqlite3.connect(path)
    names = file.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()
    tables = {
        name: file.execute(f"PRAGMA table_info({name})").fetchall()
        for kind, name, _ in names
        if kind == "table"
    }
    others = {name: " ".join((sql or "").split()) for kind, name, sql in names if kind != "table"}
    file.close()
    return {**tables, **others}


def test_an_event_log_with_alerts_of_an_older_format_is_read_whole(
    old_home: tuple[Path, dict[str, Any]],
) -> None:
    home, expected = old_home
    clock = FakeClock(AT)
    events = SQLiteEventLog(home / "buffer-events.db", clock=clock)
    book = SQLiteAlertBook(home / "buffer-events.db", clock=clock)
    assert told(events, book) == expected["told"]
    last = events.last_id()
    (event,) = events.publish([NewEvent("custom", "talk-1", {})])
    assert book.take("a", hold_s=1) is not None
    assert (event.id, event.seq) == (last + 1, events.last_seq("talk-1"))
    events.close()
    book.close()


def test_a_home_of_an_older_format_drains_and_is_gone_on_with(
    old_home: tuple[Path, dict[str, Any]], database_url: str
) -> None:
    home, expected = old_home
    clock = FakeClock(AT)
    tank = open_home(home, database_url, clock)
    assert talks(tank) == expected["talks"], "hot"
    buffer = tank.parts.buffer
    assert buffer.lease("thread_logs", Due(force=True), owner="me", ttl_s=5) == [], (
        "its holder may live"
    )
    graph = agent(tank.checkpointer())
    graph.invoke(
        {"messages": [HumanMessage("a new turn")], "steps": 3},
        {"configurable": {"thread_id": "talk-1"}},
    )
    clock.advance(LEASE_S + 1)
    job = tank.flush()
    assert job.ok, job.result
    assert [p.failure.message for p in tank.parked()] == ["a bad value"]
    assert tank.parked.retry() is not None
    depth = buffer.depth()
    assert (depth.entries, depth.bytes) == (0, 0)
    cold = talks(tank)
    assert cold["talk-2"] == expected["talks"]["talk-2"]
    assert cold["talk-spilled"] == expected["talks"]["talk-spilled"]
    before, after = expected["talks"]["talk-1"][:-1], cold["talk-1"][:-1]
    assert after[: len(before)] == before
    assert after[len(before)] == "human: a new turn"
    lines = tank.logs("talk-1", limit=100).lines
    assert [line.message for line in lines if line.message.startswith("line ")] == [
        f"line {i}" for i in range(30)
    ]
    groups = {e.error_type: e.occurrences for e in tank.errors.find().errors}
    assert groups["PaymentFailed"] == 21, (
        "the version that made it kept the rest of its storm in memory"
    )
    for thread in TALKS:
        graph.invoke(
            {"messages": [HumanMessage("on")], "steps": 3}, {"configurable": {"thread_id": thread}}
        )
    said = talks(tank)
    assert tank.flush().ok
    tank.close()
    tank = open_home(home, database_url, clock)
    assert talks(tank) == said
    tank.close()


def test_an_upgrade_that_is_killed_in_the_middle_leaves_the_format_before(
    old_home: tuple[Path, dict[str, Any]],
) -> None:
    home, expected = old_home
    path = home / "buffer.db"
    before = version_of(path)
    code = f"""
import os, signal
from pathlib import Path
from surgetank.sqlite import file as sqlite_file
from surgetank.buffer.sqlite.schema import BUFFER
plain = sqlite_file._statements
def dying(script):
    for number, statement in enumerate(plain(script)):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield statement
sqlite_file._statements = dying
sqlite_file.connect(Path({str(path)!r}), durability="process", kind=BUFFER)
"""
    done = subprocess.run([sys.executable, "-c", code], env=child_env(), timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    assert version_of(path) == before
    buffer = open_buffer(home, FakeClock(AT))
    assert picture(buffer) == expected["picture"]
    buffer.close()


def test_an_upgrade_that_fails_in_the_middle_leaves_the_format_before(
    old_home: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _ = old_home
    before = version_of(home / "buffer.db")
    broken = {
        version: script + "INSERT INTO nowhere VALUES (1);\n"
        for version, script in BUFFER.upgrades.items()
    }
    with monkeypatch.context() as patch:
        patch.setattr(type(BUFFER), "path_from", lambda _, version: [broken[version]])
        with pytest.raises(BufferProblem, match="nowhere"):
            open_buffer(home, FakeClock(AT))
    assert version_of(home / "buffer.db") == before
    open_buffer(home, FakeClock(AT)).close()


def test_processes_that_upgrade_one_file_at_once_agree(
    old_home: tuple[Path, dict[str, Any]],
) -> None:
    home, expected = old_home
    code = f"""
import sys
from pathlib import Path
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.model import Record
sys.stdin.read(1)
buffer = SQLiteBuffer(Path({str(home / "buffer.db")!r}))
print(buffer.append("upgraded", "p", [Record(b"k", b"v")]))
buffer.close()
"""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=child_env(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b".")
        child.stdin.flush()
    seqs = {int(child.communicate(timeout=60)[0]) for child in children}
    assert len(seqs) == 4
    buffer = open_buffer(home, FakeClock(AT))
    seen = picture(buffer)
    for name in ("parked", "jobs", "spills", "checkpoints/talk-1", "checkpoints/talk-spilled"):
        assert seen[name] == expected["picture"][name]
    assert buffer.last_seq("upgraded", "p") == max(seqs)
    buffer.close()


def test_a_process_that_had_the_file_open_before_the_upgrade_still_reads_and_flushes(
    old_home: tuple[Path, dict[str, Any]],
) -> None:
    home, expected = old_home
    path = home / "buffer.db"
    old = sqlite3.connect(path, isolation_level=None)
    read = (
        "SELECT r.id, r.base, r.key, r.value, r.accepted_at, r.replays FROM records r ORDER BY r.id"
    )
    before = old.execute(read).fetchall()
    new = open_buffer(home, FakeClock(AT))
    assert old.execute(read).fetchall() == before
    # What format 3's own code executes when it flushes and records a job (sqlite_leases.py,
    # sqlite_flush.py).
    name = ("thread_logs", "talk-2")
    (id_,) = old.execute("SELECT id FROM partitions WHERE stream = ? AND name = ?", name).fetchone()
    old.execute(
        "UPDATE partitions SET token = token + 1, leased_at = ?, lease_until = ? WHERE id = ?",
        (AT, AT + 5, id_),
    )
    assert (
        old.execute("DELETE FROM records WHERE partition_id = ? AND parked = 0", (id_,)).rowcount
        == 1
    )
    old.execute(
        "UPDATE partitions SET entries = 0, bytes = 0, oldest_at = NULL WHERE id = ?", (id_,)
    )
    old.execute("INSERT INTO notes VALUES (?, ?, ?, ?, NULL)", (id_, b"n", b"v", AT))
    (body,) = old.execute("SELECT body FROM jobs LIMIT 1").fetchone()
    old.execute(
        "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?)", ("j", AT, "s", "failed", body)
    )
    old.close()
    seen = picture(new)
    assert "thread_logs/talk-2" not in seen
    assert seen["checkpoints/talk-2"] == expected["picture"]["checkpoints/talk-2"]
    with new.snapshot() as snapshot:
        assert snapshot.notes(*name) == {b"n": b"v"}
    new.close()


@pytest.mark.parametrize("name", ["buffer.db", "buffer-events.db"])
def test_a_file_of_a_newer_format_is_refused_by_name_with_the_way_out(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    made = SQLiteBuffer(path) if name == "buffer.db" else SQLiteEventLog(path)
    made.close()
    kind = BUFFER if name == "buffer.db" else EVENTS
    file = sqlite3.connect(path)
    file.execute(f"PRAGMA user_version = {kind.version + 1}")
    file.close()
    before = path.read_bytes()
    with pytest.raises(
        BufferCorrupt, match=f"{kind.what} .* has format {kind.version + 1}, of a newer"
    ) as caught:
        SQLiteBuffer(path) if name == "buffer.db" else SQLiteEventLog(path)
    assert "surgetank flush" in caught.value.remedy
    assert path.read_bytes() == before


def test_a_failure_of_the_older_version_is_still_understood(
    old_home: tuple[Path, dict[str, Any]],
) -> None:
    home, _ = old_home
    clock = FakeClock(AT)
    buffer = open_buffer(home, clock)
    (leased,) = buffer.lease("checkpoints", Due(partition="bad", force=True), owner="me", ttl_s=5)
    assert leased.state.attempts == 1
    assert leased.state.failure is not None
    buffer.postpone(leased.lease, attempts=2, next_attempt_at=AT + 1, failure=DOWN)
    buffer.close()
