"""A flusher of tables that is killed (`kill -9`) between any two steps: no row is lost, and none is there twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.tables_cold import NOTES, cold_tables, texts
from support.tables_house import House
from support.torture import SEEDS
from surgetank.streams.tables.cold.upkeep import Keeping
from surgetank.streams.tables.hot.protocol import Op
from surgetank.streams.tables.hot.store import SQLiteHotTables

TESTS = str(Path(__file__).parents[1])
COLD, HOT = "surgetank.streams.tables.cold", "surgetank.streams.tables.hot"
FLUSH_MS = 1200  # how long the program takes: a kill is drawn from there
AT_ONCE = Keeping(snapshots_s=0.0, grace_s=0.0, orphans_s=0.0)
POINTS = [
    ("after", f"{HOT}.flushing:Flushing.take"),
    ("after", f"{COLD}.files:Folder.write"),  # the file is there, and in no manifest
    ("after", f"{COLD}.manifest:Locked.commit"),  # all is written, and not committed
    ("after", f"{COLD}.manifest:Manifest.live"),
    ("after", f"{COLD}.tables:FileTables.write"),  # committed, and not acknowledged
    ("after", f"{HOT}.flushing:Flushing.ack"),
]


@pytest.fixture
def house(database_url: str, tmp_path: Path) -> Iterator[House]:
    hot = SQLiteHotTables(tmp_path / "buffer-tables.db")
    with cold_tables(database_url, tmp_path, keeping=AT_ONCE) as cold:
        made = House(hot, cold, time.time)
        made.insert("ada", *range(20))
        made.insert("bob", *range(20))
        assert made.flush().ok
        made.insert("ada", 20, 21)
        made.change(Op.UPDATE, "ada", 3, "changed")
        made.change(Op.DELETE, "bob", 4)
        yield made
    hot.close()


def kill(folder: Path, url: str, when: str, target: str, occurrence: int) -> bool:
    """Run a flusher that ends there; whether it did."""
    done = subprocess.run(
        [sys.executable, "-m", "support.tables_house", when, target, str(occurrence), str(folder), url],
        capture_output=True, text=True, cwd=TESTS, check=False, timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, TESTS])},
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL, -signal.SIGALRM), done.stderr
    return done.returncode != 0


def check(house: House, before: list[tuple[str, int, str | None]]) -> None:
    assert house.seen() == before
    house.hot.retry_now()
    assert house.flush(up_to_seq=1).ok
    assert texts(house.cold) == house.seen() == before
    assert house.hot.waiting() == []


def test_at_each_step(house: House, database_url: str, tmp_path: Path) -> None:
    for number, (when, target) in enumerate(POINTS):
        house.insert("eve", number)
        house.change(Op.UPDATE, "ada", 5, f"changed {number}")
        before = house.seen()
        assert kill(tmp_path, database_url, when, target, 1), target
        assert house.seen() == before, target
        check(house, before)
    house.cold.sweep()
    named = {
        path
        for file in house.cold.live(NOTES, stores=()).files
        for path in (file.path, file.delete_path)
    }
    assert {f"{p.parent.name}/{p.name}" for p in Path(house.cold.address).glob("*/*")} == named - {
        None
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_at_any_moment(house: House, database_url: str, tmp_path: Path, seed: int) -> None:
    before = house.seen()
    moment = random.Random(f"tables {seed}").randint(600, FLUSH_MS)
    kill(tmp_path, database_url, "moment", "MOMENT", moment)
    assert house.seen() == before, (seed, moment)
    check(house, before)
