"""Inserting: rows of every form are the same rows, a batch is one, and what can't be stored is named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from support.tables_memory import NoCold
from surgetank.exceptions import Conflict, EntryRejected, InvalidRequest
from surgetank.streams.tables import insertion
from surgetank.streams.tables.arrows import of_stream
from surgetank.streams.tables.definition import (
    SEQ,
    USER,
    Column,
    Default,
    DefaultKind,
    Kind,
    Table,
)
from surgetank.streams.tables.hot.protocol import Change, Op
from surgetank.streams.tables.hot.store import SQLiteHotTables
from surgetank.streams.tables.ingest import TableIngest, ndjson
from surgetank.streams.tables.insertion import Inserted
from surgetank.streams.tables.sql.statements import OnConflict
from surgetank.streams.tables.types import ColumnType
from surgetank.streams.tables.values import Source

NOW = datetime(2026, 11, 28, 7, 15, tzinfo=UTC)


def column(number: int, name: str, kind: str, **more: Any) -> Column:
    return Column(number, name, ColumnType.parse(kind), **more)


ORDERS = Table(
    id=1,
    namespace="shop",
    name="orders",
    kind=Kind.USER,
    columns=(
        column(3, "sku", "TEXT", nullable=False),
        column(4, "price", "DECIMAL(10, 2)"),
        column(5, "placed", "TIMESTAMPTZ", default=Default(DefaultKind.NOW)),
        column(6, "id", "UUID", default=Default(DefaultKind.UUID)),
        column(7, "n", "INT", default=Default(DefaultKind.CONSTANT, 1)),
        column(8, "doc", "JSON"),
    ),
)
STOCK = Table(
    id=2,
    namespace="shop",
    name="stock",
    kind=Kind.USER,
    columns=(column(3, "sku", "TEXT"), column(4, "n", "INT"), column(5, "note", "TEXT")),
    key=("sku",),
)


class Cold(NoCold):
    """Keys that are in files."""

    def __init__(self) -> None:
        self.keys: dict[tuple[Any, ...], int] = {}

    def known_keys(
        self, table: Table, user: str, keys: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], int]:
        return {key: self.keys[key] for key in keys if key in self.keys}


@pytest.fixture
def cold() -> Cold:
    return Cold()


@pytest.fixture
def hot(tmp_path: Path) -> Iterator[SQLiteHotTables]:
    store = SQLiteHotTables(tmp_path / "buffer-tables.db")
    yield store
    store.close()


@pytest.fixture(params=["rows", "segments"])
def ingest(
    hot: SQLiteHotTables,
    cold: Cold,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> TableIngest:
    if request.param == "segments":
        monkeypatch.setattr(insertion, "SEGMENT_ROWS", 1)
    return TableIngest(hot, cold, now=lambda: NOW)  # type: ignore[arg-type]


def shown(hot: SQLiteHotTables, table: Table, *names: str) -> list[tuple[Any, ...]]:
    with hot.snapshot() as snapshot:
        rows = snapshot.rows(table).to_pylist()
    return [tuple(row[name] for name in names) for row in rows]


GIVEN: list[dict[str, Any]] = [
    {"sku": "a", "price": "1.50", "doc": {"b": [1, None]}},
    {"SKU": "b", "price": None, "n": 7, "doc": None},
]
STORED = [
    ("ann", "a", Decimal("1.50"), NOW, 1, '{"b":[1,null]}'),
    ("ann", "b", None, NOW, 7, None),
]
NAMES = (USER, "sku", "price", "placed", "n", "doc")


def test_rows_of_every_form_are_the_same_rows(hot: SQLiteHotTables, ingest: TableIngest) -> None:
    lines = b'{"sku":"a","price":"1.50","doc":{"b":[1,null]}}\n\n{"SKU":"b","price":null,"n":7,"doc":null}'
    batch = pa.record_batch(
        {
            "sku": pa.array(["a", "b"]).dictionary_encode(),
            "price": pa.array([Decimal("1.5"), None], pa.decimal128(5, 1)),
            "n": pa.array([1, 7], pa.int64()),
            "doc": pa.array(['{"b": [1, null]}', None], pa.large_string()),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    every: list[tuple[Any, dict[str, Any]]] = [
        (GIVEN, {"source": Source.JSON}),
        (ndjson(lines), {"source": Source.JSON}),
        ([("a", Decimal("1.5"), 1, {"b": [1, None]}), ("b", None, 7, None)], {"columns": ("sku", "price", "n", "doc")}),
        (batch, {}),
        (pa.table(batch), {}),
        (pa.RecordBatchReader.from_batches(batch.schema, [batch]), {}),
        (of_stream(sink.getvalue().to_pybytes()), {}),
    ]  # fmt: skip
    for rows, more in every:
        before = shown(hot, ORDERS, SEQ)
        inserted = ingest.insert(ORDERS, rows, user="ann", **more)
        assert (inserted.rows, inserted.bad) == (2, ())
        new = [row[:-2] for row in shown(hot, ORDERS, *NAMES, "id", SEQ) if row[-1:] not in before]
        assert new == STORED
    assert len({id_ for (id_,) in shown(hot, ORDERS, "id")}) == 2 * len(every)


def test_the_rows_of_several_users_name_theirs(hot: SQLiteHotTables, ingest: TableIngest) -> None:
    ingest.insert(ORDERS, [{USER: "bob", "sku": "a"}, {USER: "ann", "sku": "b"}])
    ingest.insert(ORDERS, pa.table({USER: ["bob", "ann"], "sku": ["c", "d"]}))
    assert shown(hot, ORDERS, USER, "sku") == [
        ("ann", "b"),
        ("ann", "d"),
        ("bob", "a"),
        ("bob", "c"),
    ]
    for rows in (
        [{"sku": "a"}],
        [{USER: "", "sku": "a"}],
        pa.table({"sku": ["a"]}),
        pa.table({USER: [None], "sku": ["a"]}),
    ):
        with pytest.raises(EntryRejected, match="nobody is named"):
            ingest.insert(ORDERS, rows)
    for rows in ([{USER: "ann", "sku": "a"}], pa.table({USER: ["ann"], "sku": ["a"]})):
        with pytest.raises(EntryRejected, match="no such column"):  # nobody writes for another
            ingest.insert(ORDERS, rows, user="bob")


@pytest.mark.parametrize(
    ("bad", "path", "reason"),
    [
        ({"sku": None}, "$[1].sku", "NOT NULL"),
        ({"sku": "x", "price": "1.505"}, "$[1].price", "behind the point"),
        ({"sku": "x", "n": 2**31}, "$[1].n", "outside of INT"),
        ({"sku": "x", "doc": "{"}, "$[1].doc", "no JSON"),
    ],
)
def test_one_row_that_cannot_be_stored_is_named_and_nothing_is_accepted(
    hot: SQLiteHotTables, ingest: TableIngest, bad: dict[str, Any], path: str, reason: str
) -> None:
    rows: list[dict[str, Any]] = [{"sku": "a"}, bad, {"sku": "c"}]
    columns = {name: [row.get(name) for row in rows] for name in bad}
    columns["sku"] = [row["sku"] for row in rows]
    for given in (rows, pa.table(columns)):
        source = Source.PYTHON if "doc" in bad or not isinstance(given, list) else Source.JSON
        with pytest.raises(EntryRejected, match=reason) as refused:
            ingest.insert(ORDERS, given, user="ann", source=source)
        assert refused.value.path == path
        assert shown(hot, ORDERS, "sku") == []
        inserted = ingest.insert(ORDERS, given, user="ann", source=source, on_bad="skip")
        assert (inserted.rows, [(each.index, each.path) for each in inserted.bad]) == (
            2,
            [(1, path)],
        )
        assert reason in inserted.bad[0].reason
        assert shown(hot, ORDERS, "sku") == [("a",), ("c",)]
        _drain(hot, ORDERS)


def _drain(hot: SQLiteHotTables, table: Table) -> None:
    lease = hot.lease(table, owner="me", ttl_s=9)
    assert lease is not None
    hot.ack(lease, lease.through)
    hot.release(lease)


def test_values_that_arrow_has_and_a_column_has_not_are_refused(
    hot: SQLiteHotTables, ingest: TableIngest
) -> None:
    table = Table(
        id=3, namespace="a", name="b", kind=Kind.SHARED, columns=(
            column(3, "d", "DATE"), column(4, "t", "TIMESTAMP"), column(5, "s", "TEXT"), column(6, "r", "REAL"),
        ),
    )  # fmt: skip
    broken = pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")
    )
    for name, values in {
        "d": pa.array([10**7], pa.int32()).cast(pa.date32()),
        "t": pa.array([2**62]).cast(pa.timestamp("us")),
        "t ": pa.array([1]).cast(pa.timestamp("ns")),  # finer than a microsecond
        "s": broken,
        "s ": pa.array([1]),
        "r": pa.array([1e300]),
    }.items():
        with pytest.raises(EntryRejected):
            ingest.insert(table, pa.table({name.strip(): values}))
    assert shown(hot, table, "d") == []
    ingest.insert(
        table, pa.table({"r": pa.array([0.1]), "t": pa.array([1000]).cast(pa.timestamp("ns"))})
    )
    assert shown(hot, table, "r", "s") == [(0.10000000149011612, None)]


def test_a_line_that_is_no_json_is_refused_where_it_stands(ingest: TableIngest) -> None:
    lines = [b'{"sku":"a"}', b"{", b"3", b"[" * 100_000]
    with pytest.raises(EntryRejected, match="no JSON"):
        ingest.insert(ORDERS, ndjson(lines), user="ann", source=Source.JSON)
    inserted = ingest.insert(ORDERS, ndjson(lines), user="ann", source=Source.JSON, on_bad="skip")
    assert (inserted.rows, [each.index for each in inserted.bad]) == (1, [1, 2, 3])


def test_a_key_that_is_there_hot_or_cold_is_refused(
    hot: SQLiteHotTables, cold: Cold, ingest: TableIngest
) -> None:
    ingest.insert(STOCK, [{"sku": "hot", "n": 1}], user="ann")
    cold.keys["cold",] = 77
    for sku in ("hot", "cold", "new"):
        rows = [{"sku": "new", "n": 2}, {"sku": sku, "n": 2}]
        for given in (rows, pa.Table.from_pylist(rows)):
            with pytest.raises(Conflict, match=f"Row 1: .*sku = '{sku}'"):
                ingest.insert(STOCK, given, user="ann")
    assert shown(hot, STOCK, "sku") == [("hot",)]
    hot.accept(STOCK, [Change("ann", Op.DELETE, ("cold", None, None), 77)])
    ingest.insert(STOCK, [{"sku": "cold", "n": 3}], user="ann")


def test_on_conflict_leaves_rows_or_changes_them(
    hot: SQLiteHotTables, cold: Cold, ingest: TableIngest
) -> None:
    first = ingest.insert(STOCK, [{"sku": "hot", "n": 1, "note": "kept"}], user="ann").first
    cold.keys["cold",] = 77
    rows = [
        {"sku": "hot", "n": 5},
        {"sku": "cold", "n": 6},
        {"sku": "new", "n": 7},
        {"sku": "new", "n": 8},
    ]
    ignored = ingest.insert(STOCK, rows, user="ann", on_conflict=OnConflict.NOTHING)
    assert (ignored.rows, ignored.updated, ignored.ignored) == (1, 0, 3)
    updated = ingest.insert(STOCK, rows, user="ann", on_conflict=OnConflict.UPDATE, updates=("N",))
    assert (updated.rows, updated.updated) == (0, 3)
    newest = {row[0]: row[1:] for row in shown(hot, STOCK, "sku", "n", "note", SEQ)}
    assert newest["hot"] == (5, "kept", first)
    assert newest["cold"] == (6, None, 77)
    assert newest["new"][0] == 8
    ingest.insert(STOCK, rows[:1], user="ann", on_conflict=OnConflict.UPDATE)
    assert {row[0]: row[1:] for row in shown(hot, STOCK, "sku", "n", "note")}["hot"] == (5, None)
    with pytest.raises(InvalidRequest, match="PRIMARY KEY"):
        ingest.insert(STOCK, rows, user="ann", on_conflict=OnConflict.UPDATE, updates=("sku",))
    with pytest.raises(InvalidRequest, match="no PRIMARY KEY"):
        ingest.insert(ORDERS, [{"sku": "a"}], user="ann", on_conflict=OnConflict.NOTHING)


def test_a_key_that_becomes_cold_meanwhile_is_asked_again(
    hot: SQLiteHotTables, cold: Cold, ingest: TableIngest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seq = ingest.insert(STOCK, [{"sku": "a", "n": 1}], user="ann").first
    known = hot.known_keys

    def flushed_between(*arguments: Any) -> Any:
        """The row becomes cold after what is cold was asked."""
        monkeypatch.undo()
        _drain(hot, STOCK)
        found = known(*arguments)
        monkeypatch.setattr(cold, "known_keys", seen_late)
        return found

    def seen_late(*_: Any) -> dict[tuple[Any, ...], int]:
        monkeypatch.undo()
        cold.keys["a",] = seq
        return {}

    monkeypatch.setattr(hot, "known_keys", flushed_between)
    with pytest.raises(Conflict, match="sku = 'a'"):
        ingest.insert(STOCK, [{"sku": "a", "n": 2}], user="ann")


def test_a_batch_with_a_key_is_accepted_once(hot: SQLiteHotTables, ingest: TableIngest) -> None:
    for rows in ([{"sku": "a"}, {"sku": "b"}], pa.table({"sku": ["c", "d"]})):
        name = str(type(rows))
        first = ingest.insert(ORDERS, rows, user="ann", key=name)
        again = ingest.insert(ORDERS, rows, user="ann", key=name)
        assert again == Inserted(2, first=first.first, last=first.last, repeated=True)
        with pytest.raises(Conflict, match="idempotency key"):
            ingest.insert(ORDERS, [{"sku": "x"}], user="ann", key=name)
        ingest.insert(ORDERS, rows, user="bob", key=name)
    assert len(shown(hot, ORDERS, "sku")) == 8
