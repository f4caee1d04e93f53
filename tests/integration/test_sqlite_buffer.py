"""What the SQLite buffer promises about its file: kills, strangers, damage, full disks, size,
forks."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.buffers import (
    DOWN,
    FakeClock,
    child_env,
    drain,
    put,
    read_all,
    take,
    values,
    wait_until,
)
from surgetank.buffer.coordination import Ack, Due
from surgetank.buffer.sqlite import writers
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.exceptions import (
    BufferCorrupt,
    BufferUnavailable,
    ConfigurationError,
    LeaseLost,
)
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


# -- kill -9

APPENDER = """
import os, struct, sys
from pathlib import Path
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.model import Record
path, me, seed, count = Path(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3]), int(sys.argv[4])
import random
rng = random.Random(seed)
buffer = SQLiteBuffer(path)
os.write(1, struct.pack("<qq", 0, 0))
for i in range(count):
    value = rng.randbytes(rng.choice([1, 100, 5_000, 200_000]))
    seq = buffer.append("s", f"p{i % 3}", [Record(b"%s:%d" % (me, i), value), Record(b"size", b"%d" % len(value))])
    os.write(1, struct.pack("<qq", seq, i))
"""


def appender(path: Path, me: str, seed: int, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(path), me, str(seed), str(count)],
        env=child_env(), stdout=subprocess.PIPE,
    )  # fmt: skip


def returned(raw: bytes) -> dict[int, int]:
    """The seqs that a child wrote to the pipe after `append` had returned, with the entry's
    number."""
    whole = len(raw) // 16 * 16
    return {seq: i for seq, i in struct.iter_unpack("<qq", raw[:whole]) if seq}


def test_everything_that_append_returned_for_is_there_after_kill_9(path: Path) -> None:
    rng = random.Random(SEED)
    promised: dict[int, bytes] = {}
    for round_ in range(8):
        with appender(path, f"r{round_}", SEED + round_, 10**6) as child:
            assert child.stdout is not None
            first = child.stdout.read(16)
            time.sleep(rng.uniform(0.0, 0.12))  # the kill falls somewhere: that is the point
            child.send_signal(signal.SIGKILL)
            raw = first + child.stdout.read()
        promised |= {seq: b"r%d:%d" % (round_, i) for seq, i in returned(raw).items()}

    buffer = SQLiteBuffer(path)
    buffer.check()
    depth = buffer.depth()
    entries = drain(buffer)
    there = {e.seq: e.records[0].key for e in entries}
    assert len(promised) > 50, f"seed {SEED}"
    assert {seq: there.get(seq) for seq in promised} == promised, f"seed {SEED}"
    assert len(there) - len(promised) <= 8, "at most the entry that was under way at each kill"
    for entry in entries:
        assert len(entry.records) == 2
        assert entry.records[1].value == b"%d" % len(entry.records[0].value)
    assert (depth.entries, depth.bytes) == (len(entries), sum(e.size for e in entries))
    assert put(buffer) > max(there)
    buffer.close()


def test_a_killed_flusher_loses_nothing_and_its_lease_ends_by_itself(path: Path) -> None:
    clock = FakeClock()
    buffer = SQLiteBuffer(path, clock=clock)
    for i in range(50):
        put(buffer, "p", b"%d" % i)
    code = f"""
import os, signal
from pathlib import Path
from support.buffers import *
buffer = SQLiteBuffer(Path({str(path)!r}), clock=FakeClock({clock.now!r}))
lease = take(buffer).lease
buffer.ack([Ack(lease, buffer.read(lease, max_entries=20, max_bytes=10**6))])
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], env=child_env(), timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    assert buffer.lease("s", Due(force=True), owner="me", ttl_s=15) == []
    clock.advance(15)
    assert values(drain(buffer)) == [b"%d" % i for i in range(20, 50)]
    buffer.close()


def test_two_processes_append_at_once_in_one_total_order_without_loss(path: Path) -> None:
    SQLiteBuffer(path).close()
    children = [appender(path, name, SEED, 150) for name in ("a", "b")]
    raw = [child.communicate(timeout=60)[0] for child in children]
    told = [returned(r) for r in raw]
    assert [len(t) for t in told] == [150, 150]
    buffer = SQLiteBuffer(path)
    entries = drain(buffer)
    there = {e.seq: e.records[0].key for e in entries}
    assert there == {
        s: b"%s:%d" % (me, i)
        for me, t in zip((b"a", b"b"), told, strict=True)
        for s, i in t.items()
    }
    for seqs in told:
        assert list(seqs) == sorted(seqs)
    buffer.close()


