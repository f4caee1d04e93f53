"""Other engines read tables through their DuckLake catalogue, and can't write them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import psycopg
import pyarrow as pa
import pytest

from support.lake import ask
from support.tables_cold import changes, cold_tables, job, lease
from surgetank.database.migrate import MigratedDatabase
from surgetank.sqlite.shared import SharedFile
from surgetank.streams.tables.catalog.catalog import Catalog
from surgetank.streams.tables.catalog.mirror import SCRIPT, Mirror
from surgetank.streams.tables.cold.arrays import sample
from surgetank.streams.tables.cold.manifest import LOCK
from surgetank.streams.tables.cold.tables import FileTables
from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.file import TABLES
from surgetank.streams.tables.hot.protocol import Op, Progress
from surgetank.streams.tables.sql.parsing import parse
from surgetank.streams.tables.sql.statements import AddColumn, CreateTable
from surgetank.streams.tables.types import NAMES, ColumnType

# Not SHOW ALL TABLES: as the first statement DuckDB finds, now and then, nothing with it.
LISTING = """SELECT table_schema, table_name FROM information_schema.tables WHERE table_catalog = 'lake'
    ORDER BY ALL"""
pytestmark = pytest.mark.timeout(300)  # the environment of the readers is made once


@pytest.fixture
def cold(database_url: str, tmp_path: Path) -> Iterator[FileTables]:
    with cold_tables(database_url, tmp_path) as made:
        yield made


@pytest.fixture
def catalog(database_url: str, tmp_path: Path) -> Iterator[Catalog]:
    database = MigratedDatabase(database_url)
    file = SharedFile(tmp_path / "c-tables.db", kind=TABLES, name="table store", script=SCRIPT)
    made = Catalog(database, Mirror(file))
    yield made
    made.close()
    database.close()


def create(catalog: Catalog, text: str) -> Table:
    action = parse(text)[0].action
    assert isinstance(action, CreateTable)
    return catalog.create(action, actor="ann", owner="ann")


def write(cold: FileTables, table: Table, given, *, token: int = 1) -> int:
    rows = changes(table, given)
    done = cold.write(
        table, rows, lease=replace(lease(table), token=token), store_id="s", job=job(),
        progress=Progress(max(each[3] for each in given)),
    )  # fmt: skip
    return done.snapshot


def test_duckdb_and_polars_read_rows_deletions_history_and_added_columns(
    cold: FileTables, catalog: Catalog, database_url: str
) -> None:
    table = create(catalog, "CREATE TABLE notes (id BIGINT PRIMARY KEY, text TEXT)")
    create(catalog, "CREATE TABLE empty (id BIGINT) WITH (TYPE='SHARED')")
    create(catalog, "CREATE TABLE hot (id BIGINT) WITH (TYPE='STREAM', TTL_SECONDS=60)")
    first = write(
        cold,
        table,
        [(Op.INSERT, "ada" if at % 2 else "bob", at, at, (at, f"n{at}")) for at in range(1, 9)],
    )
    write(
        cold,
        table,
        [
            (Op.UPDATE, "ada", 3, 9, (3, "new")),
            (Op.DELETE, "bob", 4, 10, (4, None)),
            (Op.INSERT, "eve", 11, 11, (11, "e")),
        ],
    )
    action = parse("ALTER TABLE notes ADD COLUMN stars INT NOT NULL DEFAULT 5")[0].action
    assert isinstance(action, AddColumn)
    table = catalog.add_column(table, action.column, actor="ann")
    write(cold, table, [(Op.INSERT, "ada", 12, 12, (12, "late", 7))])

    live = cold.read(table, cold.live(table, stores=()))
    ours = sorted([list(row.values()) for row in live.to_pylist()])
    notes = "FROM lake.public.notes"
    answers = ask(
        database_url,
        ("duckdb", LISTING),
        ("duckdb", f"SELECT * {notes} ORDER BY ALL"),
        ("polars", "public.notes"),
        ("duckdb", f"SELECT count(*), sum(stars) {notes}"),
        ("duckdb", f"SELECT count(*), max(text) {notes} AT (VERSION => {first})"),
        ("duckdb", f"SELECT text {notes} WHERE id = 12"),
        ("duckdb", f"EXPLAIN ANALYZE SELECT text {notes} WHERE id = 12"),
        ("duckdb", "SELECT count(*) FROM lake.public.empty"),
        ("duckdb", "INSERT INTO lake.public.notes VALUES ('eve', 99, 99, 'x', 1)"),
        ("duckdb", "DELETE FROM lake.public.notes"),
        ("duckdb", "DROP TABLE lake.public.notes"),
    )  # fmt: skip
    listed, rows, polars, counted, before, pruned, plan, none, *writes = answers
    assert listed == [["public", "empty"], ["public", "notes"]]
    assert rows == ours
    assert len(ours) == 9
    # It does not know the value that rows from before a column have.
    assert sorted(row[:4] for row in polars) == [row[:4] for row in ours]
    assert counted == [[9, 8 * 5 + 7]]
    assert before == [[8, "n8"]]
    assert pruned == [["late"]]
    assert "Total Files Read: 1" in " ".join(str(plan).split())
    assert none == [[0]]
    assert all(isinstance(each, str) and "read-only" in each for each in writes), writes


def test_compacted_files_and_an_erased_user_are_seen_by_others_at_every_version(
    cold: FileTables, catalog: Catalog, database_url: str
) -> None:
    table = create(catalog, "CREATE TABLE notes (id BIGINT PRIMARY KEY, text TEXT)")
    versions = [
        write(cold, table, [(Op.INSERT, user, at, at, (at, f"{user}{at}"))])
        for at, user in enumerate(["ada", "bob", "eve"] * 3, 1)
    ]
    write(cold, table, [(Op.DELETE, "eve", 3, 20, (3, None))])
    assert cold.compact(table).outputs == 1
    both = write(
        cold, table, [(Op.UPDATE, "bob", 2, 21, (2, "new")), (Op.DELETE, "eve", 6, 22, (6, None))]
    )
    cold.erase_user([table], "ada")
    live = cold.read(table, cold.live(table, stores=()))
    ours = sorted([list(row.values()) for row in live.to_pylist()])
    notes = "SELECT string_agg(text, ' ' ORDER BY id) FROM lake.public.notes"
    rows, polars, *history, plan = ask(
        database_url,
        ("duckdb", "SELECT * FROM lake.public.notes ORDER BY ALL"),
        ("polars", "public.notes"),
        ("duckdb", f"{notes} AT (VERSION => {versions[4]})"),
        ("duckdb", f"{notes} AT (VERSION => {versions[8] + 1})"),
        ("duckdb", f"{notes} AT (VERSION => {both})"),
        ("duckdb", "EXPLAIN ANALYZE SELECT * FROM lake.public.notes WHERE _user = 'bob'"),
    )
    assert rows == sorted(polars) == ours
    assert sorted(row[3] for row in ours) == ["bob5", "bob8", "eve9", "new"]
    assert history == [
        [["bob2 eve3 bob5"]],
        [["bob2 bob5 eve6 bob8 eve9"]],
        [["new bob5 bob8 eve9"]],
    ]
    assert "ada" not in str(plan)


def test_every_type_is_read_as_it_is_declared(
    cold: FileTables, catalog: Catalog, database_url: str
) -> None:
    types = ["DECIMAL(10, 2)" if name == "DECIMAL" else name for name in NAMES]
    given = [ColumnType.parse(text) for each in types for text in (each, f"{each}[]")]
    columns = ", ".join(f"c{at} {kind.sql}" for at, kind in enumerate(given))
    table = create(catalog, f"CREATE TABLE everything ({columns})")
    row = sample(table)
    rows = row.append_column("_version", row["_seq"]).append_column("_op", pa.array([0], pa.int8()))
    cold.write(table, rows, lease=lease(table), progress=Progress(1), store_id="s", job=job())
    with psycopg.connect(database_url) as connection:
        named = connection.execute(
            "SELECT column_type FROM surgetank.ducklake_column WHERE table_id = %s AND parent_column IS NULL"
            " AND column_id > 2 ORDER BY column_id", (table.id,)
        ).fetchall()  # fmt: skip
    assert [each for (each,) in named] == [kind.ducklake for kind in given]
    described, found = ask(
        database_url,
        ("duckdb", "DESCRIBE lake.public.everything"),
        ("duckdb", "SELECT COLUMNS(*)::VARCHAR FROM (SELECT * EXCLUDE (_user, _seq) FROM lake.public.everything)"),
    )  # fmt: skip
    assert [each[1] for each in described[2:]] == [
        kind.duckdb.replace("DECIMAL(10, 2)", "DECIMAL(10,2)").replace("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE")
        for kind in given
    ]  # fmt: skip
    plain = duckdb.from_arrow(row.drop_columns(["_user", "_seq"]))
    ours = plain.project("COLUMNS(*)::VARCHAR").fetchall()
    assert found == [list(each) for each in ours]


def test_rows_from_before_a_column_have_its_initial_value_in_every_type(
    cold: FileTables, catalog: Catalog, database_url: str
) -> None:
    table = create(catalog, "CREATE TABLE t (id BIGINT)")
    write(cold, table, [(Op.INSERT, "ada", 1, 1, (1,))])
    columns = (
        "a TEXT DEFAULT 'it''s'", "b BOOLEAN DEFAULT true", "c DECIMAL(10, 2) DEFAULT 1.5",
        "d DATE DEFAULT '2020-01-02'",
        "e TIMESTAMP DEFAULT '2020-01-02 03:04:05.000006'", "f TIMESTAMPTZ DEFAULT '2020-01-02 03:04:05+00'",
        "g JSON DEFAULT '{\"a\": [1]}'", "h DOUBLE DEFAULT 1.25", "i TIME DEFAULT '03:04:05'",
        "j UUID DEFAULT '9a946c01-9c92-4dd7-8087-373aebbd9bf5'", "k TEXT",
    )  # fmt: skip
    for each in columns:
        action = parse(f"ALTER TABLE t ADD COLUMN {each}")[0].action
        assert isinstance(action, AddColumn)
        table = catalog.add_column(table, action.column, actor="ann")
    (found,) = ask(
        database_url,
        ("duckdb", "SELECT * EXCLUDE (_user, _seq, id) FROM lake.public.t"),
    )
    (row,) = found
    assert row == [
        "it's",
        True,
        "1.50",
        "2020-01-02",
        "2020-01-02 03:04:05.000006",
        "2020-01-02 03:04:05+00:00",
        '{"a": [1]}',
        1.25,
        "03:04:05",
        "9a946c01-9c92-4dd7-8087-373aebbd9bf5",
        None,
    ]
    (ours,) = cold.read(table, cold.live(table, stores=())).to_pylist()
    assert json.loads(ours["g"]) == json.loads(row[6])  # only their blanks differ


def test_bytes_and_the_lock_are_as_they_are_elsewhere(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        (text,) = connection.execute(
            "SELECT surgetank.lake_default_of('BYTES', '[\"AP9B\"]')"
        ).fetchone() or ("",)
        (source,) = connection.execute(
            "SELECT prosrc FROM pg_proc WHERE proname = 'note_table_version'"
        ).fetchone() or ("",)
    assert text == "\\x00\\xff\\x41"
    assert f"pg_advisory_xact_lock({LOCK})" in source


def test_a_dropped_table_is_not_listed_and_a_snapshot_says_so(
    catalog: Catalog, database_url: str
) -> None:
    table = create(catalog, "CREATE TABLE t (id BIGINT)")
    catalog.drop(table, actor="ann")
    with psycopg.connect(database_url) as connection:
        said = connection.execute(
            "SELECT changes_made FROM surgetank.ducklake_snapshot_changes ORDER BY snapshot_id"
        ).fetchall()
        left = connection.execute("SELECT table_name FROM surgetank.ducklake_table").fetchall()
    assert [each for (each,) in said][1:] == [
        'created_table:"public"."t"',
        f"dropped_table:{table.id}",
    ]
    assert left == []
