"""A full disk: nothing is lost, what waits is flushed, `status`, `doctor` and `flush` work, and it
goes on by itself.

On a small file system of its own where mounting is allowed; and with a disk that is made to look
full everywhere.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from support import workload
from support.buffers import child_env, drain, put, values, wait_until
from support.commands import run_command
from support.tanks import MakeTank
from surgetank import BufferFull, Surgetank
from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.sqlite import reserve
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.exceptions import BufferProblem, BufferUnavailable

MIB = 1024**2
REJECT = BufferLimits(when_full="reject")


class FakeDisk:
    """How much is free, as the test says; what the reserve gives up is added."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 1 << 30
        monkeypatch.setattr(reserve, "_EVERY_S", 0.0)
        monkeypatch.setattr(reserve, "free_bytes", lambda _: self.free)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FakeDisk:
    return FakeDisk(monkeypatch)


def open_buffer(folder: Path, **options: Any) -> SQLiteBuffer:
    return SQLiteBuffer(
        folder / "buffer.db",
        limits=REJECT,
        reserve_bytes=8 * MIB,
        last_words=frozenset(("errors",)),
        **options,
    )


def test_appends_are_refused_by_name_while_flushing_goes_on_and_space_ends_it(
    tmp_path: Path, disk: FakeDisk
) -> None:
    buffer = open_buffer(tmp_path)
    buffer.maintain()
    assert buffer.file.reserve.path.stat().st_blocks * 512 >= 8 * MIB, "really allocated"
    put(buffer, "p", b"before")
    disk.free = MIB
    with pytest.raises(BufferFull, match=r"disk that holds the buffer .* is full") as caught:
        put(buffer, "p", b"refused")
    assert "free some space" in caught.value.remedy
    put(buffer, "e", b"told", stream="errors")
    depth = buffer.depth()
    assert (depth.disk_full, depth.disk_free) == (True, MIB)
    assert depth.max_bytes == depth.bytes
    assert buffer.fill() == 1.0
    assert values(drain(buffer)) == [b"before"]
    buffer.maintain()
    disk.free = 3 * MIB  # not enough yet: it would be refused again at once
    with pytest.raises(BufferFull):
        put(buffer, "p", b"refused")
    disk.free = 1 << 30
    put(buffer, "p", b"after")
    assert values(drain(buffer)) == [b"after"]
    buffer.close()


def test_the_reserve_is_given_up_piece_by_piece_and_made_again(
    tmp_path: Path, disk: FakeDisk
) -> None:
    buffer = open_buffer(tmp_path)
    put(buffer, "p", b"v")
    buffer.maintain()
    path = buffer.file.reserve.path
    sizes = [path.stat().st_size]
    disk.free = 0
    for _ in range(20):
        buffer.last_seq("s")
        buffer.retry_now("s")  # any small write
        sizes.append(path.stat().st_size)
    assert sizes[0] == 8 * MIB
    assert sizes[1] == 7 * MIB
    assert sorted(sizes, reverse=True) == sizes
    assert sizes[-1] == MIB, "the last of it is for opening"
    buffer.close()
    buffer = open_buffer(tmp_path)
    assert path.stat().st_size < MIB
    assert values(drain(buffer)) == [b"v"]
    disk.free = 1 << 30
    buffer.maintain()
    assert path.stat().st_size == 8 * MIB
    buffer.close()
    assert not path.exists(), "nothing waits: nothing is set aside"


def test_acknowledged_entries_and_copies_go_first_when_space_is_short(
    tmp_path: Path, disk: FakeDisk
) -> None:
    buffer = open_buffer(tmp_path)
    for i in range(200):
        put(buffer, "p", bytes([i]) * 20_000)
    drain(buffer)
    for i in range(200):
        put(buffer, "p", bytes([i]) * 20_000)
    buffer.maintain()
    before = buffer.depth().file_bytes
    disk.free = MIB
    assert len(drain(buffer)) == 200
    assert buffer.depth().file_bytes < before / 4
    buffer.close()


def test_a_write_that_meets_a_full_disk_is_refused_by_name_and_tried_again(tmp_path: Path) -> None:
    buffer = open_buffer(tmp_path)
    for i in range(10):
        put(buffer, "p", b"%d" % i * 1000)
    assert buffer.file.writer is not None
    (pages,) = buffer.file.writer.execute("PRAGMA page_count").fetchone()
    # SQLITE_FULL, whatever the disk has
    buffer.file.writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(BufferUnavailable, match="full") as caught:
        put(buffer, "p", bytes(100_000))
    assert "free some space" in caught.value.remedy
    assert buffer.file.reserve.is_short() or buffer.file.reserve.free() > 0
    assert len(drain(buffer)) == 10
    put(buffer, "p", b"fits")
    assert values(drain(buffer)) == [b"fits"]
    buffer.file.writer.execute("PRAGMA max_page_count = 1000000")
    put(buffer, "p", bytes(100_000))
    buffer.close()


