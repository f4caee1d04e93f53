"""How the SQLite file keeps records of one family: as differences, in short chains, whole for
whoever reads them."""

from __future__ import annotations

import random
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest

from support.buffers import child_env, drain, miscounted, read_all, take
from surgetank.buffer.coordination import Ack
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.exceptions import BufferCorrupt
from surgetank.model import Record

SEED = 20_260_101


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "buffer.db"


@pytest.fixture
def buffer(path: Path) -> Iterator[SQLiteBuffer]:
    buffer = SQLiteBuffer(path)
    yield buffer
    buffer.close()
    assert miscounted(path) == []


def bases(path: Path) -> dict[int, int | None]:
    """Which record each record is kept as a difference from."""
    with sqlite3.connect(path) as connection:
        return dict(connection.execute("SELECT id, base FROM records").fetchall())


def grown(buffer: SQLiteBuffer, count: int, *, first: int = 20_000, step: int = 200) -> int:
    """Append `count` versions of a value that grows; returns the bytes of all of them."""
    sizes = [first + i * step for i in range(count)]
    for i, size in enumerate(sizes):
        buffer.append("s", "p", [Record(b"%05d" % i, noise(SEED)[:size], b"family")])
    return sum(sizes)


def test_versions_of_a_growing_value_take_the_room_of_what_was_added(buffer: SQLiteBuffer) -> None:
    written = grown(buffer, 200)

    assert buffer.depth().bytes < written / 15
    assert len(drain(buffer)) == 200
    assert buffer.depth().bytes == 0


def test_a_version_never_stands_on_more_than_32_others(buffer: SQLiteBuffer, path: Path) -> None:
    grown(buffer, 100)
    standing = bases(path)

    def depth(id_: int) -> int:
        base = standing[id_]
        return 0 if base is None else 1 + depth(base)

    assert max(map(depth, standing)) == 32
    assert sum(base is None for base in standing.values()) == 4


def test_a_chain_without_its_beginning_is_damage_and_said_to_be(path: Path) -> None:
    with closing(SQLiteBuffer(path)) as buffer:
        grown(buffer, 3)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM records WHERE base IS NULL")
    with (
        pytest.raises(BufferCorrupt, match="builds on the record"),
        SQLiteBuffer(path).snapshot() as view,
    ):
        view.scan("s", "p", b"")


def test_a_file_of_the_format_before_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    SQLiteBuffer(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 1")
    before = path.read_bytes()
    with pytest.raises(BufferCorrupt, match="has format 1") as caught:
        SQLiteBuffer(path)
    assert "drain it" in str(caught.value)
    assert path.read_bytes() == before


def returned(raw: bytes) -> dict[int, int]:
    """The seqs that a child wrote to the pipe after `append` had returned, with the entry's
    number."""
    whole = len(raw) // 16 * 16
    return {seq: i for seq, i in struct.iter_unpack("<qq", raw[:whole]) if seq}


GROWER = """
import os, random, struct, sys
from pathlib import Path
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.model import Record
path, me, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
noise = random.Random(me).randbytes(10**6)
buffer = SQLiteBuffer(path)
os.write(1, struct.pack("<qq", 0, 0))
for i in range(count):
    value = noise[: 5000 + 100 * i]
    seq = buffer.append("s", "p", [Record(b"%d:%d" % (me, i), value, b"family")])
    os.write(1, struct.pack("<qq", seq, i))
"""


def grower(path: Path, me: int, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", GROWER, str(path), str(me), str(count)]
    return subprocess.Popen(command, env=child_env(), stdout=subprocess.PIPE)


@cache
def noise(me: int) -> bytes:
    return random.Random(me).randbytes(10**6)


def check_grown(key: bytes, value: bytes) -> None:
    me, i = map(int, key.split(b":"))
    assert value == noise(me)[: 5000 + 100 * i]


def test_versions_of_writers_that_were_killed_are_whole_while_others_flush(path: Path) -> None:
    rng = random.Random(SEED)
    promised: dict[int, bytes] = {}
    there: dict[int, bytes] = {}
    buffer = SQLiteBuffer(path)
    for round_ in range(6):
        with grower(path, round_, 3000) as child:
            assert child.stdout is not None
            raw = child.stdout.read(16 * rng.randrange(2, 60))
            lease = take(buffer).lease
            entries = read_all(buffer, lease)
            some = entries[: rng.randrange(len(entries))]
            buffer.ack([Ack(lease, some, release=True)])
            raw += child.stdout.read(16 * rng.randrange(2, 60))
            child.send_signal(signal.SIGKILL)
            raw += child.stdout.read()
        promised |= {seq: b"%d:%d" % (round_, i) for seq, i in returned(raw).items()}
        for entry in some:
            check_grown(entry.records[0].key, entry.records[0].value)
            there[entry.seq] = entry.records[0].key
    for entry in drain(buffer):
        check_grown(entry.records[0].key, entry.records[0].value)
        assert there.setdefault(entry.seq, entry.records[0].key) == entry.records[0].key
    assert {seq: there.get(seq) for seq in promised} == promised, f"seed {SEED}"
    depth = buffer.depth()
    assert (depth.entries, depth.bytes) == (0, 0)
    buffer.check()
    buffer.close()


def test_two_processes_write_versions_of_one_family_at_once(path: Path) -> None:
    SQLiteBuffer(path).close()
    children = [grower(path, me, 200) for me in (1, 2)]
    told = [returned(child.communicate(timeout=60)[0]) for child in children]
    buffer = SQLiteBuffer(path)
    entries = drain(buffer)
    for entry in entries:
        check_grown(entry.records[0].key, entry.records[0].value)
    assert sorted(e.seq for e in entries) == sorted([*told[0], *told[1]])
    buffer.close()
