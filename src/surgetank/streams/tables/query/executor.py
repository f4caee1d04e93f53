"""Runs texts of statements: SELECT, INSERT, UPDATE and DELETE here, all others by who knows the catalogue.

A text that can't be read is refused before any of it is run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from surgetank.exceptions import InvalidRequest, SurgetankError
from surgetank.streams.tables.hot.protocol import ErasedSince
from surgetank.streams.tables.query.calls import SqlCaller, SqlOutcome, SqlResult
from surgetank.streams.tables.query.changes import Selection, TableChanges
from surgetank.streams.tables.query.parameters import Parameters, matched
from surgetank.streams.tables.query.process import Limits, StatementRefused
from surgetank.streams.tables.query.queries import Queries, Runner
from surgetank.streams.tables.query.sources import Readable, Scope
from surgetank.streams.tables.sql.parsing import Misread, parse, title
from surgetank.streams.tables.sql.statements import (
    Action,
    AsDeclared,
    Delete,
    ExecuteAs,
    Given,
    Insert,
    Select,
    Statement,
    TableName,
    Update,
)

if TYPE_CHECKING:
    import pyarrow as pa

    Rows: TypeAlias = Sequence[Mapping[str, Any]] | pa.Table

_ATTEMPTS = 8  # of INSERT ... SELECT, when users are erased


class Catalogue(Protocol):
    """What statements need to know of tables, and who runs those that change tables themselves.
    Raises what the caller is to be told: `NotFound`, `NotAllowed`."""

    def scope(self, caller: SqlCaller) -> Scope:
        """What the caller may read."""
        ...

    def changeable(self, caller: SqlCaller, name: TableName) -> Readable:
        """The table of this name, and whose rows of it the caller may change (None: all)."""
        ...

    def insert(
        self,
        caller: SqlCaller,
        into: Readable,
        rows: Rows,
        how: Insert,
        unless_erased_since: int | None = None,
    ) -> int:
        """Insert rows with values as SQL gives them; `how` says what becomes of keys that are
        there. How many were inserted or updated. Raises `ErasedSince` where a user was erased since
        the rows were read (`TableChanges.erasures`)."""
        ...

    def acting(self, caller: SqlCaller, user: str) -> SqlCaller:
        """The caller as somebody else: EXECUTE AS USER."""
        ...

    def other(self, caller: SqlCaller, action: Action) -> SqlResult:
        """Run any other statement. Raises `InvalidRequest` where there is none like it."""
        ...


class Executor:
    """Runs SQL for callers. For any number of threads."""

    def __init__(
        self,
        catalogue: Catalogue,
        queries: Queries,
        changes: TableChanges | None,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._catalogue = catalogue
        self._queries = queries
        self._changes = changes
        self._limits = limits or Limits()
        self._clock = clock

    def run(
        self,
        text: str,
        caller: SqlCaller,
        *,
        parameters: Parameters | None = None,
        most_rows: int | None = None,
    ) -> SqlOutcome:
        """Run the statements of a text, one after the other, until one fails. `most_rows` of each
        are given, at most as many as the limits allow. Errors of the family are in the outcome."""
        results: list[SqlResult] = []
        try:
            statements = parse(text)
        except SurgetankError as error:
            if isinstance(error, Misread):
                return SqlOutcome(error=error, failed=error.number, position=error.position)
            return SqlOutcome(error=error)
        try:
            used = {name for statement in statements for name in statement.parameters}
            values = matched(used, parameters)
        except InvalidRequest as error:
            return SqlOutcome(error=error)
        for statement in statements:
            began = self._clock()
            try:
                if caller.cancellation is not None:
                    caller.cancellation.check()
                result = self._one(statement.action, caller, values, most_rows)
            except SurgetankError as error:
                if len(statements) > 1:
                    _name(error, statement)
                return SqlOutcome(
                    results=tuple(results),
                    error=error,
                    failed=statement.number,
                    position=_position(statement, error),
                )
            results.append(replace(result, number=statement.number, seconds=self._clock() - began))
        return SqlOutcome(results=tuple(results))

    def _one(
        self,
        action: Action,
        caller: SqlCaller,
        parameters: Mapping[str, Any],
        most_rows: int | None,
    ) -> SqlResult:
        match action:
            case Select():
                return self._select(action, caller, parameters, most_rows)
            case Update() | Delete():
                return self._change(action, caller, parameters)
            case Insert():
                return self._insert(action, caller, parameters)
            case ExecuteAs():
                other = self._catalogue.acting(caller, action.user)
                return self._one(action.action, other, parameters, most_rows)
        return self._catalogue.other(caller, action)

    def _select(
        self,
        action: Select,
        caller: SqlCaller,
        parameters: Mapping[str, Any],
        most_rows: int | None,
    ) -> SqlResult:
        answer = self._queries.select(action.text, self._runner(caller, most_rows), parameters)
        rows, cut = answer.table, answer.cut
        if caller.trusted and most_rows is not None and rows.num_rows > most_rows:
            rows, cut = rows.slice(0, most_rows), "rows"
        return SqlResult(
            number=0, kind="SELECT", rows=rows, types=answer.types, cut=cut, stale=answer.stale
        )

    def _runner(self, caller: SqlCaller, most_rows: int | None = None) -> Runner:
        limits = self._limits
        if most_rows is not None:
            limits = replace(limits, rows=min(limits.rows, most_rows))
        user = None if caller.trusted else caller.user
        return Runner(self._catalogue.scope(caller), user, limits, caller.cancellation)

    def _change(
        self, action: Update | Delete, caller: SqlCaller, parameters: Mapping[str, Any]
    ) -> SqlResult:
        target = self._catalogue.changeable(caller, action.table)
        assert self._changes is not None, "a catalogue with tables has changes"
        rows = Selection(
            table=target.table, user=target.user, alias=action.alias, where=action.where
        )
        runner = self._runner(caller)
        if isinstance(action, Update):
            affected = self._changes.update(rows, action.assignments, runner, parameters)
            return SqlResult(number=0, kind="UPDATE", affected=affected)
        affected = self._changes.delete(rows, runner, parameters)
        return SqlResult(number=0, kind="DELETE", affected=affected)

    def _insert(
        self, action: Insert, caller: SqlCaller, parameters: Mapping[str, Any]
    ) -> SqlResult:
        into = self._catalogue.changeable(caller, action.table)
        if action.query is None:
            columns = _columns(action, into)
            rows = [_row(columns, row, parameters) for row in action.rows]
            affected = self._catalogue.insert(caller, into, rows, action)
        else:
            affected = self._insert_selected(action, action.query, into, caller, parameters)
        return SqlResult(number=0, kind="INSERT", affected=affected)

    def _insert_selected(
        self,
        action: Insert,
        query: str,
        into: Readable,
        caller: SqlCaller,
        parameters: Mapping[str, Any],
    ) -> int:
        assert self._changes is not None, "a catalogue with tables has changes"
        columns = _columns(action, into)
        for attempt in range(1, _ATTEMPTS + 1):
            erasures, runner = self._changes.erasures(), self._runner(caller)
            rows = self._changes.selected(into.table, columns, query, runner, parameters)
            try:
                return self._catalogue.insert(
                    caller, into, rows, action, unless_erased_since=erasures
                )
            except ErasedSince:  # what was read may be of who was erased
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError  # the last attempt raised


def _columns(action: Insert, into: Readable) -> tuple[str, ...]:
    return action.columns or tuple(column.name for column in into.table.columns)


def _row(
    columns: Sequence[str], values: Sequence[Any], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """A row of literals by the names of its columns; what has its DEFAULT is missing."""
    if values and len(values) != len(columns):
        raise InvalidRequest(
            f"INSERT names {len(columns)} columns, and a row has {len(values)} values.",
            remedy="give as many, or name the columns.",
        )
    if len({name.casefold() for name in columns}) != len(columns):
        raise InvalidRequest("INSERT names a column twice.", remedy="name each once.")
    return {
        name: _value(value, parameters)
        for name, value in zip(columns, values, strict=False)
        if not isinstance(value, AsDeclared)
    }


def _value(value: Any, parameters: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_value(item, parameters) for item in value]
    if not isinstance(value, Given):
        return value
    return parameters[value.name.casefold()]


def _name(error: SurgetankError, statement: Statement) -> None:
    """Say in an error which of several statements it is of."""
    error.what = f"{title(statement.number, statement.text)}: {error.what}"
    error.args = (f"{error.what} Way out: {error.remedy}" if error.remedy else error.what,)


def _position(statement: Statement, error: SurgetankError) -> int | None:
    """Where in the text, in characters. Of statements that are run as another text DuckDB's position
    means nothing."""
    if not isinstance(error, StatementRefused) or error.position is None:
        return None
    if statement.action != Select(statement.text):
        return None
    before = statement.text.encode()[: error.position]
    return statement.start + len(before.decode(errors="ignore"))
