"""Rows of tables in files: what was committed is there once, whatever happens between the steps."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
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
from surgetank.exceptions import (
    BufferUnavailable,
    ColdStateUnavailable,
    DatabaseUnavailable,
    EntryRejected,
    LeaseLost,
    StateCorrupt,
)
from surgetank.streams.tables.cold.tables import FileTables
from surgetank.streams.tables.definition import Column, Default, DefaultKind
from surgetank.streams.tables.hot.protocol import Op, Progress
from surgetank.streams.tables.types import ColumnType


@pytest.fixture
def cold(database_url: str, tmp_path: Path) -> Iterator[FileTables]:
    with cold_tables(database_url, tmp_path) as made:
        yield made


def files_on_disk(cold: FileTables) -> set[str]:
    return {f"{file.parent.name}/{file.name}" for file in Path(cold.address).glob("*/*")}


def files_named(cold: FileTables) -> set[str]:
    live = cold.live(NOTES, stores=()).files
    return {path for file in live for path in (file.path, file.delete_path) if path is not None}


def test_rows_come_back_sorted_by_user_and_sequence_with_field_ids(cold: FileTables) -> None:
    done = flush(cold, [*inserts("bob", 1, "b1", "b2"), *inserts("ada", 3, "a1", None)])
    assert (done.rows, done.files, done.deleted) == (4, 1, 0)
    live = cold.live(NOTES, stores=[STORE])
    assert live.rows == 4
    assert live.progress == {STORE: Progress(4)}
    (file,) = live.files
    assert (file.min_user, file.max_user, file.min_seq, file.max_seq) == ("ada", "bob", 1, 4)
    stored = pq.read_table(Path(cold.address) / file.path)
    assert stored.column("_seq").to_pylist() == [3, 4, 1, 2]
    assert {field.name: field.metadata[b"PARQUET:field_id"] for field in stored.schema} == {
        "_user": b"1",
        "_seq": b"2",
        "id": b"3",
        "text": b"4",
    }
    assert texts(cold, user="ada") == [("ada", 30, "a1"), ("ada", 40, None)]
    assert [row["_seq"] for row in cold.read(NOTES, live, user="bob").to_pylist()] == [1, 2]
    assert cold.read(NOTES, live, columns=["text"]).column_names == ["_user", "_seq", "text"]


def test_an_update_and_a_delete_leave_each_row_once(cold: FileTables) -> None:
    flush(cold, inserts("ada", 1, "old", "gone", "stays"))
    done = flush(
        cold,
        [
            (Op.UPDATE, "ada", 1, 4, (10, "newer")),
            (Op.UPDATE, "ada", 1, 5, (10, "newest")),
            (Op.DELETE, "ada", 2, 6, (20, None)),
            *inserts("ada", 7, "fleeting"),
            (Op.DELETE, "ada", 7, 8, (70, None)),
        ],
    )
    assert (done.rows, done.deleted) == (1, 2)
    assert texts(cold) == [("ada", 10, "newest"), ("ada", 30, "stays")]
    flush(cold, [(Op.DELETE, "ada", 3, 9, (30, None))])
    live = cold.live(NOTES, stores=())
    assert live.rows == 1
    assert texts(cold) == [("ada", 10, "newest")]
    assert [file.deleted_rows for file in live.files] == [3, 0]


def test_rows_of_a_shared_table_have_no_user(cold: FileTables) -> None:
    flush(cold, inserts("", 1, "one", "two"), table=SHARED)
    flush(cold, [(Op.UPDATE, "", 2, 3, (20, "2"))], table=SHARED)
    assert texts(cold, SHARED, user="ada") == [("", 10, "one"), ("", 20, "2")]
    assert texts(cold) == []


def test_a_commit_that_is_repeated_does_nothing(cold: FileTables) -> None:
    given = [*inserts("ada", 1, "one"), (Op.UPDATE, "ada", 1, 2, (10, "1"))]
    first = flush(cold, given)
    again = flush(cold, given, token=2)
    assert (first.rows, again.snapshot, again.rows) == (1, 0, 0)
    # a group that reaches further than the one before, after a crash: only the rest is written
    flush(cold, [*given, *inserts("ada", 3, "three")], token=3)
    assert texts(cold) == [("ada", 10, "1"), ("ada", 30, "three")]


def test_a_crash_after_the_files_or_after_the_commit_loses_and_doubles_nothing(
    cold: FileTables,
) -> None:
    given = inserts("ada", 1, "one", "two")
    with (
        mock.patch.object(cold._manifest, "locked", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        flush(cold, given)
    assert texts(cold) == []
    assert len(files_on_disk(cold)) == 1  # an orphan
    with (
        mock.patch.object(cold._mirror, "keep", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        flush(cold, [*given, *inserts("ada", 3, "three")])  # committed, and not acknowledged
    assert flush(cold, [*given, *inserts("ada", 3, "three")]).rows == 0
    assert [row[1] for row in texts(cold)] == [10, 20, 30]


def test_users_who_are_held_go_on_from_where_they_were(cold: FileTables) -> None:
    given = [*inserts("ada", 1, "a1"), *inserts("bob", 2, "b2"), *inserts("ada", 3, "a3")]
    flush(cold, given, progress=Progress(3, {"bob": 0}))
    assert [row[1] for row in texts(cold)] == [10, 30]
    live = cold.live(NOTES, stores=[STORE])
    assert live.progress[STORE].held == {"bob": 0}
    flush(cold, [*given, *inserts("ada", 4, "a4")], progress=Progress(4))
    assert [row[1] for row in texts(cold)] == [10, 30, 40, 20]
    assert cold.live(NOTES, stores=[STORE]).progress == {STORE: Progress(4)}


def test_who_lost_the_lease_commits_nothing(cold: FileTables) -> None:
    flush(cold, inserts("ada", 1, "one"), token=5)
    with pytest.raises(LeaseLost):
        flush(cold, inserts("ada", 2, "two"), token=4)
    assert [row[1] for row in texts(cold)] == [10]


def test_stores_go_on_apart(cold: FileTables) -> None:
    flush(cold, inserts("ada", 100, "one"), store="a")
    flush(cold, inserts("ada", 1, "two"), store="b")
    assert len(texts(cold)) == 2
    live = cold.live(NOTES, stores=["b", "c"])
    assert live.progress == {"b": Progress(1)}


def test_two_who_change_the_same_row_leave_it_once(cold: FileTables) -> None:
    flush(cold, inserts("ada", 1, "one", "two"))
    both = threading.Barrier(2, timeout=10)
    commit = cold._manifest.locked
    waiting = iter([True, True])

    def locked(*args, **kwargs):
        if next(waiting, False):
            both.wait()  # both have looked for the row before either commits
        return commit(*args, **kwargs)

    with mock.patch.object(cold._manifest, "locked", locked), ThreadPoolExecutor(2) as pool:
        done = [
            pool.submit(flush, cold, [(Op.UPDATE, "ada", 1, 9, (10, store))], store=store)
            for store in ("a", "b")
        ]
        assert [each.result().rows for each in done] == [1, 1]
    found = texts(cold)
    assert len(found) == 2
    assert found[0][2] in ("a", "b")
    assert files_on_disk(cold) == files_named(cold) | {
        path for path in files_on_disk(cold) if path.endswith(".deletes.parquet")
    }


def test_a_row_that_cannot_be_written_is_named(cold: FileTables) -> None:
    rows = changes(NOTES, inserts("ada", 1, "one", "two", "three"))
    at = rows.column_names.index("id")
    broken = rows.set_column(at, "id", [[10, None, 30]])
    with pytest.raises(EntryRejected) as refused:
        cold.write(NOTES, broken, lease=lease(), progress=Progress(3), store_id=STORE, job=job())
    assert (refused.value.partition, refused.value.seq) == ("app.notes/ada", 2)
    assert "id" in str(refused.value)
    assert texts(cold) == []


def test_rows_from_before_a_column_have_its_initial_value(cold: FileTables) -> None:
    flush(cold, inserts("ada", 1, "one"))
    tags = Column(
        5, "tags", ColumnType.parse("TEXT[]"), since=2, initial=["none"],
        default=Default(DefaultKind.CONSTANT, ["none"]),
    )  # fmt: skip
    wider = replace(NOTES, columns=(*NOTES.columns, tags), schema_version=2)
    flush(cold, [(Op.INSERT, "ada", 2, 2, (20, "two", ["x", None]))], table=wider)
    rows = cold.read(wider, cold.live(wider, stores=()))
    assert rows.column("tags").to_pylist() == [["none"], ["x", None]]


def test_keys_are_found_in_files(cold: FileTables) -> None:
    flush(cold, [*inserts("ada", 1, "one", "two"), *inserts("bob", 3, "three")])
    flush(cold, [(Op.DELETE, "ada", 2, 4, (20, None))])
    assert cold.known_keys(NOTES, "ada", [(10,), (20,), (30,)]) == {(10,): 1}
    assert cold.known_keys(NOTES, "bob", []) == {}


def test_reads_go_on_from_the_mirror_while_the_database_is_away(cold: FileTables) -> None:
    flush(cold, inserts("ada", 1, "one"))
    away = DatabaseUnavailable("away")
    with mock.patch.object(cold._manifest, "live", side_effect=away):
        live = cold.live(NOTES, stores=[STORE])
        assert live.stale
        assert live.progress == {STORE: Progress(1)}
        assert len(cold.read(NOTES, live)) == 1
        with pytest.raises(ColdStateUnavailable, match=r"app\.rates"):
            cold.live(SHARED, stores=())
    assert not cold.live(NOTES, stores=()).stale


def test_reads_do_without_the_mirror_on_a_full_disk_and_flushes_do_not(cold: FileTables) -> None:
    flush(cold, inserts("ada", 1, "a1"))
    full = BufferUnavailable("The disk is full.")
    with mock.patch.object(cold._mirror, "keep", side_effect=full):
        with pytest.raises(BufferUnavailable):  # what is acknowledged has to be in the mirror
            flush(cold, inserts("ada", 2, "a2"))
        assert texts(cold) == [("ada", 10, "a1"), ("ada", 20, "a2")]
    assert flush(cold, inserts("ada", 2, "a2")).snapshot == 0
    assert [file.max_seq for file in cold._mirror.find(NOTES.id).files] == [1, 2]  # type: ignore[union-attr]


def test_a_commit_of_another_node_is_seen_and_an_unchanged_list_is_not_fetched_again(
    cold: FileTables, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with cold_tables(database_url, tmp_path / "other", files=Path(cold.address)) as other:
        flush(cold, inserts("ada", 1, "one"))
        assert len(other.live(NOTES, stores=()).files) == 1
        assert other._standing(NOTES.id) is other._standing(NOTES.id)
        flush(cold, inserts("ada", 2, "two"))
        assert len(other.live(NOTES, stores=()).files) == 2


def test_a_missing_file_is_named(cold: FileTables) -> None:
    flush(cold, inserts("ada", 1, "one"))
    (file,) = cold.live(NOTES, stores=()).files
    (Path(cold.address) / file.path).unlink()
    with pytest.raises(StateCorrupt, match=re.escape(file.path)):
        texts(cold)


def test_each_commit_has_its_job_and_its_totals(cold: FileTables, database_url: str) -> None:
    flush(cold, inserts("ada", 1, "one", "two"))
    flush(cold, [(Op.DELETE, "ada", 1, 3, (10, None))])
    with psycopg.connect(database_url) as connection:
        jobs = connection.execute(
            "SELECT commit_number, job_id, outcome->'rows', outcome->'deleted' "
            "FROM surgetank.table_jobs ORDER BY 1"
        ).fetchall()
        (totals,) = connection.execute("SELECT given, rows FROM surgetank.table_totals").fetchall()
    assert jobs == [(1, "job-1", 2, 0), (2, "job-1", 0, 1)]
    assert totals == (2, 1)
