"""UPDATE and DELETE: the rows that a statement names, as they are when it is accepted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from support.tables_memory import MemoryHot, NoCold
from surgetank.exceptions import Conflict, EntryRejected, InvalidRequest, QuotaExceeded
from surgetank.streams.tables.definition import Column, Kind, Table
from surgetank.streams.tables.query.changes import Selection, TableChanges
from surgetank.streams.tables.query.names import Reference
from surgetank.streams.tables.query.pool import QueryPool
from surgetank.streams.tables.query.process import Limits, StatementRefused
from surgetank.streams.tables.query.queries import Queries, Runner
from surgetank.streams.tables.query.sources import Readable
from surgetank.streams.tables.query.trusted import TrustedQueries
from surgetank.streams.tables.reader import TableReader
from surgetank.streams.tables.types import ColumnType

ITEMS = Table(
    id=1,
    namespace="app",
    name="items",
    kind=Kind.USER,
    columns=(
        Column(3, "sku", ColumnType.parse("TEXT"), nullable=False),
        Column(4, "Price", ColumnType.parse("DECIMAL(10, 2)")),
        Column(5, "n", ColumnType.parse("BIGINT")),
    ),
    key=("sku",),
)


@dataclass
class Own:
    """One's own rows of `app.items`; everybody's without a user."""

    user: str | None = None

    def table(self, reference: Reference) -> Readable | None:
        return Readable(ITEMS, self.user) if reference.name.casefold() == "items" else None

    def relation(self, reference: Reference) -> None:
        return None


@dataclass
class House:
    pool: QueryPool
    hot: MemoryHot = field(default_factory=MemoryHot)

    def __post_init__(self) -> None:
        cold = NoCold()
        reader = TableReader(self.hot, cold)  # type: ignore[arg-type]
        self.queries = Queries(reader, self.pool, TrustedQueries(cold))  # type: ignore[arg-type]
        self.changes = TableChanges(self.hot, cold, self.queries)  # type: ignore[arg-type]
        self.hot.insert(ITEMS, *(("ann", (sku, Decimal("9.99"), n)) for n, sku in enumerate("abc")))
        self.hot.insert(ITEMS, ("bob", ("a", Decimal(1), 7)))

    def select(self, text: str, runner: Runner | None = None, **more) -> list[dict]:
        return self.queries.select(text, runner or Runner(Own("ann")), **more).table.to_pylist()


@pytest.fixture(scope="module")
def pool() -> Iterator[QueryPool]:
    pool = QueryPool(1)
    yield pool
    pool.close()


@pytest.fixture
def house(pool: QueryPool) -> House:
    return House(pool)


WHERE = Selection(table=ITEMS, where='"N" > 0')
TRUSTED, ANN = Runner(Own("ann")), Runner(Own("ann"), "ann")


@pytest.mark.parametrize("runner", [TRUSTED, ANN], ids=["trusted", "confined"])
def test_an_update_changes_the_rows_it_names_and_no_others(house, runner):
    changed = house.changes.update(
        WHERE, [("price", "round(Price * 1.1, 2)"), ("N", "n + $1")], runner, [10]
    )
    assert changed == 2
    rows = house.select("SELECT * FROM app.items ORDER BY sku", runner)
    assert [tuple(row.values()) for row in rows] == [
        ("a", Decimal("9.99"), 0), ("b", Decimal("10.99"), 11), ("c", Decimal("10.99"), 12),
    ]  # fmt: skip
    assert house.select("SELECT n FROM app.items", Runner(Own("bob"))) == [{"n": 7}]


@pytest.mark.parametrize("runner", [TRUSTED, ANN], ids=["trusted", "confined"])
def test_a_delete_takes_the_rows_it_names(house, runner):
    assert (
        house.changes.delete(
            Selection(table=ITEMS, alias="i", where="i.sku IN ('a', 'c', 'x')"), runner
        )
        == 2
    )
    assert house.select("SELECT sku FROM app.items", runner) == [{"sku": "b"}]
    assert house.changes.delete(Selection(table=ITEMS), runner) == 1
    assert house.changes.delete(Selection(table=ITEMS), runner) == 0


def test_who_may_change_all_rows_changes_each_for_its_user(house):
    everybody = Runner(Own())
    assert (
        house.changes.update(Selection(table=ITEMS, where="sku = 'a'"), [("n", "5")], everybody)
        == 2
    )
    assert house.select("SELECT _user, n FROM app.items WHERE sku = 'a' ORDER BY 1", everybody) == [
        {"_user": "ann", "n": 5}, {"_user": "bob", "n": 5},
    ]  # fmt: skip


def test_a_row_whose_key_changes_moves(house):
    assert (
        house.changes.update(Selection(table=ITEMS, where="sku = 'a'"), [("sku", "'z'")], TRUSTED)
        == 1
    )
    assert house.select("SELECT sku, n FROM app.items WHERE n = 0") == [{"sku": "z", "n": 0}]
    swapped = [("sku", "CASE sku WHEN 'b' THEN 'c' ELSE 'b' END")]
    assert (
        house.changes.update(Selection(table=ITEMS, where="sku IN ('b', 'c')"), swapped, TRUSTED)
        == 2
    )
    assert house.select("SELECT n FROM app.items WHERE sku = 'b'") == [{"n": 2}]


def test_a_key_that_another_row_has_is_refused(house):
    for where, key in (("sku = 'a'", "'b'"), ("true", "'z'")):
        with pytest.raises(Conflict, match="has the key"):
            house.changes.update(Selection(table=ITEMS, where=where), [("sku", key)], TRUSTED)
    assert len(house.select("SELECT * FROM app.items")) == 3


def test_a_statement_that_was_overtaken_reads_again_and_gives_up_in_the_end(house):
    house.hot.refuse_times = 3
    assert house.changes.update(WHERE, [("n", "n + 1")], TRUSTED) == 2
    house.hot.refuse_times = 100
    with pytest.raises(Conflict):
        house.changes.update(WHERE, [("n", "n + 1")], TRUSTED)
    assert house.select("SELECT max(n) AS n FROM app.items") == [{"n": 3}]


@pytest.mark.parametrize(
    ("assignments", "error", "says"),
    [
        ([("nope", "1")], InvalidRequest, "has no such column"),
        ([("n", "1"), ("N", "2")], InvalidRequest, "twice"),
        ([("sku", "NULL")], EntryRejected, "NOT NULL"),
        ([("n", "'x'")], EntryRejected, "'x' is no integer"),
        ([("n", "2.5")], EntryRejected, "no integer"),
        ([("n", "1e30")], EntryRejected, "no integer that is known exactly"),
        ([("n", "sum")], StatementRefused, "not found"),
        ([("price", "Price * 1.1")], EntryRejected, "more than 2 digits behind the point"),
        ([("sku", "n")], EntryRejected, "use CAST"),
        ([("sku", "TIMESTAMP_NS '2026-11-28 00:00:00.000000001'")], InvalidRequest, "microseconds"),
        ([("n", "(SELECT 1")], StatementRefused, "syntax error"),
    ],
)
def test_what_can_t_be_stored_is_refused_and_nothing_is_changed(house, assignments, error, says):
    before = len(house.hot.changes)
    with pytest.raises(error, match=says):
        house.changes.update(WHERE, assignments, TRUSTED)
    assert len(house.hot.changes) == before


def test_a_confined_statement_changes_so_many_rows_at_most(house):
    few = Runner(Own("ann"), "ann", Limits(rows=2))
    with pytest.raises(QuotaExceeded, match="narrow its WHERE"):
        house.changes.delete(Selection(table=ITEMS), few)
    assert len(house.select("SELECT * FROM app.items")) == 3


def test_what_an_insert_selects_is_given_by_the_names_of_its_columns(house):
    selected = house.changes.selected
    text = "SELECT sku || '-' || $1, sum(n) FROM app.items GROUP BY sku ORDER BY sku -- all"
    rows = selected(ITEMS, ["SKU", "n"], text, ANN, ["x"])
    assert rows.to_pylist()[1] == {"sku": "b-x", "n": 1}
    for text in ("SELECT 'a'", "SELECT 'a', 1, 2"):
        with pytest.raises(InvalidRequest):
            selected(ITEMS, ["sku", "n"], text, ANN)
