"""UPDATE and DELETE: which rows, and what becomes of them, is one SELECT; what is accepted are whole new rows.

The rows were read at one moment. If one of them was changed since, nothing is accepted, and the statement reads again:
no change of anybody else's is lost. What a query gives is stored as it is, or refused, as a literal is: DuckDB would
make an INT of 1.5 by rounding it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgetank.exceptions import Conflict, InvalidRequest, QuotaExceeded
from surgetank.streams.tables.cold.protocol import ColdTables
from surgetank.streams.tables.definition import NOBODY, SEQ, USER, Table
from surgetank.streams.tables.hot.protocol import DELETED, Change, HotTables, Op
from surgetank.streams.tables.keys import key_encoder
from surgetank.streams.tables.query.names import quoted
from surgetank.streams.tables.query.parameters import Parameters
from surgetank.streams.tables.query.process import Answer, StatementRefused
from surgetank.streams.tables.query.queries import Queries, Runner
from surgetank.streams.tables.rows import Row, RowForm
from surgetank.streams.tables.values import Source

if TYPE_CHECKING:
    import pyarrow as pa

_ATTEMPTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Rows of a table that a statement names: of one user (None: of all that the scope shows), with
    an alias, and a condition as DuckDB has it."""

    table: Table
    user: str | None = None
    alias: str | None = None
    where: str | None = None


class TableChanges:
    """Runs UPDATE and DELETE. For any number of threads."""

    def __init__(self, hot: HotTables, cold: ColdTables, queries: Queries) -> None:
        self._hot = hot
        self._cold = cold
        self._queries = queries

    def update(
        self,
        rows: Selection,
        assignments: Sequence[tuple[str, str]],
        runner: Runner,
        parameters: Parameters | None = None,
    ) -> int:
        """Change rows: columns, and expressions as DuckDB has them. How many there were.

        Raises `EntryRejected` naming a value that can't be stored, `Conflict` for a PRIMARY KEY that
        another row has, and where others change the same rows again and again.
        """
        table = rows.table
        names = [column.name for column in table.columns]
        given = _assigned(table, assignments)
        moved = [name for name in table.key if name in given]
        shown = [_shown(rows, name, given.get(name)) for name in names]
        shown += [f"{_alias(rows)}.{quoted(name)} AS {quoted(f'old {name}')}" for name in moved]
        form = RowForm(table)

        def changes(found: Sequence[_Found]) -> list[Change]:
            made: list[Change] = []
            for user, seq, values in found:
                new = form.values(names, values[: len(names)], user=user, source=Source.SQL)
                before = dict(zip(moved, values[len(names) :], strict=True))
                old = _stored(
                    table, tuple(before.get(n, v) for n, v in zip(names, new, strict=True))
                )
                if before and _key(table, old) != _key(table, new):
                    made.append(Change(user, Op.DELETE, _key_only(table, old), seq))
                    made.append(Change(user, Op.INSERT, new))
                else:
                    made.append(Change(user, Op.UPDATE, new, seq))
            made.sort(
                key=lambda change: change.op is not Op.DELETE
            )  # a key is free before it is taken
            self._refuse_taken(table, made)
            return made

        return self._run(rows, shown, changes, runner, parameters)

    def delete(self, rows: Selection, runner: Runner, parameters: Parameters | None = None) -> int:
        """Delete rows. How many there were. Raises as `update`."""
        table = rows.table
        names = [column.name for column in table.columns]
        shown = [_shown(rows, name, None) for name in table.key]

        def changes(found: Sequence[_Found]) -> list[Change]:
            made = []
            for user, seq, values in found:
                key = dict(zip(table.key, values, strict=True))
                row = _stored(table, tuple(key.get(name) for name in names))
                made.append(Change(user, Op.DELETE, row, seq))
            return made

        return self._run(rows, shown, changes, runner, parameters)

    def erasures(self) -> int:
        """See `HotTables.erasures`: what `selected` gives is accepted only if it stays the same."""
        return self._hot.erasures()

    def selected(
        self,
        table: Table,
        columns: Sequence[str],
        text: str,
        runner: Runner,
        parameters: Parameters | None = None,
    ) -> pa.Table:
        """The rows that INSERT INTO table (columns) SELECT ... gives, by the names of the columns.

        Raises `InvalidRequest` where the SELECT has more or fewer columns, `QuotaExceeded` where it
        has too many rows."""
        given = list(_assigned(table, [(name, "") for name in columns]))
        numbers = [f"c{number}" for number in range(len(given))]
        shown = [
            f"{_expression(table, name, f's.{number}')} AS {number}"
            for number, name in zip(numbers, given, strict=True)
        ]
        try:
            answer = self._queries.select(
                f"SELECT s.* REPLACE ({', '.join(shown)}) FROM ({text}\n) AS s ({', '.join(numbers)})",
                runner,
                parameters,
            )
        except StatementRefused as error:
            if 'table "s" has' not in error.what:
                raise
            raise _other_columns(given, "fewer") from error
        if len(answer.table.column_names) != len(given):
            raise _other_columns(given, str(len(answer.table.column_names)))
        _refuse_cut(answer)
        return answer.table.rename_columns(given)

    def _run(
        self,
        rows: Selection,
        shown: Sequence[str],
        changes: Callable[[Sequence[_Found]], list[Change]],
        runner: Runner,
        parameters: Parameters | None,
    ) -> int:
        text = _text(rows, shown)
        for attempt in range(1, _ATTEMPTS + 1):
            erasures = self._hot.erasures()
            with self._queries.sources(runner, parameters) as sources:
                answer = self._queries.run(text, runner, sources, parameters)
                view = next(each for each in sources.views if each.table.id == rows.table.id)
            found = _found(answer, rows.table)
            if rows.user is not None and rows.table.by_user:
                found = [each for each in found if each[0] == rows.user]
            if not found:
                return 0
            made = changes(found)
            try:
                self._hot.accept(
                    rows.table,
                    made,
                    unless_newer_than=view.through,
                    unless_acked_since=view.acks,
                    unless_erased_since=erasures,
                )
            except Conflict:
                if attempt == _ATTEMPTS:
                    raise
            else:
                return len(found)
        raise AssertionError  # the last attempt raised

    def _refuse_taken(self, table: Table, changes: Sequence[Change]) -> None:
        """Raises `Conflict` where a row is to have the key of another one."""
        freed = {change.seq for change in changes if change.op is Op.DELETE}
        taken: set[tuple[str, tuple[Any, ...]]] = set()
        for change in changes:
            if change.op is not Op.INSERT:
                continue
            key = _key(table, change.values)
            if (change.user, key) in taken or self._is_taken(table, change.user, key, freed):
                raise Conflict(
                    f"A row of {table.full_name} has the key {key!r:.200} already.",
                    remedy="choose another key, or delete that row first.",
                )
            taken.add((change.user, key))

    def _is_taken(
        self, table: Table, user: str, key: tuple[Any, ...], freed: set[int | None]
    ) -> bool:
        encoded = key_encoder(table)(key)
        hot = self._hot.known_keys(table, user, [encoded]).get(encoded)
        if hot is not None:
            return hot != DELETED and hot not in freed
        cold = self._cold.known_keys(table, user, [key]).get(key)
        return cold is not None and cold not in freed


