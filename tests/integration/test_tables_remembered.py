"""What a process remembers of tables (mapped segments, footers of files, the list of live files) is never older than
what it reads: two handles of one home, as two processes have them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from support.tables_cold import NOTES, cold_tables
from support.tables_house import House
from surgetank.streams.tables.cold.upkeep import Keeping
from surgetank.streams.tables.definition import USER, Column
from surgetank.streams.tables.hot.protocol import Op
from surgetank.streams.tables.hot.store import SQLiteHotTables
from surgetank.streams.tables.reader import TableReader
from surgetank.streams.tables.types import ColumnType

AT_ONCE = Keeping(snapshots_s=0.0, grace_s=0.0, orphans_s=0.0, jobs_s=0.0)


@pytest.fixture
def both(database_url: str, tmp_path: Path) -> Iterator[tuple[House, House]]:
    with ExitStack() as stack:
        made = []
        for _ in range(2):
            hot = SQLiteHotTables(tmp_path / "buffer-tables.db")
            stack.callback(hot.close)
            cold = stack.enter_context(cold_tables(database_url, tmp_path, keeping=AT_ONCE))
            made.append(House(hot, cold, time.time))
        yield made[0], made[1]


def segment(house: House, user: str, *ids: int) -> None:
    """Rows of one call, that become a segment."""
    columns = {
        USER: [user] * len(ids) + ["other"],
        "id": [*ids, 1000 + ids[0]],
        "text": [f"{user}{each}" for each in ids] + ["theirs"],
    }
    house.hot.accept_arrow(NOTES, pa.table(columns))


def of(house: House, user: str) -> list[str]:
    """The texts of one user, read as that user."""
    rows = TableReader(house.hot, house.cold).read(NOTES, user=user)
    return sorted(rows.column("text").to_pylist())


def mapped(names: set[str]) -> list[str]:
    """Which of these files this process has mapped, unlinked or not."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if any(name in line for name in names)]


def test_what_another_process_flushed_changed_and_merged_is_seen_once_by_who_remembers(both):
    here, there = both
    segment(here, "ann", 1, 2, 3)
    assert of(there, "ann") == ["ann1", "ann2", "ann3"]  # mapped there now
    there.change(Op.UPDATE, "ann", 2, "two")
    assert of(here, "ann") == of(there, "ann") == ["ann1", "ann3", "two"]
    assert here.flush().ok
    assert of(there, "ann") == ["ann1", "ann3", "two"]
    for number in range(10, 18):  # so many small files that they are merged
        segment(there, "ann", number)
        assert there.flush().ok
        of(here, "ann")  # footers and files are known here now
    there.change(Op.DELETE, "ann", 1)
    assert there.flush().ok
    expected = sorted(["ann3", "two", *(f"ann{number}" for number in range(10, 18))])
    assert of(here, "ann") == expected
    assert there.cold.compact(NOTES).inputs > 8
    assert there.cold.sweep() > 8  # the inputs are unlinked
    assert of(here, "ann") == of(there, "ann") == expected
    assert len(of(here, "other")) == 9


def test_an_erased_user_is_nowhere_for_who_has_his_rows_mapped(both):
    here, there = both
    segment(here, "ann", 1, 2)
    assert here.flush().ok
    segment(here, "ann", 3)
    segment(here, "bob", 4)
    names = {path.name for path in here.hot.segments.iterdir()}
    assert of(there, "ann") == ["ann1", "ann2", "ann3"]
    assert mapped(names)
    assert here.hot.erase_user("ann") == 1
    here.cold.erase_user([NOTES], "ann")
    here.cold.sweep()
    for house in both:
        assert of(house, "ann") == []
        assert of(house, "bob") == ["bob4"]
        assert of(house, "other") == ["theirs"] * 3
    there.hot.maintain()  # as every process does now and then: unlinked pages go
    gone = names - {path.name for path in here.hot.segments.iterdir()}
    assert gone
    assert mapped(gone) == []


def test_columns_that_came_are_there_in_what_is_remembered(both):
    here, there = both
    segment(here, "ann", 1)
    assert here.flush().ok
    segment(here, "ann", 2)
    assert of(there, "ann") == ["ann1", "ann2"]
    rank = Column(5, "rank", ColumnType.parse("INT"), since=2, initial=7)
    wider = replace(NOTES, schema_version=2, columns=(*NOTES.columns, rank))
    here.hot.accept_arrow(
        wider,
        pa.table({USER: ["ann"], "id": [3], "text": ["ann3"], "rank": pa.array([3], pa.int32())}),
    )
    rows = TableReader(there.hot, there.cold).read(wider, user="ann", columns=["id", "rank"])
    assert sorted(rows.select(["id", "rank"]).to_pylist(), key=lambda row: row["id"]) == [
        {"id": 1, "rank": 7}, {"id": 2, "rank": 7}, {"id": 3, "rank": 3},
    ]  # fmt: skip
    assert of(there, "ann") == ["ann1", "ann2", "ann3"]  # by who has not heard of it
    only = TableReader(there.hot, there.cold).view(wider, user="ann", columns=["rank"], hidden=())
    with only as view:  # no file has a column that is wanted
        found = list(TableReader(there.hot, there.cold).scan(view))
    assert sorted(pa.Table.from_batches(found).column("rank").to_pylist()) == [3, 7, 7]


def test_a_segment_is_mapped_once_until_its_store_is_closed(both):
    here, _ = both
    for number in range(4):
        segment(here, "ann", number)
    names = {path.name for path in here.hot.segments.iterdir()}
    for _ in range(2):
        assert len(of(here, "ann")) == 4
        assert len(mapped(names)) == 4
    here.hot.close()
    assert mapped(names) == []
