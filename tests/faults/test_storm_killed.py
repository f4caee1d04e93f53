"""Storms of errors: what `log_system_error` accepted is kept, whoever is killed, and counted
once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.buffers import child_env
from support.tanks import MakeTank
from support.torture import FEW_SEEDS
from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.buffer.tallies import Tally
from surgetank.exceptions import BufferFull
from surgetank.model import Record

REPORTER = """
import os, sys
from surgetank import Surgetank
tank = Surgetank(sys.argv[1], database_url=sys.argv[2], flush_in_process=False, flush_on_close=False).open()
for i in range(10 ** 6):
    tank.log_system_error("storm", "the same again", thread_id=f"t{i % 3}")
    os.write(1, b".")
"""


def reporter(home: Path, database_url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", REPORTER, str(home), database_url],
        env=child_env(),
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_every_error_that_was_accepted_is_there_after_kill_9(
    make_tank: MakeTank, tmp_path: Path, database_url: str, seed: int
) -> None:
    home, chance = tmp_path / "home", random.Random(seed)
    accepted = 0
    killed = [reporter(home, database_url) for _ in range(2)]  # two processes storm on one buffer
    for child in killed:
        assert child.stdout is not None
        accepted += len(child.stdout.read(chance.randint(1, 1000)))
        child.send_signal(signal.SIGKILL)
    for child in killed:
        assert child.stdout is not None
        accepted += len(child.stdout.read())
        child.stdout.close()
        assert child.wait(30) == -signal.SIGKILL
    tank = make_tank()
    (group,) = tank.errors.find().errors
    assert accepted <= group.occurrences <= accepted + 2, (seed, "what was under way at each kill")
    assert tank.parts.buffer.depth().entries < 100
    assert sum(t["occurrences"] for t in tank.errors.detail(group.id).threads) == group.occurrences
    tank.parts.reporting.errors.send_counts(all_=True)
    assert tank.errors.get(group.id).occurrences == group.occurrences
    assert tank.flush().ok
    tank.parts.reporting.errors.send_counts(all_=True)
    assert tank.errors.get(group.id).occurrences == group.occurrences
    assert tank.status().buffer.entries == 0
    print(f"storm, seed {seed}: {len(killed)} kills, {accepted} errors accepted, 0 lost")


def as_record(tally: Tally) -> Record:
    return Record(b"e", b"%d x %s" % (tally.count, tally.value))


def test_a_tally_is_sent_whole_or_stays_counted(tmp_path: Path) -> None:
    buffer = SQLiteBuffer(
        tmp_path / "buffer.db", limits=BufferLimits(max_entries=1, when_full="reject")
    )
    for value in (b"1", b"2", b"3"):
        buffer.tally("s", "p", b"k", value)
    buffer.tally("s", "q", b"k", b"x")
    assert buffer.send_tallies("s", as_record, older_s=60.0) == 0, "not due yet"
    with pytest.raises(BufferFull):  # there is room for one of the two
        buffer.send_tallies("s", as_record, older_s=0.0)
    with buffer.snapshot() as view:
        assert [(t.partition, t.value, t.count) for t in view.tallies("s")] == [
            ("p", b"3", 3),
            ("q", b"x", 1),
        ]
        assert view.scan("s", "p", b"") == []
    buffer.close()
    buffer = SQLiteBuffer(tmp_path / "buffer.db")
    assert buffer.send_tallies("s", as_record, older_s=0.0) == 2
    with buffer.snapshot() as view:
        assert view.tallies("s") == []
        assert [f.value for f in view.scan("s", "p", b"")] == [b"3 x 3"]
        assert [f.value for f in view.scan("s", "q", b"")] == [b"1 x x"]
    buffer.close()


def test_a_process_killed_while_it_sends_tallies_neither_loses_nor_doubles_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "buffer.db"
    buffer = SQLiteBuffer(path)
    for i in range(10):
        buffer.tally("s", f"p{i}", b"k", b"v", count=i + 1)
    buffer.close()
    code = f"""
import os, signal
from pathlib import Path
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.model import Record
made = []
def entry_of(tally):
    made.append(tally)
    if len(made) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return Record(b"e", b"%d" % tally.count)
SQLiteBuffer(Path({str(path)!r})).send_tallies("s", entry_of, older_s=0.0)
"""
    done = subprocess.run([sys.executable, "-c", code], env=child_env(), timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    buffer = SQLiteBuffer(path)
    with buffer.snapshot() as view:
        assert sum(t.count for t in view.tallies("s")) == 55
        assert view.partitions("s") == []
    buffer.close()