# -- strangers and damage


def other_program(path: Path, journal: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("CREATE TABLE theirs (x)")
        connection.execute("INSERT INTO theirs VALUES (1)")
    connection.close()


def files(folder: Path) -> dict[str, bytes]:
    return {
        f.name: f.read_bytes() for f in folder.iterdir() if not f.name.endswith(("-wal", "-shm"))
    }


@pytest.mark.parametrize(
    "stranger", ["text", "short text", "sqlite", "sqlite in WAL mode", "named sqlite"]
)
def test_a_file_of_another_program_is_named_and_left_as_it_is(path: Path, stranger: str) -> None:
    if "text" in stranger:
        path.write_text("dear diary\n" * (1 if "short" in stranger else 10_000))
    else:
        other_program(path, "WAL" if "WAL" in stranger else "DELETE")
    if "named" in stranger:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA application_id = 7")
        connection.close()
    before = files(path.parent)
    with pytest.raises(BufferCorrupt, match=r"left as it is.*Way out"):
        SQLiteBuffer(path)
    assert files(path.parent) == before


def test_a_buffer_of_a_newer_format_is_named_and_left_as_it_is(path: Path) -> None:
    SQLiteBuffer(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = files(path.parent)
    with pytest.raises(BufferCorrupt, match=r"format 99.*Way out"):
        SQLiteBuffer(path)
    assert files(path.parent) == before


def test_an_empty_file_becomes_a_buffer(path: Path) -> None:
    path.touch()
    buffer = SQLiteBuffer(path)
    assert put(buffer) > 0
    buffer.close()


def filled(path: Path) -> int:
    """A closed buffer with 2 MB in it; returns the file's size."""
    buffer = SQLiteBuffer(path)
    for i in range(400):
        put(buffer, f"p{i % 7}", random.Random(i).randbytes(5000))
    buffer.close()
    return path.stat().st_size


def use_everything(path: Path) -> None:
    buffer = SQLiteBuffer(path)
    try:
        buffer.check()
        drain(buffer)
        put(buffer)
    finally:
        buffer.close()


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.1])
def test_a_truncated_buffer_is_named_and_left_as_it_is(path: Path, keep: float) -> None:
    os.truncate(path, int(filled(path) * keep))
    before = files(path.parent)
    with pytest.raises(BufferCorrupt, match=r"(?s)damaged.*left as it is.*Way out"):
        use_everything(path)
    assert files(path.parent) == before


@pytest.mark.parametrize("at", [100, 4096, 3 * 4096, 20 * 4096])
def test_a_damaged_page_is_named_and_left_as_it_is(path: Path, at: int) -> None:
    filled(path)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(random.Random(SEED).randbytes(4096 - at % 4096))
    before = files(path.parent)
    with pytest.raises(BufferCorrupt, match=r"(?s)damaged.*left as it is.*Way out"):
        use_everything(path)
    assert files(path.parent) == before


def test_a_damaged_header_is_named_and_left_as_it_is(path: Path) -> None:
    filled(path)
    with path.open("r+b") as file:
        file.write(b"SQLite format 3\x00" + b"\xee" * 84)
    before = files(path.parent)
    with pytest.raises(BufferCorrupt, match=r"left as it is"):
        SQLiteBuffer(path)
    assert files(path.parent) == before


def test_check_is_quiet_on_a_healthy_file(buffer: SQLiteBuffer) -> None:
    put(buffer)
    buffer.check()


# -- places that can't be used