def test_status_says_that_the_disk_is_full_and_the_way_out(
    make_tank: MakeTank, disk: FakeDisk
) -> None:
    tank = make_tank(disk_reserve=8 * MIB, buffer_when_full="reject")
    saver = tank.checkpointer()
    workload.put(saver, "t", 1, None, ["before"])
    disk.free = MIB
    with pytest.raises(BufferFull, match="disk"):
        workload.put(saver, "t", 2, 1, ["refused"])
    notices = [n for n in tank.status().notices if "disk" in n.message]
    assert [n.severity for n in notices] == ["critical"]
    assert "Free some space" in notices[0].message
    tank.log_system_error("custom", "can be told")
    tank.broadcast_run_event("progress", thread_id="t", percent=1)
    assert tank.flush().ok
    assert tank.status().buffer.entries == 0
    disk.free = 1 << 30
    workload.put(saver, "t", 2, 1, ["after"])
    assert tank.status().healthy


# -- a real one


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


WRITER = """
import os, sys
from surgetank import Surgetank, SurgetankError
sys.path.insert(0, sys.argv[3])
from support import workload
tank = Surgetank(sys.argv[1], database_url=sys.argv[2], flush_in_process=False, flush_on_close=False,
                 buffer_when_full="reject", disk_reserve=4 << 20).open()
tank.parts.buffer.maintain()
saver = tank.checkpointer()
number = 0
while True:
    number += 1
    try:
        workload.put(saver, f"t{number}", 1, None, [os.urandom(40_000).hex()])
    except SurgetankError as error:
        print(number - 1, type(error).__name__, flush=True)
        sys.stdin.read()
"""


def cli(home: Path, database_url: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = child_env() | {"SURGETANK_DISK_RESERVE": str(4 * MIB)}
    return run_command(
        (*words, "--home", str(home), "--database-url", database_url, "--json"), environment
    )


def fill_up(path: Path) -> None:
    """Take all that is left, as another program would."""
    with path.open("ab", buffering=0) as file:
        for step in (MIB, 4096, 1):
            try:
                while True:
                    file.write(bytes(step))
            except OSError:
                continue


def test_on_a_full_disk_everything_accepted_is_flushed_and_it_goes_on(
    small_disk: Path, database_url: str
) -> None:
    home = small_disk / "home"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(home), database_url, str(Path(__file__).parents[1])],
        env=child_env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        accepted, name = child.stdout.readline().split()
        child.send_signal(signal.SIGKILL)
    assert name == "BufferFull"
    assert int(accepted) > 50
    fill_up(small_disk / "junk")
    status = cli(home, database_url, "status")
    assert "disk" in status.stdout, status.stderr
    assert any("disk" in n["message"] for n in json.loads(status.stdout)["notices"])
    doctor = json.loads(cli(home, database_url, "doctor").stdout)
    found = {f["check"]: f for f in doctor}
    assert (found["home"]["state"], "full" in found["home"]["detail"]) == ("problem", True), doctor
    flushed = cli(home, database_url, "flush")
    assert flushed.returncode == 0, (flushed.stdout + flushed.stderr)[-1500:]
    (small_disk / "junk").unlink()
    tank = Surgetank(home, database_url=database_url, disk_reserve=4 * MIB).open()
    assert tank.status().buffer.entries == 0
    saver = tank.checkpointer()
    there = [
        saver.get_tuple({"configurable": {"thread_id": f"t{i + 1}"}}) for i in range(int(accepted))
    ]
    assert all(found is not None for found in there)
    for number in range(50):
        workload.put(saver, f"new-{number}", 1, None, [os.urandom(40_000).hex()])
    wait_until(lambda: cast("SQLiteBuffer", tank.parts.buffer).file.reserve.held() == 4 * MIB)
    tank.close()


def test_a_home_on_a_disk_without_any_space_left_opens_and_drains(small_disk: Path) -> None:
    buffer = open_buffer(small_disk)
    buffer.maintain()
    accepted: list[bytes] = []
    with pytest.raises(BufferProblem, match="full"):
        put_until_refused(buffer, accepted)
    fill_up(small_disk / "junk")
    buffer.close()
    again = open_buffer(small_disk)
    assert sorted(values(drain(again))) == accepted
    assert again.depth().entries == 0
    again.close()


def put_until_refused(buffer: SQLiteBuffer, accepted: list[bytes]) -> None:
    for number in range(10_000):
        put(buffer, f"p{number % 7}", b"%06d" % number * 5000)
        accepted.append(b"%06d" % number * 5000)
