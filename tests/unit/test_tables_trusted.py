"""SQL of trusted callers: DuckDB reads hot rows and files itself, without what was deleted or changed since."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.tables_memory import MemoryHot
from surgetank.exceptions import InvalidRequest
from surgetank.streams.tables.cold.protocol import ColdTable, DataFile
from surgetank.streams.tables.definition import SEQ, USER, Column, Kind, Table
from surgetank.streams.tables.hot.protocol import Change, Op
from surgetank.streams.tables.query.names import Reference
from surgetank.streams.tables.query.queries import Queries, Runner
from surgetank.streams.tables.query.sources import Readable
from surgetank.streams.tables.query.trusted import TrustedQueries
from surgetank.streams.tables.reader import TableReader
from surgetank.streams.tables.types import ColumnType

ID = uuid.UUID(int=7)
NOTES = Table(
    id=1,
    namespace="app",
    name="notes",
    kind=Kind.USER,
    schema_version=2,
    columns=(
        Column(3, "id", ColumnType.parse("BIGINT"), nullable=False),
        Column(4, "note", ColumnType.parse("TEXT")),
        Column(5, "doc", ColumnType.parse("JSON")),
        Column(6, "tags", ColumnType.parse("UUID[]"), since=2, initial=[ID]),
    ),
    key=("id",),
)


class Files:
    """Files of the first version of the table; the positions that are deleted in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[DataFile] = []

    @contextmanager
    def held(self, files: Sequence[DataFile]) -> Iterator[dict[str, Path]]:
        names = (name for file in files for name in (file.path, file.delete_path) if name)
        yield {name: self.folder / name for name in names}

    def add(self, user: str, *seqs: int, deleted: tuple[int, ...] = ()) -> None:
        number = len(self.files)
        path, delete_path = f"it's {number}.parquet", f"d{number}.parquet"
        rows = {
            USER: pa.array([user] * len(seqs)),
            SEQ: pa.array(seqs, pa.int64()),
            "id": pa.array(seqs, pa.int64()),
            "note": pa.array([f"cold {seq}" for seq in seqs]),
            "doc": pa.array([f'{{"n":{seq}}}' for seq in seqs], pa.json_(pa.string())),
        }
        pq.write_table(pa.table(rows), self.folder / path, store_schema=False)
        if deleted:
            where = {
                "file_path": ["elsewhere"] * len(deleted),
                "pos": pa.array(deleted, pa.int64()),
            }
            pq.write_table(pa.table(where), self.folder / delete_path)
        file = DataFile(
            id=number, table_id=1, path=path, bucket=0, buckets=1, rows=len(seqs), bytes=1, footer_bytes=1,
            min_user=user, max_user=user, min_seq=min(seqs), max_seq=max(seqs), schema_version=1,
            delete_path=delete_path if deleted else None, deleted_rows=len(deleted),
        )  # fmt: skip
        self.files.append(file)

    def live(self, table: Table, **_: Any) -> ColdTable:
        return ColdTable(1, tuple(self.files), {})


class Own:
    def __init__(self, user: str | None) -> None:
        self._user = user

    def table(self, reference: Reference) -> Readable | None:
        return Readable(NOTES, self._user) if reference.name == "notes" else None

    def relation(self, reference: Reference) -> pa.Table | None:
        return pa.table({"id": ["j1"]}) if reference.schema == "system" else None


class House:
    def __init__(self, folder: Path) -> None:
        self.hot, self.cold = MemoryHot(), Files(folder)
        self.trusted = TrustedQueries(self.cold)  # type: ignore[arg-type]
        reader = TableReader(self.hot, self.cold)  # type: ignore[arg-type]
        self._queries = Queries(reader, None, self.trusted)  # type: ignore[arg-type]

    def select(self, text: str, user: str | None = "ann", parameters: Any = None) -> list[tuple]:
        answer = self._queries.select(text, Runner(Own(user)), parameters)
        return [tuple(row.values()) for row in answer.table.to_pylist()]

    def change(self, op: Op, seq: int, note: str | None) -> None:
        values = (seq, note, "{}", None)
        self.hot.accept(NOTES, [Change("ann", op, values, None if op is Op.INSERT else seq)])


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    house.cold.add("ann", 101, 102, 103, 104, deleted=(1,))
    house.cold.add("ann", 105)
    house.cold.add("bob", 106)
    return house


def test_files_are_read_without_deleted_rows_and_those_that_were_changed_since(house):
    house.change(Op.UPDATE, 103, "hot 103")
    house.change(Op.DELETE, 104, None)
    house.change(Op.INSERT, 1, "hot 1")
    assert house.select("SELECT id, note FROM app.notes ORDER BY id") == [
        (1, "hot 1"), (101, "cold 101"), (103, "hot 103"), (105, "cold 105"),
    ]  # fmt: skip
    assert house.select("SELECT count(*), sum(id) FROM app.notes", None) == [
        (5, 1 + 101 + 103 + 105 + 106)
    ]


def test_columns_that_files_do_not_have_yet_have_their_initial_value_and_types_are_those_declared(
    house,
):
    assert house.select("SELECT typeof(doc), doc->>'n', typeof(tags), tags FROM app.notes WHERE id = 101") == [
        ("JSON", "101", "UUID[]", [str(ID)]),
    ]  # fmt: skip


def test_hidden_columns_are_there_for_those_who_name_them(house):
    assert house.select("SELECT _user, _seq FROM app.notes WHERE note LIKE '%106'", None) == [
        ("bob", 106)
    ]
    assert len(house.select("SELECT * FROM app.notes")[0]) == len(NOTES.columns)


def test_system_relations_and_parameters_can_be_used(house):
    assert house.select(
        "SELECT system.jobs.id FROM system.jobs WHERE id = $1", parameters=["j1"]
    ) == [("j1",)]
    assert house.select("SELECT 1 FROM app.notes n, system.jobs WHERE n.id = 101") == [(1,)]


def test_one_query_leaves_nothing_for_the_next(house):
    house.select("SELECT * FROM app.notes")
    house.select("SELECT * FROM system.jobs")
    (connection,) = house.trusted._free
    assert (
        connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
        == []
    )


@pytest.mark.parametrize(
    "text", ["SELEC", "SELECT 1; SELECT 2", "DROP TABLE app.notes", "FROM nothing", ""]
)
def test_what_is_no_single_select_is_refused(house, text):
    with pytest.raises(InvalidRequest):
        house.select(text)
    assert house.select("SELECT 1") == [(1,)]


def test_why_a_statement_is_refused_is_one_sentence_in_one_line(house):
    with pytest.raises(InvalidRequest, match="does not exist! Did you mean") as caught:
        house.select("SELECT nothing_like_it(1)")
    assert "\n" not in caught.value.what
    with pytest.raises(InvalidRequest) as caught:
        house.select("SELECT ,")
    assert caught.value.what.endswith('near ",".')