@pytest.mark.parametrize("below", ["buffer.db", "deep/er/buffer.db"])
def test_a_place_below_a_file_is_unavailable_with_a_way_out(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(BufferUnavailable, match="Way out: set SURGETANK_HOME"):
        SQLiteBuffer(tmp_path / "file" / below)


def test_a_folder_in_the_place_of_the_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(BufferUnavailable, match="Way out"):
        SQLiteBuffer(tmp_path)


def test_missing_folders_are_made(tmp_path: Path) -> None:
    buffer = SQLiteBuffer(tmp_path / "a" / "b" / "buffer.db")
    assert put(buffer) > 0
    buffer.close()


# -- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no right to mount a small file system: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(buffer: SQLiteBuffer, size: int, accepted: list[int]) -> None:
    """Append until the disk is full."""
    while True:
        accepted.append(put(buffer, f"p{len(accepted) % 5}", bytes(size)))


def test_on_a_full_disk_nothing_accepted_is_lost_and_work_goes_on_when_there_is_space(
    small_disk: Path,
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_000_000))
    buffer = SQLiteBuffer(small_disk / "buffer.db")
    accepted: list[int] = []
    for size in (50_000, 5_000, 100, 1):
        with pytest.raises(
            BufferUnavailable, match=r"full.*not accepted.*Way out: free some space"
        ):
            fill(buffer, size, accepted)
    with buffer.snapshot() as view:
        assert {f.seq for n in view.partitions("s") for f in view.scan("s", n, b"")} == set(
            accepted
        )
    assert buffer.depth().entries == len(accepted)

    ballast.unlink()
    accepted.append(put(buffer, "p0", b"after"))
    buffer.close()
    buffer = SQLiteBuffer(small_disk / "buffer.db")
    buffer.check()
    assert sorted(e.seq for e in drain(buffer)) == accepted
    buffer.close()


def test_an_append_that_found_the_disk_full_leaves_no_trace_in_later_ones(
    buffer: SQLiteBuffer,
) -> None:
    writer = buffer.file.writer
    assert writer is not None
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall()
    with pytest.raises(BufferUnavailable, match="full"):
        put(buffer, "one", bytes(1_000_000))
    writer.execute("PRAGMA max_page_count = 1000000").fetchall()

    put(buffer, "two", b"of two")
    put(buffer, "one", b"of one")

    with buffer.snapshot() as view:
        assert {n: view.latest("s", n, [b"k"])[b"k"].value for n in view.partitions("s")} == {
            "one": b"of one",
            "two": b"of two",
        }


def test_a_file_size_limit_of_the_process_is_unavailable_with_a_way_out(path: Path) -> None:
    code = f"""
import resource, signal
from pathlib import Path
from support.buffers import *
from surgetank.exceptions import BufferUnavailable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
buffer = SQLiteBuffer(Path({str(path)!r}))
put(buffer, "p", b"kept")
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    for i in range(100): put(buffer, "p", bytes(50_000))
    raise SystemExit("no error")
except BufferUnavailable as error:
    assert "Way out" in str(error), error
with buffer.snapshot() as view: assert view.scan("s", "p", b"")[0].value == b"kept"
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=child_env(),
        timeout=30,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    buffer = SQLiteBuffer(path)
    buffer.check()
    assert values(drain(buffer))[0] == b"kept"
    buffer.close()


# -- size, durability, forks


def test_the_file_is_small_again_after_a_hundred_megabytes_went_through(
    buffer: SQLiteBuffer,
) -> None:
    for i in range(100):
        put(buffer, f"p{i % 10}", bytes(1_000_000))
    assert buffer.depth().file_bytes > 100_000_000
    assert len(drain(buffer)) == 100
    for _ in range(3):
        buffer.maintain()
    assert buffer.depth().file_bytes < 2_000_000


def test_the_file_stays_bounded_while_data_goes_through(buffer: SQLiteBuffer) -> None:
    largest = 0
    for _ in range(30):
        for i in range(20):
            put(buffer, f"p{i}", bytes(100_000))
        drain(buffer)
        buffer.maintain()
        largest = max(largest, buffer.depth().file_bytes)
    assert largest < 40_000_000


@pytest.mark.parametrize(("durability", "level"), [("process", 1), ("power", 2)])
def test_durability_decides_whether_every_commit_is_synced(
    path: Path, durability: str, level: int
) -> None:
    buffer = SQLiteBuffer(path, durability=durability)  # type: ignore[arg-type]
    assert buffer.file.writer is not None
    assert buffer.file.writer.execute("PRAGMA synchronous").fetchone() == (level,)
    assert buffer.file.writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert put(buffer) > 0
    buffer.close()


def test_an_unknown_durability_is_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Way out"):
        SQLiteBuffer(path, durability="none")  # type: ignore[arg-type]
    assert not path.exists()


FORKED = """
import os, threading
from pathlib import Path
from support.buffers import *
from surgetank.exceptions import BufferUnavailable
buffer = SQLiteBuffer(Path({path!r}))
put(buffer, "p", b"parent")
lease = take(buffer).lease
if {held}:
    locked = threading.Event()
    def hold():
        with buffer.file.lock: locked.set(); threading.Event().wait()
    threading.Thread(target=hold, daemon=True).start(); locked.wait()
