"""Which rows of a table are visible: what is hot over what is in files, each row once. Pure parts of the reader."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pytest

from surgetank.streams.tables.cold.protocol import ColdTable, DataFile
from surgetank.streams.tables.definition import SEQ, USER, Column, Kind, Table
from surgetank.streams.tables.hot.protocol import (
    OP,
    ORIGIN_SHIFT,
    VERSION,
    Op,
    Pending,
    Progress,
    store_of,
)
from surgetank.streams.tables.query.names import Equal, Reference
from surgetank.streams.tables.query.sources import Readable, Sources, wanted
from surgetank.streams.tables.reader import TableReader, covered, merged
from surgetank.streams.tables.types import ColumnType

ONE, OTHER = 5 << ORIGIN_SHIFT, 9 << ORIGIN_SHIFT
INSERT, UPDATE, DELETE = Op.INSERT, Op.UPDATE, Op.DELETE
TABLE = Table(
    id=1,
    namespace="app",
    name="notes",
    kind=Kind.USER,
    columns=(
        Column(3, "id", ColumnType.parse("BIGINT"), nullable=False),
        Column(4, "Note", ColumnType.parse("TEXT")),
    ),
    key=("id",),
)


def changes(*rows: tuple[str, int, int, Op, int, str | None]) -> pa.Table:
    """User, row, version, kind of change, `id` and `Note`."""
    columns = list(zip(*rows, strict=True)) or [()] * 6
    kinds = (pa.string(), pa.int64(), pa.int64(), pa.int8(), pa.int64(), pa.string())
    arrays = [pa.array(list(each), kind) for each, kind in zip(columns, kinds, strict=True)]
    return pa.table(dict(zip((USER, SEQ, VERSION, OP, "id", "Note"), arrays, strict=True)))


def notes(rows: pa.Table) -> list[str]:
    return sorted(rows.column("Note").to_pylist())


def test_the_newest_change_of_a_row_counts_and_a_deleted_row_is_gone():
    hot = changes(
        ("a", 1, 1, INSERT, 1, "one"), ("a", 2, 2, INSERT, 2, "two"), ("a", 1, 3, UPDATE, 1, "uno"),
        ("a", 2, 4, DELETE, 2, None), ("a", 1, 5, UPDATE, 1, "eins"), ("b", 6, 6, INSERT, 1, "b"),
    )  # fmt: skip
    visible, hidden = merged(hot, {})
    assert notes(visible) == ["b", "eins"]
    assert sorted(hidden.to_pylist()) == [1, 2]
    assert visible.column_names == [USER, SEQ, "id", "Note"]


def test_a_change_of_a_row_in_a_file_hides_it_there():
    visible, hidden = merged(
        changes(("a", 1, 7, UPDATE, 1, "new"), ("a", 2, 8, DELETE, 2, None)), {}
    )
    assert notes(visible) == ["new"]
    assert sorted(hidden.to_pylist()) == [1, 2]


def test_what_the_manifest_has_is_no_hot_change_any_more():
    hot = changes(
        ("a", 1, ONE + 1, INSERT, 1, "one"),
        ("a", 1, ONE + 2, UPDATE, 1, "uno"),
        ("a", 3, ONE + 3, INSERT, 3, "x"),
    )
    visible, hidden = merged(hot, {store_of(ONE): Progress(ONE + 2)})
    assert notes(visible) == ["x"]
    assert hidden.to_pylist() == []


def test_a_user_who_is_held_back_is_covered_only_so_far():
    hot = changes(
        ("a", 1, ONE + 1, INSERT, 1, "a"),
        ("b", 2, ONE + 2, INSERT, 1, "b"),
        ("b", 3, ONE + 3, INSERT, 3, "c"),
    )
    progress = {store_of(ONE): Progress(ONE + 3, {"b": ONE + 2})}
    assert covered(hot, progress).tolist() == [True, True, False]
    assert notes(merged(hot, progress)[0]) == ["c"]


def test_progress_is_that_of_the_store_that_gave_the_version():
    hot = changes(("a", 1, ONE + 9, INSERT, 1, "one"), ("a", 2, OTHER + 1, INSERT, 2, "two"))
    assert notes(merged(hot, {store_of(OTHER): Progress(OTHER + 5)})[0]) == ["one"]
    assert notes(merged(hot, {store_of(ONE): Progress(ONE + 8)})[0]) == ["one", "two"]


def test_no_changes_are_no_rows():
    visible, hidden = merged(changes(), {store_of(ONE): Progress(1)})
    assert (visible.num_rows, len(hidden)) == (0, 0)


# -- what a query needs of a table


def test_a_query_is_given_the_columns_that_it_names_in_any_case():
    needed = wanted(
        Readable(TABLE, "a"), Reference("app", "notes", frozenset({"note", "x"}), every=False), None
    )
    assert needed.shown == ("Note",)


def test_hidden_columns_are_given_to_those_who_name_them():
    star = wanted(Readable(TABLE, "a"), Reference("app", "notes"), None)
    assert star.shown == ("id", "Note")
    named = wanted(Readable(TABLE), Reference("app", "notes", frozenset({"_user"})), None)
    assert named.shown == (USER, "id", "Note")


def test_a_count_needs_one_column_that_every_row_has():
    assert wanted(Readable(TABLE, "a"), Reference("app", "notes", every=False), None).shown == (
        SEQ,
    )


def equal(column: str, value: object = None, parameter: str | None = None) -> Reference:
    condition = Equal(column, value, parameter)  # type: ignore[arg-type]
    return Reference("app", "notes", frozenset({column}), every=True, equals=(condition,))


@pytest.mark.parametrize(
    ("reference", "parameters", "equals"),
    [
        (equal("id", 5), None, (("id", 5),)),
        (equal("id", "5"), None, ()),
        (equal("id", 2**63), None, ()),
        (equal("id", parameter="1"), [7], (("id", 7),)),
        (equal("id", parameter="1"), [True], ()),
        (equal("id", parameter="2"), [7], ()),
        (equal("id", parameter="n"), {"n": 8}, (("id", 8),)),
        (equal("note", "x"), None, (("Note", "x"),)),
        (equal("nothing", "x"), None, ()),
    ],
)
def test_a_condition_is_applied_early_only_where_it_means_the_same(reference, parameters, equals):
    assert wanted(Readable(TABLE, "a"), reference, parameters).equals == equals


def test_who_may_read_all_reads_one_user_where_the_query_names_one():
    assert wanted(Readable(TABLE), equal("_user", "b"), None).readable.user == "b"


def test_nobody_becomes_another_user_by_naming_one():
    assert wanted(Readable(TABLE, "a"), equal("_user", "b"), None).readable.user == "a"


# -- a reader over fakes of both sides


class FakeHot:
    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows

    def acks(self, table: Table) -> int:
        return 3

    @contextmanager
    def snapshot(self) -> Iterator[FakeHot]:
        yield self

    def through(self, table: Table) -> int:
        return 99

    def stores(self, table: Table) -> tuple[str, ...]:
        return (store_of(ONE),)

    def pending(self, table, *, user, columns, hidden) -> Pending:
        return Pending(self._rows.select([USER, SEQ, VERSION, OP, *columns]))


class FakeCold:
    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows
        self.asked: list[object] = []

    def live(self, table, *, stores, user=None) -> ColdTable:
        self.asked.append((stores, user))
        file = DataFile(
            id=1, table_id=1, path="x", bucket=0, buckets=1, rows=2, bytes=1, footer_bytes=1, min_user="a",
            max_user="b", min_seq=1, max_seq=2, schema_version=1,
        )  # fmt: skip
        return ColdTable(7, (file,), {store_of(ONE): Progress(ONE)}, stale=True)

    def scan(self, table, cold, *, user=None, columns=None, **_) -> Iterator[pa.RecordBatch]:
        yield from self._rows.select([USER, SEQ, *columns]).to_batches()


class Everything:
    def table(self, reference: Reference) -> Readable:
        return Readable(TABLE, "a")

    def relation(self, reference: Reference) -> None:
        return None


def test_rows_of_files_come_after_hot_ones_without_those_that_were_changed():
    files = changes(("a", 1, 0, INSERT, 1, "old"), ("a", 2, 0, INSERT, 2, "two")).drop_columns(
        [VERSION, OP]
    )
    hot, cold = FakeHot(changes(("a", 1, ONE + 1, UPDATE, 1, "new"))), FakeCold(files)
    reader = TableReader(hot, cold)  # type: ignore[arg-type]
    assert notes(reader.read(TABLE, user="a")) == ["new", "two"]
    with Sources(reader, Everything()) as sources:
        rows = sources.rows(equal("id", 2))
        assert rows is not None
        assert rows.read_all().to_pylist() == [{"id": 2, "Note": "two"}]
        assert sources.stale
    assert cold.asked[0] == ((store_of(ONE),), "a")