_Found = tuple[str, int, tuple[Any, ...]]  # whose row, which, and values


def _text(rows: Selection, shown: Sequence[str]) -> str:
    table, alias = rows.table, _alias(rows)
    hidden = [f"{alias}.{USER}"] * table.by_user + [f"{alias}.{SEQ}"]
    name = f"{quoted(table.namespace)}.{quoted(table.name)}"
    where = f" WHERE ({rows.where}\n)" if rows.where is not None else ""
    return f"SELECT {', '.join([*hidden, *shown])} FROM {name} AS {alias}{where}"


def _alias(rows: Selection) -> str:
    return quoted(rows.alias or rows.table.name)


def _shown(rows: Selection, name: str, expression: str | None) -> str:
    if expression is None:
        return f"{_alias(rows)}.{quoted(name)} AS {quoted(name)}"
    return f"{_expression(rows.table, name, expression)} AS {quoted(name)}"


def _expression(table: Table, name: str, text: str) -> str:
    """A value for a column. Only JSON is made by DuckDB: it knows what was a struct or a map."""
    column = table.column(name)
    assert column is not None, name
    if column.type.name == "JSON":
        return f"CAST(({text}\n) AS {column.type.duckdb})"
    return f"({text}\n)"


def _assigned(table: Table, assignments: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Expressions by the names of columns as they were declared. Raises `InvalidRequest`."""
    given: dict[str, str] = {}
    for name, expression in assignments:
        column = table.column(name)
        if column is None or column.name in given:
            why = "has no such column" if column is None else "is to have it twice"
            raise InvalidRequest(
                f"UPDATE can't set {name!r:.80}: {table.full_name} {why}.",
                remedy=f"its columns are {', '.join(each.name for each in table.columns)[:400]}.",
            )
        given[column.name] = expression
    return given


def _found(answer: Answer, table: Table) -> list[_Found]:
    """The rows of an answer. Raises `QuotaExceeded` where it was cut."""
    _refuse_cut(answer)
    try:
        columns = [column.to_pylist() for column in answer.table.columns]
    except (ValueError, OverflowError) as error:  # a time before the year 1, or of nanoseconds
        raise InvalidRequest(
            f"The statement makes a value that no column can have: {str(error)[:200]}.",
            remedy="use times of the years 1 to 9999, in microseconds.",
        ) from error
    if not table.by_user:
        columns.insert(0, [NOBODY] * answer.table.num_rows)
    return [(user, seq, tuple(values)) for user, seq, *values in zip(*columns, strict=True)]


def _other_columns(named: Sequence[str], selected: str) -> InvalidRequest:
    return InvalidRequest(
        f"INSERT names {len(named)} columns, and its SELECT has {selected}.",
        remedy="select as many; `*` has the hidden columns that its query names (`_user`, `_seq`).",
    )


def _refuse_cut(answer: Answer) -> None:
    if answer.cut is not None:
        raise QuotaExceeded(
            f"One statement may change {answer.table.num_rows} of these rows, and there are more.",
            remedy="change fewer at once: narrow its WHERE.",
        )


def _key(table: Table, row: Row) -> tuple[Any, ...]:
    at = [column.name for column in table.columns]
    return tuple(row[at.index(name)] for name in table.key)


def _key_only(table: Table, row: Row) -> Row:
    """The row of a DELETE."""
    return tuple(
        value if column.name in table.key else None
        for column, value in zip(table.columns, row, strict=True)
    )


def _stored(table: Table, row: Row) -> Row:
    """Values of SQL as they are stored."""
    form = RowForm(table)
    return tuple(
        None if value is None else form.value(column.name, value, source=Source.SQL)
        for column, value in zip(table.columns, row, strict=True)
    )
