"""A flusher of tables, a merge and an erasure that are killed (`kill -9`) between any two steps: no row is lost, none
is there twice, and nothing is left of who is erased."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import run_module
from support.tables_cold import NOTES, cold_tables, texts
from support.tables_house import House, erase, merge
from support.torture import FEW_SEEDS, SEEDS
from surgetank.streams.tables.cold.upkeep import Keeping
from surgetank.streams.tables.hot.protocol import Op
from surgetank.streams.tables.hot.store import SQLiteHotTables

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


def kill(
    folder: Path, url: str, when: str, target: str, occurrence: int, what: str = "flush"
) -> bool:
    """Run a flusher (or a merge, an erasure) that ends there; whether it did."""
    done = run_module("support.tables_house", when, target, occurrence, folder, url, what)
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
    check_files(house)


MERGING = [
    ("after", f"{COLD}.files:Folder.write"),
    ("after", f"{COLD}.manifest:Locked.replace"),  # all is written, and not committed
    ("before", f"{COLD}.mirror:Mirror.ends"),  # committed
]
ERASING = [
    ("after", f"{HOT}.upkeep:Upkeep.erase_user"),
    ("after", f"{COLD}.files:Folder.write"),
    ("after", f"{COLD}.manifest:Locked.add_totals"),  # written, and not committed
    ("after", f"{COLD}.erasing:UserErasure._file"),  # one file of several
    ("after", f"{COLD}.tables:FileTables.erase_user"),
]


def few(house: House, *users: str, number: int) -> None:
    """Some small files, and rows that wait."""
    for at in range(5):
        for user in users:
            house.insert(user, number * 10 + at)
        assert house.flush().ok
    house.change(Op.DELETE, users[0], number * 10)
    assert house.flush().ok
    for user in users:
        house.insert(user, number * 10 + 9)


def test_a_merge_at_each_step(house: House, database_url: str, tmp_path: Path) -> None:
    for number, (when, target) in enumerate(MERGING):
        few(house, "eve", number=number)
        before = house.seen()
        assert kill(tmp_path, database_url, when, target, 1, "merge"), target
        assert house.seen() == before, target
        check(house, before)
    merge(house)
    check(house, house.seen())
    check_files(house)


def test_an_erasure_at_each_step(house: House, database_url: str, tmp_path: Path) -> None:
    for number, (when, target) in enumerate(ERASING):
        user = f"victim-{number}"
        few(house, user, "zoe", number=number)
        before = house.seen()
        assert kill(tmp_path, database_url, when, target, 1, f"erase:{user}"), target
        left = house.seen()
        assert [row for row in left if row[0] != user] == [row for row in before if row[0] != user]
        assert len(left) == len(set(left)), target
        assert set(left) <= set(before), target
        erase(house, user)
        check(house, [row for row in before if row[0] != user])
        house.cold.sweep()
        files = [
            *Path(house.cold.address).glob("*/*"),
            *tmp_path.glob("buffer-*"),
            *tmp_path.glob("*/*.arrow"),
        ]
        assert [each for each in files if user.encode() in each.read_bytes()] == [], target
    check_files(house)


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_a_merge_and_an_erasure_at_any_moment(
    house: House, database_url: str, tmp_path: Path, seed: int
) -> None:
    few(house, "eve", "victim", number=1)
    before = house.seen()
    moments = random.Random(f"merge and erase {seed}")
    kill(tmp_path, database_url, "moment", "MOMENT", moments.randint(600, FLUSH_MS), "merge")
    assert house.seen() == before
    kill(tmp_path, database_url, "moment", "MOMENT", moments.randint(600, FLUSH_MS), "erase:victim")
    mine = [row for row in before if row[0] != "victim"]
    assert [row for row in house.seen() if row[0] != "victim"] == mine
    merge(house)
    erase(house, "victim")
    check(house, mine)


def check_files(house: House) -> None:
    """No file is left that nothing names."""
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
