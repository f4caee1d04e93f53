"""Texts of statements, run for callers over rows in memory: who sees and changes what, and where it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from support.tables_memory import MemoryHot, NoCold
from surgetank.exceptions import InvalidRequest, NotFound
from surgetank.streams.tables.definition import Access, Column, Kind, Table
from surgetank.streams.tables.query.calls import SqlCaller, SqlOutcome, SqlResult
from surgetank.streams.tables.query.changes import TableChanges
from surgetank.streams.tables.query.executor import Executor
from surgetank.streams.tables.query.names import Reference
from surgetank.streams.tables.query.pool import QueryPool
from surgetank.streams.tables.query.queries import Queries
from surgetank.streams.tables.query.sources import Readable
from surgetank.streams.tables.query.trusted import TrustedQueries
from surgetank.streams.tables.reader import TableReader
from surgetank.streams.tables.rows import RowForm
from surgetank.streams.tables.sql.statements import (
    Action,
    Insert,
    KillJob,
    OnConflict,
    TableName,
)
from surgetank.streams.tables.types import ColumnType
from surgetank.streams.tables.values import Source

COLUMNS = (
    Column(3, "id", ColumnType.parse("BIGINT"), nullable=False),
    Column(4, "note", ColumnType.parse("TEXT")),
)
NOTES = Table(id=1, namespace="app", name="notes", kind=Kind.USER, columns=COLUMNS, key=("id",))
RATES = Table(
    id=2, namespace="app", name="rates", kind=Kind.SHARED, columns=COLUMNS, access=Access.READ
)
ANN, BOB = SqlCaller(user="ann"), SqlCaller(user="bob")
ADMIN = SqlCaller(user="root", administers=True)
OWNER = SqlCaller(user="me", trusted=True, administers=True)


class InMemory:
    """Two tables, and what a catalogue says of them."""

    def __init__(self, pool: QueryPool) -> None:
        self.hot = {1: MemoryHot(), 2: MemoryHot()}
        self.inserted: list[Insert] = []
        cold: Any = NoCold()
        hot: Any = self
        self.queries = Queries(TableReader(hot, cold), pool, TrustedQueries(cold))
        self.executor = Executor(self, self.queries, TableChanges(hot, cold, self.queries))

    # -- as the hot side of both tables

    def acks(self, table: Table) -> int:
        return 0

    def erasures(self) -> int:
        return 0

    def accept(self, table: Table, changes: Any, **more: Any) -> Any:
        return self.hot[table.id].accept(table, changes, **more)

    def known_keys(self, table: Table, user: str, keys: Sequence[bytes]) -> dict[bytes, int]:
        return self.hot[table.id].known_keys(table, user, keys)

    def snapshot(self) -> Any:
        return _Both(self.hot)

    # -- as the catalogue

    def scope(self, caller: SqlCaller) -> _Scope:
        return _Scope(caller)

    def changeable(self, caller: SqlCaller, name: TableName) -> Readable:
        if name.name == "rates" and not caller.administers:
            raise InvalidRequest("not yours")
        return _readable(caller, name.name)

    def insert(
        self,
        caller: SqlCaller,
        into: Readable,
        rows: Any,
        how: Insert,
        unless_erased_since: int | None = None,
    ) -> int:
        rows = rows.to_pylist() if hasattr(rows, "to_pylist") else rows
        form = RowForm(into.table)
        user = caller.user if into.table.by_user else ""
        made = [(user, form.read(row, user=user, source=Source.SQL)) for row in rows]
        self.hot[into.table.id].insert(into.table, *made)
        self.inserted.append(how)
        return len(rows)

    def acting(self, caller: SqlCaller, user: str) -> SqlCaller:
        return SqlCaller(user=user, trusted=caller.trusted)

    def other(self, caller: SqlCaller, action: Action) -> SqlResult:
        if isinstance(action, KillJob):
            return SqlResult(number=0, kind="KILL JOB")
        raise InvalidRequest(f"{action} is nothing")

    def run(self, text: str, caller: SqlCaller = ANN, **more: Any) -> SqlOutcome:
        return self.executor.run(text, caller, **more)

    def rows(self, text: str, caller: SqlCaller = ANN, **more: Any) -> list[tuple]:
        rows = self.run(text, caller, **more).done()[-1].rows
        assert rows is not None
        return [tuple(row.values()) for row in rows.to_pylist()]


class _Both:
    def __init__(self, hot: Mapping[int, MemoryHot]) -> None:
        self._hot = hot

    def __enter__(self) -> _Both:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def through(self, table: Table) -> int:
        return 10**6

    def stores(self, table: Table) -> tuple[str, ...]:
        return ()

    def rows(self, table: Table, **more: Any) -> Any:
        with self._hot[table.id].snapshot() as snapshot:
            return snapshot.rows(table, **more)

    def pending(self, table: Table, **more: Any) -> Any:
        with self._hot[table.id].snapshot() as snapshot:
            return snapshot.pending(table, **more)


class _Scope:
    def __init__(self, caller: SqlCaller) -> None:
        self._caller = caller

    def table(self, reference: Reference) -> Readable | None:
        if reference.schema == "system" or reference.optional:
            return None
        return _readable(self._caller, reference.name)

    def relation(self, reference: Reference) -> None:
        return None


def _readable(caller: SqlCaller, name: str) -> Readable:
    tables = {"notes": NOTES, "rates": RATES}
    if name.casefold() not in tables:
        raise NotFound(f"There is no table {name!r}.")
    return Readable(tables[name.casefold()], None if caller.administers else caller.user)


@pytest.fixture(scope="module")
def pool() -> Iterator[QueryPool]:
    pool = QueryPool(1)
    yield pool
    pool.close()


@pytest.fixture
def memory(pool: QueryPool) -> InMemory:
    memory = InMemory(pool)
    for caller in (ANN, BOB):
        note = caller.user
        memory.run(
            f"INSERT INTO app.notes (id, note) VALUES (1, '{note} 1'), (2, '{note} 2')", caller
        ).done()
    memory.run("INSERT INTO app.rates VALUES (7, 'seven')", ADMIN).done()
    return memory


def test_statements_run_one_after_the_other(memory):
    outcome = memory.run(
        "INSERT INTO app.notes SELECT id + 10, upper(note) FROM app.notes WHERE id = $1;"
        "UPDATE app.notes SET note = note || '!' WHERE id > $2; DELETE FROM app.notes WHERE id = 2;"
        "SELECT * FROM app.notes ORDER BY id; KILL JOB 'x'",
        parameters=[1, 10],
    )
    assert [(each.number, each.kind, each.affected) for each in outcome.done()] == [
        (1, "INSERT", 1), (2, "UPDATE", 1), (3, "DELETE", 1), (4, "SELECT", None), (5, "KILL JOB", None),
    ]  # fmt: skip
    rows = outcome.results[3].rows
    assert rows is not None
    assert rows.to_pylist() == [{"id": 1, "note": "ann 1"}, {"id": 11, "note": "ANN 1!"}]


def test_the_first_that_fails_ends_it_and_is_named_with_its_position(memory):
    text = "DELETE FROM app.notes WHERE id = 1; -- é\n SELECT 'é', 1 FRM x; DELETE FROM app.notes"
    outcome = memory.run(text)
    assert (len(outcome.results), outcome.failed) == (1, 2)
    assert outcome.position is not None
    assert text[outcome.position :].startswith(("FRM", "x"))
    assert memory.rows("SELECT id FROM app.notes") == [(2,)]
    with pytest.raises(InvalidRequest):
        outcome.done()


def test_everybody_has_his_own_rows_and_shared_ones(memory):
    for caller in (ANN, BOB):
        assert memory.rows("SELECT note FROM app.notes WHERE id = 1", caller) == [
            (f"{caller.user} 1",)
        ]
        assert memory.rows("SELECT note FROM app.rates", caller) == [("seven",)]
        assert isinstance(memory.run("DELETE FROM app.rates", caller).error, InvalidRequest)
    assert memory.rows("SELECT count(*) FROM app.notes", ADMIN) == [(4,)]
    assert memory.rows("SELECT count(*), count(DISTINCT _user) FROM app.notes", OWNER) == [(4, 2)]


REACHES = (
    "SELECT * FROM app.notes", "SELECT * FROM app.notes WHERE _user = 'bob'", "SELECT *, _user FROM app.notes",
    "SELECT * FROM app.notes a JOIN app.notes b ON a.id <> b.id", "WITH notes AS (FROM app.notes) FROM notes",
    'SELECT * FROM "APP"."NOTES"', "SELECT list(n) FROM app.notes n", "FROM app.notes UNION ALL FROM app.notes",
    "SELECT (SELECT string_agg(note) FROM app.notes)", "SUMMARIZE app.notes", "SELECT COLUMNS('.*') FROM app.notes",
    "SELECT * FROM app.rates, LATERAL (SELECT * FROM app.notes)", "FROM query('FROM app.notes')",
    "FROM query_table('notes')", "SELECT * FROM duckdb_views()", "SELECT * FROM duckdb_columns()",
)  # fmt: skip


@pytest.mark.parametrize("text", REACHES)
def test_nobody_reaches_the_rows_of_others(memory, text):
    memory.run("SELECT * FROM app.notes", BOB).done()  # the same process has just had them
    outcome = memory.run(text)
    assert all("bob" not in str(each.rows.to_pylist()) for each in outcome.results if each.rows)
    assert "bob" not in str(outcome.error).replace("'bob'", "")


def test_nobody_changes_the_rows_of_others(memory):
    for text in (
        "UPDATE app.notes SET note = 'x' WHERE _user = 'bob'", "DELETE FROM app.notes WHERE _user = 'bob'",
        "DELETE FROM app.notes AS n WHERE n.note LIKE 'bob%'", "UPDATE app.notes SET note = 'x' WHERE note = 'bob 1'",
    ):  # fmt: skip
        assert memory.run(text).done()[0].affected == 0
    memory.run("UPDATE app.notes SET note = 'mine'; DELETE FROM app.notes").done()
    assert memory.rows("SELECT note FROM app.notes ORDER BY 1", BOB) == [("bob 1",), ("bob 2",)]


def test_what_follows_on_conflict_reaches_who_inserts(memory):
    memory.run(
        "INSERT INTO app.notes (note, id) VALUES ('x', 5) ON CONFLICT (id) DO UPDATE SET note = excluded.note"
    )
    memory.run("INSERT INTO app.notes (id) SELECT 6 ON CONFLICT DO NOTHING")
    updating, nothing = memory.inserted[-2:]
    assert (updating.on_conflict, updating.conflict_key) == (OnConflict.UPDATE, ("id",))
    assert updating.updates == ("note",)
    assert nothing.on_conflict is OnConflict.NOTHING
    assert memory.rows("SELECT id, note FROM app.notes WHERE id > 2 ORDER BY id") == [
        (5, "x"),
        (6, None),
    ]


def test_so_many_rows_are_given_as_are_wanted(memory):
    for caller in (ANN, OWNER):
        (result,) = memory.run("SELECT * FROM range(10)", caller, most_rows=3).done()
        assert result.rows is not None
        assert (result.rows.num_rows, result.cut) == (3, "rows")


@pytest.mark.parametrize(
    "text",
    [
        "FOO", "INSERT INTO app.notes", "INSERT app.notes VALUES (1)", "INSERT INTO app.notes () VALUES (1)",
        "INSERT INTO app.notes (id, nope) VALUES (1, 2)", "INSERT INTO app.notes (id) VALUES (1, 2)",
        "INSERT INTO app.notes (id) VALUES ('x')", "INSERT INTO app.nope VALUES (1)", "SELECT * FROM app.nope",
        "INSERT INTO app.notes (id) VALUES (1) ON CONFLICT", "INSERT INTO app.notes x VALUES (1)",
    ],
)  # fmt: skip
def test_what_can_t_be_run_is_refused_and_nothing_is_changed(memory, text):
    before = len(memory.hot[1].changes)
    assert memory.run(text).error is not None
    assert len(memory.hot[1].changes) == before


@pytest.mark.parametrize(
    ("text", "parameters", "why"),
    [
        ("SELECT ?", [1, 2], "The text has 1 parameters, and 2 are given."),
        ("SELECT ?, ?", [1], "The text has 2 parameters, and 1 are given."),
        ("SELECT 1", [1], "The text has 0 parameters, and 1 are given."),
        ("SELECT 1; SELECT $1", None, "The text has 1 parameters, and 0 are given."),
        ("SELECT $2", [1, 2], "A value is given for the parameter $1, and no statement uses it."),
        ("SELECT $a", {"b": 1}, "The parameter $a has no value."),
        ("SELECT $a", {"a": 1, "b": 1}, "for the parameter $b, and no statement uses it"),
        ("SELECT $a", {"a": 1, "A": 1}, "The parameter 'A' is given twice."),
        ("SELECT $a", [1], "The parameter $a has no value."),
        ("KILL JOB 'x'", {"1": 1}, "for the parameter $1, and no statement uses it"),
    ],
)
def test_each_parameter_has_one_value_and_nothing_is_run_before(memory, text, parameters, why):
    outcome = memory.run(f"DELETE FROM app.notes; {text}", parameters=parameters)
    assert (outcome.results, outcome.failed) == ((), None)
    assert why in str(outcome.error)
    assert len(memory.rows("SELECT * FROM app.notes")) == 2


def test_names_of_parameters_have_no_case(memory):
    text = "INSERT INTO app.notes VALUES ($Id, $note); SELECT note FROM app.notes WHERE id = $ID"
    assert memory.rows(text, parameters={"iD": 9, "NOTE": "nine"}) == [("nine",)]
    text = "INSERT INTO app.notes VALUES (?, ?); SELECT note FROM app.notes WHERE id = ?"
    assert memory.rows(text, parameters=[8, "eight", 8]) == [("eight",)]