child = os.fork()
if child == 0:
    bad = 0
    for use in (
        lambda: put(buffer), lambda: buffer.depth(), lambda: buffer.snapshot().__enter__(), lambda: buffer.states(),
        lambda: buffer.lease("s", Due(), owner="x", ttl_s=1), lambda: buffer.ack([Ack(lease, [])]),
        lambda: buffer.maintain(), lambda: buffer.retry_now(),
    ):
        try: use(); bad += 1
        except BufferUnavailable as error: bad += "forked" not in str(error) or "Way out" not in str(error)
    os._exit(bad)
_, status = os.waitpid(child, 0)
os._exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("held", [False, True])
def test_a_forked_child_is_told_to_open_its_own_buffer(path: Path, held: bool) -> None:
    code = FORKED.format(path=str(path), held=held)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=child_env(), timeout=20, check=False
    )
    assert done.returncode == 0


def test_a_reader_never_waits_for_a_writer(buffer: SQLiteBuffer) -> None:
    put(buffer, "p", b"1")
    entered, go = threading.Event(), threading.Event()
    buffer.append("s", "g", [Record(b"k", b"")], start_guarding=True)

    def guard(view: object) -> None:
        entered.set()
        assert go.wait(20)

    writer = threading.Thread(
        target=lambda: buffer.append("s", "g", [Record(b"k", b"")], guard=guard)
    )
    writer.start()
    assert entered.wait(20)
    with buffer.snapshot() as view:
        assert view.latest("s", "p", [b"k"])[b"k"].value == b"1"
    assert buffer.depth().entries == 2
    go.set()
    writer.join(20)
    assert buffer.depth().entries == 3


def test_appends_that_wait_are_committed_together(buffer: SQLiteBuffer) -> None:
    """With `power` one fsync then serves them all."""
    buffer.append("s", "g", [Record(b"k", b"")], start_guarding=True)
    entered, go = threading.Event(), threading.Event()
    commits: list[str] = []

    def guard(view: object) -> None:
        entered.set()
        assert go.wait(20)

    first = threading.Thread(
        target=lambda: buffer.append("s", "g", [Record(b"k", b"")], guard=guard)
    )
    first.start()
    assert entered.wait(20)
    others = [threading.Thread(target=put, args=(buffer, f"p{i}")) for i in range(12)]
    for thread in others:
        thread.start()
    wait_until(lambda: len(buffer.log.waiting) == 12)
    assert buffer.file.writer is not None
    buffer.file.writer.set_trace_callback(
        lambda sql: commits.append(sql) if sql == "COMMIT" else None
    )
    go.set()
    for thread in [first, *others]:
        thread.join(20)
    assert len(commits) == 2
    assert buffer.depth().entries == 14


def test_a_postponed_partition_keeps_its_entries_over_a_restart(path: Path) -> None:
    clock = FakeClock()
    buffer = SQLiteBuffer(path, clock=clock)
    put(buffer, "p", b"kept")
    buffer.postpone(take(buffer).lease, attempts=7, next_attempt_at=clock.now + 60, failure=DOWN)
    buffer.close()
    again = SQLiteBuffer(path, clock=clock)
    assert again.lease("s", Due(), owner="w", ttl_s=1) == []
    leased = take(again)
    assert (leased.state.attempts, leased.state.failure) == (7, DOWN)
    assert again.ack([Ack(leased.lease, read_all(again, leased.lease))]) == []
    again.close()


def test_the_append_after_housekeeping_does_not_have_to_start_the_log_anew(
    buffer: SQLiteBuffer, path: Path
) -> None:
    def salt() -> bytes:  # https://www.sqlite.org/fileformat.html#the_write_ahead_log
        return path.with_name(path.name + "-wal").read_bytes()[16:24]

    put(buffer, "p", bytes(4_000_000))
    before = salt()
    buffer.maintain()
    after = salt()
    assert after != before
    buffer.maintain()  # nothing to move: the log stays as it is
    put(buffer)
    assert salt() == after


