"""Runs texts of statements: SELECT, INSERT, UPDATE and DELETE here, all others by who knows the catalogue."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from surgetank.exceptions import SurgetankError
from surgetank.streams.tables.query.calls import SqlCaller, SqlOutcome, SqlResult
from surgetank.streams.tables.query.changes import Selection, TableChanges
from surgetank.streams.tables.query.parameters import Parameters
from surgetank.streams.tables.query.process import Limits, StatementRefused
from surgetank.streams.tables.query.queries import Queries, Runner
from surgetank.streams.tables.query.sources import Readable, Scope
from surgetank.streams.tables.query.texts import Statement, change, insertion, statements

_SELECTS = frozenset({"SELECT", "WITH", "FROM", "VALUES", "SUMMARIZE", "("})


class Catalogue(Protocol):
    """What statements need to know of tables, and who runs those that change tables themselves.
    Raises what the caller is to be told: `NotFound`, `InvalidRequest` for what is not allowed."""

    def scope(self, caller: SqlCaller) -> Scope:
        """What the caller may read."""
        ...

    def changeable(self, caller: SqlCaller, schema: str | None, name: str) -> Readable:
        """The table of this name, and whose rows of it the caller may change (None: all)."""
        ...

    def insert(
        self,
        caller: SqlCaller,
        into: Readable,
        rows: Sequence[Mapping[str, Any]],
        conflict: str | None,
    ) -> int:
        """Insert rows with values as SQL gives them; `conflict` is what follows ON CONFLICT. How
        many there were."""
        ...

    def other(
        self, caller: SqlCaller, statement: Statement, parameters: Parameters | None
    ) -> SqlResult:
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
        for statement in statements(text):
            began = self._clock()
            try:
                result = self._one(statement, caller, parameters, most_rows)
            except SurgetankError as error:
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
        statement: Statement,
        caller: SqlCaller,
        parameters: Parameters | None,
        most_rows: int | None,
    ) -> SqlResult:
        runner = self._runner(caller, most_rows if statement.verb in _SELECTS else None)
        if statement.verb in _SELECTS:
            answer = self._queries.select(statement.text, runner, parameters)
            rows, cut = answer.table, answer.cut
            if caller.trusted and most_rows is not None and rows.num_rows > most_rows:
                rows, cut = rows.slice(0, most_rows), "rows"
            return SqlResult(
                number=0, kind="SELECT", rows=rows, types=answer.types, cut=cut, stale=answer.stale
            )
        if statement.verb in ("UPDATE", "DELETE"):
            return self._change(statement, caller, runner, parameters)
        if statement.verb == "INSERT":
            return self._insert(statement, caller, runner, parameters)
        return self._catalogue.other(caller, statement, parameters)

    def _runner(self, caller: SqlCaller, most_rows: int | None) -> Runner:
        limits = self._limits
        if most_rows is not None:
            limits = replace(limits, rows=min(limits.rows, most_rows))
        user = None if caller.trusted else caller.user
        return Runner(self._catalogue.scope(caller), user, limits)

    def _change(
        self,
        statement: Statement,
        caller: SqlCaller,
        runner: Runner,
        parameters: Parameters | None,
    ) -> SqlResult:
        parts = change(statement)
        target = self._catalogue.changeable(caller, parts.schema, parts.name)
        rows = Selection(table=target.table, user=target.user, alias=parts.alias, where=parts.where)
        assert self._changes is not None, "a catalogue with tables has changes"
        if statement.verb == "UPDATE":
            affected = self._changes.update(rows, parts.assignments, runner, parameters)
        else:
            affected = self._changes.delete(rows, runner, parameters)
        return SqlResult(number=0, kind=statement.verb, affected=affected)

    def _insert(
        self,
        statement: Statement,
        caller: SqlCaller,
        runner: Runner,
        parameters: Parameters | None,
    ) -> SqlResult:
        parts = insertion(statement)
        into = self._catalogue.changeable(caller, parts.schema, parts.name)
        columns = parts.columns or tuple(column.name for column in into.table.columns)
        assert self._changes is not None, "a catalogue with tables has changes"
        rows = self._changes.selected(into.table, columns, parts.source, runner, parameters)
        affected = self._catalogue.insert(caller, into, rows, parts.conflict)
        return SqlResult(number=0, kind="INSERT", affected=affected)


def _position(statement: Statement, error: SurgetankError) -> int | None:
    """Where in the text, in characters. Of statements that are run as another text DuckDB's position
    means nothing."""
    if not isinstance(error, StatementRefused) or error.position is None:
        return None
    if statement.verb not in _SELECTS:
        return None
    before = statement.text.encode()[: error.position]
    return statement.start + len(before.decode(errors="ignore"))
