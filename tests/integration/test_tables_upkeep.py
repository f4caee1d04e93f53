"""Files of tables are merged, users erased from them, and what is over removed: reads stay the same all the while."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import pyarrow.parquet as pq
import pytest

from support.tables_cold import (
    NOTES,
    SHARED,
    STORE,
    changes,
    cold_tables,
    flush,
    inserts,
    job,
    lease,
    texts,
)
from surgetank.exceptions import Conflict, DatabaseUnavailable, NotFound
from surgetank.streams.tables.cold.compaction import choose
from surgetank.streams.tables.cold.protocol import DataFile, UserErased
from surgetank.streams.tables.cold.tables import FileTables
from surgetank.streams.tables.cold.upkeep import Keeping
from surgetank.streams.tables.definition import Column
from surgetank.streams.tables.hot.protocol import Op, Progress
from surgetank.streams.tables.types import ColumnType
from surgetank.streams.tables.upkeep import TableUpkeep

AT_ONCE = Keeping(snapshots_s=0.0, grace_s=0.0, orphans_s=0.0, jobs_s=0.0)


@pytest.fixture
def cold(database_url: str, tmp_path: Path) -> Iterator[FileTables]:
    with cold_tables(database_url, tmp_path, keeping=AT_ONCE) as made:
        yield made


def many(cold: FileTables) -> None:
    """Eight commits of two users, and a deletion."""
    for number in range(8):
        first = 1 + 2 * number
        flush(cold, [*inserts("adela", first, f"a{first}"), *inserts("bob", first + 1, "b")])
    flush(cold, [(Op.DELETE, "adela", 1, 17, (10, None)), (Op.DELETE, "bob", 4, 18, (40, None))])


def on_disk(cold: FileTables) -> set[str]:
    return {f"{file.parent.name}/{file.name}" for file in Path(cold.address).glob("*/*")}


def named(cold: FileTables) -> set[str]:
    live = cold.live(NOTES, stores=()).files
    return {path for file in live for path in (file.path, file.delete_path) if path is not None}


def test_small_files_become_one_without_deleted_rows(cold: FileTables) -> None:
    many(cold)
    before = texts(cold)
    done = cold.compact(NOTES)
    assert (done.inputs, done.outputs, done.rows) == (8, 1, 14)
    live = cold.live(NOTES, stores=())
    assert (len(live.files), live.rows) == (1, 14)
    assert texts(cold) == before
    assert cold.compact(NOTES).inputs == 0
    assert cold.sweep() == 10
    assert on_disk(cold) == named(cold)
    assert texts(cold) == before


def test_a_row_deleted_while_a_compaction_reads_stays_deleted(cold: FileTables) -> None:
    many(cold)
    locked = cold._manifest.locked

    def deleting(*args, **more):
        with mock.patch.object(cold._manifest, "locked", locked):
            flush(
                cold,
                [(Op.UPDATE, "adela", 3, 20, (30, "new")), (Op.DELETE, "bob", 2, 21, (20, None))],
            )
        return locked(*args, **more)

    with mock.patch.object(cold._manifest, "locked", deleting):
        assert cold.compact(NOTES).inputs == 8
    found = texts(cold)
    assert len(found) == 13
    assert ("adela", 30, "new") in found
    assert ("adela", 30, "a3") not in found
    assert all(row[:2] != ("bob", 20) for row in found)


def test_a_flush_that_deletes_in_a_file_that_was_merged_meanwhile_looks_again(
    cold: FileTables,
) -> None:
    many(cold)
    locked, merged = cold._manifest.locked, iter([True])

    def merging(*args, **more):
        if next(merged, False):
            with mock.patch.object(cold._manifest, "locked", locked):
                assert cold.compact(NOTES).outputs == 1
        return locked(*args, **more)

    with mock.patch.object(cold._manifest, "locked", merging):
        flush(cold, [(Op.DELETE, "adela", 3, 20, (30, None))])
    assert len(texts(cold)) == 13
    assert all(row[1] != 30 for row in texts(cold))


def test_files_of_a_newer_schema_are_left_alone_by_who_does_not_know_it(cold: FileTables) -> None:
    many(cold)
    more = Column(5, "more", ColumnType.parse("INT"), since=2, initial=7)
    wider = replace(NOTES, columns=(*NOTES.columns, more), schema_version=2)
    flush(cold, [(Op.INSERT, "adela", 30, 30, (300, "x", 8))], table=wider)
    assert cold.compact(NOTES).inputs == 0
    assert cold.compact(wider).inputs == 9
    rows = cold.read(wider, cold.live(wider, stores=()))
    assert sorted(rows.column("more").to_pylist()) == [7] * 14 + [8]


def test_an_erased_user_is_in_no_file_and_no_snapshot_and_everybody_else_is(
    cold: FileTables, database_url: str
) -> None:
    many(cold)
    cold.compact(NOTES)
    flush(cold, inserts("adela", 40, "only hers"))
    flush(cold, [(Op.DELETE, "bob", 16, 41, (160, None))])
    flush(cold, inserts("adela", 42, "shared"), table=SHARED)
    others = [row for row in texts(cold) if row[0] != "adela"]
    done = cold.erase_user([NOTES, SHARED], "adela")
    assert done.rows == 8 + 7 + 1
    assert texts(cold) == others
    assert cold.live(NOTES, stores=()).rows == len(others) == 6
    assert len(texts(cold, SHARED)) == 1
    assert set(done.pending) <= on_disk(cold)  # for who is reading them
    cold.sweep()
    assert not set(done.pending) & on_disk(cold)
    for path in Path(cold.address).glob("*/*"):
        if path.parent.name == str(NOTES.id):
            assert b"adela" not in path.read_bytes()
    with psycopg.connect(database_url) as connection:
        (rows,) = connection.execute(
            "SELECT rows FROM surgetank.table_totals WHERE table_id = %s", [NOTES.id]
        ).fetchone()  # type: ignore[misc]
        for name in ("table_files", "table_column_stats", "table_progress"):
            found = connection.execute(f"SELECT t::text FROM surgetank.{name} t").fetchall()
            assert not [text for (text,) in found if "adela" in text]
    assert rows == 6
    assert cold.erase_user([NOTES], "adela").rows == 0


def test_a_table_has_few_files_and_a_row_is_written_again_only_some_times() -> None:
    sizes: list[int] = []
    written, number = 0, 10_000

    def files(sizes: Sequence[int]) -> list[DataFile]:
        return [
            DataFile(
                id=at, table_id=1, path=str(at), bucket=0, buckets=1, rows=10, bytes=size,
                footer_bytes=1, min_user="a", max_user="z", min_seq=1, max_seq=2, schema_version=1,
            )
            for at, size in enumerate(sizes)
        ]  # fmt: skip

    for at in range(number):
        sizes.append(5_000)
        while at % 10 == 0 and (chosen := choose(files(sizes))):  # ten flushes in a round
            merged = sum(file.bytes for file in chosen)
            buckets = max(1, merged // 2**25)
            sizes = [size for at, size in enumerate(sizes) if at not in {f.id for f in chosen}]
            sizes += [merged // buckets] * buckets
            written += merged
            assert len(sizes) <= 4 * max(1, sum(sizes) // 2**25)
    assert sum(sizes) >= number * 4_900
    assert written < 15 * number * 5_000
    assert choose(files([40, 50])) == []


def test_snapshots_that_are_kept_keep_their_files(database_url: str, tmp_path: Path) -> None:
    with cold_tables(database_url, tmp_path) as cold:
        many(cold)
        cold.compact(NOTES)
        before = on_disk(cold)
        assert cold.sweep() == 0
        assert on_disk(cold) == before


def test_orphans_go_by_age_and_named_files_never(database_url: str, tmp_path: Path) -> None:
    now = 1000.0
    with cold_tables(
        database_url, tmp_path, keeping=replace(AT_ONCE, orphans_s=60.0), clock=lambda: now
    ) as cold:
        flush(cold, inserts("adela", 1, "one"))
        with (
            mock.patch.object(cold._manifest, "locked", side_effect=KeyboardInterrupt),
            pytest.raises(KeyboardInterrupt),
        ):
            flush(cold, inserts("adela", 2, "two"))  # killed between file and commit
        with (
            mock.patch.object(cold._mirror, "ends", side_effect=KeyboardInterrupt),
            pytest.raises(KeyboardInterrupt),
        ):
            flush(cold, inserts("adela", 2, "two"))  # killed after it
        assert len(on_disk(cold)) == 3
        now += 59
        assert cold.sweep() == 0
        now += 2
        assert cold.sweep() == 1
        assert on_disk(cold) == named(cold)
        assert cold._mirror.writing() == {}
        assert texts(cold) == [("adela", 10, "one"), ("adela", 20, "two")]


def test_files_newer_than_a_backup_of_the_database_are_told_of_and_never_unlinked(
    cold: FileTables, database_url: str
) -> None:
    flush(cold, inserts("adela", 1, "one"))
    flush(cold, [*inserts("adela", 2, "two"), *inserts("bob", 3, "three")])
    told: list[str] = []
    cold._on_problem = lambda error: told.append(str(error))
    (_, newer) = cold.live(NOTES, stores=()).files
    with psycopg.connect(database_url) as connection:  # as a backup from before that has it
        connection.execute("DELETE FROM surgetank.table_files WHERE file_id = %s", [newer.id])
        connection.execute("UPDATE surgetank.table_progress SET through = 1")
        connection.execute(
            "DELETE FROM surgetank.table_snapshots"
            " WHERE snapshot_id = (SELECT max(snapshot_id) FROM surgetank.table_snapshots)"
        )
    acknowledged = replace(lease(), progress=Progress(3))
    given, more = changes(NOTES, inserts("bob", 4, "four")), {"store_id": STORE, "job": job()}
    cold.write(NOTES, given, lease=acknowledged, progress=Progress(4), **more)  # type: ignore[arg-type]
    assert "it was set back" in told.pop()
    os.utime(Path(cold.address) / newer.path, (0, 0))
    assert cold.sweep() == 0
    assert cold.strays() == [newer.path]
    upkeep = TableUpkeep(cold, list, lambda: 1.0, on_problem=lambda e: told.append(str(e)))
    upkeep.round(threading.Event())
    assert len(told) == 1
    assert newer.path in told[0]
    # Who is erased is not in them either, and the others are.
    cold.erase_user([NOTES], "adela")
    assert pq.read_table(Path(cold.address) / newer.path).column("id").to_pylist() == [30]


def test_what_was_taken_before_an_erasure_is_not_committed_after_it(cold: FileTables) -> None:
    flush(cold, inserts("adela", 1, "one"))
    taken_at = cold.known_snapshot(NOTES)
    rows = [*inserts("adela", 2, "two"), *inserts("bob", 3, "three")]
    cold.erase_user([NOTES], "adela")
    given = changes(NOTES, rows)
    more: dict[str, Any] = {"lease": lease(), "store_id": STORE, "job": job()}
    with pytest.raises(UserErased):
        cold.write(NOTES, given, progress=Progress(3), taken_at=taken_at, **more)
    assert on_disk(cold) == set(cold.erase_user([NOTES], "adela").pending)
    again = changes(NOTES, rows[1:])
    taken_at = cold.known_snapshot(NOTES)
    cold.write(NOTES, again, progress=Progress(3), taken_at=taken_at, **more)
    assert texts(cold) == [("bob", 30, "three")]


def test_what_an_interrupted_flush_wrote_goes_with_the_user(cold: FileTables) -> None:
    flush(cold, inserts("bob", 1, "stays"))
    with (
        mock.patch.object(cold._manifest, "locked", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        flush(cold, inserts("adela", 2, "two"))
    half = Path(cold.address) / f"{NOTES.id}/half.parquet.tmp"
    half.write_bytes(b"PAR1 adela")
    with mock.patch.object(cold, "_keeping", Keeping()):
        assert [path for path in cold.erase_user([NOTES], "adela").pending if "half" in path]
    os.utime(half, (0, 0))
    cold.erase_user([NOTES], "adela")
    assert not [path for path in Path(cold.address).glob("*/*") if b"adela" in path.read_bytes()]
    assert texts(cold) == [("bob", 10, "stays")]


def test_another_home_on_the_same_database_is_refused_and_a_moved_one_is_not(
    cold: FileTables, database_url: str, tmp_path: Path
) -> None:
    flush(cold, inserts("adela", 1, "one"))
    (tmp_path / "other").mkdir()
    with cold_tables(database_url, tmp_path / "other") as other:
        with pytest.raises(Conflict, match="another home"):
            other.live(NOTES, stores=())
        with pytest.raises(Conflict, match="another home"):
            flush(other, inserts("adela", 2, "two"))
        with pytest.raises(Conflict, match="another home"):
            other.sweep()
    moved = Path(cold.address).rename(tmp_path / "moved")
    with cold_tables(database_url, tmp_path / "other", files=moved) as other:
        flush(other, inserts("adela", 2, "two"), token=2)
        assert [row[1] for row in texts(other)] == [10, 20]
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT root FROM surgetank.table_storages").fetchall() == [
            (str(moved),)
        ]


def test_nothing_is_unlinked_when_the_database_can_not_say_what_is_named(cold: FileTables) -> None:
    flush(cold, inserts("adela", 1, "one"))
    with (
        mock.patch.object(cold._manifest, "transaction", side_effect=DatabaseUnavailable("away")),
        pytest.raises(DatabaseUnavailable),
    ):
        cold.sweep()
    assert texts(cold) == [("adela", 10, "one")]


def test_a_dropped_table_is_gone_and_nothing_is_committed_to_it(cold: FileTables) -> None:
    many(cold)
    flush(cold, inserts("", 50, "stays"), table=SHARED)
    cold.forget_table(NOTES.id)
    cold.forget_table(NOTES.id)
    assert texts(cold) == []
    with pytest.raises(NotFound):
        flush(cold, inserts("adela", 60, "late"))
    assert cold.sweep() >= 10
    assert not [path for path in on_disk(cold) if path.startswith(f"{NOTES.id}/")]
    assert len(texts(cold, SHARED)) == 1


def test_a_file_names_only_users_who_have_rows_in_it(cold: FileTables) -> None:
    many(cold)
    before = texts(cold)
    compaction = "surgetank.streams.tables.cold.compaction"
    with mock.patch(f"{compaction}._TARGET", 1000), mock.patch(f"{compaction}._MOST_FILES", 0):
        assert cold.compact(NOTES).outputs > 1
    assert texts(cold) == before
    assert [row for user in ("adela", "bob") for row in texts(cold, user=user)] == before
    for file in cold.live(NOTES, stores=()).files:
        stored = (Path(cold.address) / file.path).read_bytes()
        assert {user for user in ("adela", "bob") if user.encode() in stored} == {
            file.min_user,
            file.max_user,
        }
    assert len(cold.live(NOTES, stores=(), user="adela").files) == 1