class _Interrupting:
    """A connection on which Ctrl-C comes before or after a COMMIT."""

    def __init__(self, connection: sqlite3.Connection, moment: str) -> None:
        self._connection, self._moment = connection, moment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *parameters: Any) -> Any:
        if sql == "COMMIT" and self._moment == "before":
            raise KeyboardInterrupt
        done = self._connection.execute(sql, *parameters)
        if sql == "COMMIT":
            raise KeyboardInterrupt
        return done


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_in_one_thread_tells_the_others_of_its_group_the_truth(tmp_path, moment):
    buffer = SQLiteBuffer(tmp_path / "buffer.db")
    writer: Any = buffer.file.writer
    with ThreadPoolExecutor(1) as pool:
        with buffer.file.lock:
            neighbour = pool.submit(put, buffer, "neighbour")
            wait_until(lambda: len(buffer.log.waiting) == 1)
            buffer.file.writer = _Interrupting(writer, moment)  # type: ignore[assignment]
            with pytest.raises(KeyboardInterrupt):
                put(buffer, "mine")
            buffer.file.writer = writer
        if moment == "before":
            with pytest.raises(BufferUnavailable, match="not accepted"):
                neighbour.result(timeout=20)
        else:
            assert neighbour.result(timeout=20) > 0
    assert [s.partition for s in buffer.states()] == (
        ["neighbour", "mine"] if moment == "after" else []
    )
    assert put(buffer, "next") > 0
    buffer.close()


def test_an_append_that_was_interrupted_while_it_waited_is_not_accepted_later(tmp_path):
    buffer = SQLiteBuffer(tmp_path / "buffer.db")

    class Interrupted:
        def __enter__(self) -> None:
            raise KeyboardInterrupt

        def __exit__(self, *exc: object) -> None:
            """Never entered."""

    lock: Any = buffer.file.lock
    buffer.file.lock = Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        put(buffer, "mine")
    buffer.file.lock = lock
    put(buffer, "next")
    assert [s.partition for s in buffer.states()] == ["next"]
    buffer.close()


def test_a_damaged_name_is_a_damaged_file_and_no_decoding_error(path):
    buffer = SQLiteBuffer(path)
    put(buffer, "a-name-to-be-damaged")
    buffer.space.move_wal(truncate=True)
    buffer.close()
    path.write_bytes(path.read_bytes().replace(b"to-be-damaged", b"to-be-d\xffmaged"))
    damaged = SQLiteBuffer(path)
    with pytest.raises(BufferCorrupt, match="is damaged"):
        damaged.states()
    with pytest.raises(BufferCorrupt, match="is damaged"):
        damaged.lease("s", Due(force=True), owner="w", ttl_s=1.0)
    damaged.close()


OPEN_AND_CLOSE = """
import sys
from pathlib import Path
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
SQLiteBuffer(Path(sys.argv[1])).close()
"""


def test_a_process_that_opens_the_file_twice_keeps_its_locks(path: Path) -> None:
    """Closing any descriptor of a file drops a process's POSIX locks on it: then another process,
    when it closes, takes itself for the last one and deletes the WAL that is still written to.
    """
    first = SQLiteBuffer(path)
    second = SQLiteBuffer(path)
    first.append("s", "p", [Record(b"k", b"before")])
    subprocess.run([sys.executable, "-c", OPEN_AND_CLOSE, str(path)], check=True, env=child_env())
    first.append("s", "p", [Record(b"k", b"after")])
    with sqlite3.connect(path) as outsider:
        (seen,) = outsider.execute("SELECT count(*) FROM records").fetchone()
    outsider.close()
    assert seen == 2
    second.close()
    first.close()


def test_only_the_writers_that_came_last_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "_KEPT", 3)
    clock = FakeClock()
    buffer = SQLiteBuffer(tmp_path / "buffer.db", clock=clock)
    for number in range(10):
        clock.advance(1)
        buffer.raise_fence("s", f"p{number}", 8)
    buffer.maintain()
    with sqlite3.connect(tmp_path / "buffer.db") as connection:
        rows = connection.execute(
            "SELECT (SELECT count(*) FROM writers), (SELECT count(*) FROM partitions)"
        ).fetchone()
    assert rows == (4, 4), "the bound, and the one at it"
    with pytest.raises(LeaseLost):
        buffer.raise_fence("s", "p9", 7)
    buffer.raise_fence("s", "p0", 7)
    buffer.close()
