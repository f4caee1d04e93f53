"""What a query reads: the tables and system relations that one caller may see, by the names in its text.

Whose rows they are is decided by the caller's scope, which comes from a token and the catalogue, never from the
text. The text can only make it less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute

from surgetank.streams.tables.definition import SEQ, USER, Table
from surgetank.streams.tables.numeric import WIDTHS
from surgetank.streams.tables.query.names import Equal, Reference
from surgetank.streams.tables.query.parameters import Parameters
from surgetank.streams.tables.reader import TableReader, View

pc: Any = pyarrow.compute  # its functions are made when it is imported


class Scope(Protocol):
    """What one caller may read. Raises what the caller is to be told where something is forbidden
    or does not exist; None only for a name that may be anything else in the text (`optional`)."""

    def table(self, reference: Reference) -> Readable | None:
        """The table of this name, and whose rows of it."""
        ...

    def relation(self, reference: Reference) -> pa.Table | None:
        """The rows of a system relation of this name; asked where there is no table."""
        ...


@dataclass(frozen=True, slots=True)
class Readable:
    """A table that a caller may read; the rows of one user, or of all (None)."""

    table: Table
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is read of a table for a query: names of columns in their order, hidden ones that the
    text names, and conditions on columns."""

    readable: Readable
    columns: tuple[str, ...]
    hidden: tuple[str, ...]
    equals: tuple[tuple[str, Any], ...] = ()

    @property
    def shown(self) -> tuple[str, ...]:
        """All that the query is given."""
        return (*self.hidden, *self.columns)


def wanted(readable: Readable, reference: Reference, parameters: Parameters | None) -> Wanted:
    """What a query that names this table needs of it."""
    table, user = readable.table, readable.user
    folded = {column.name: column.name.casefold() for column in table.columns}
    columns = tuple(
        name for name, each in folded.items() if reference.every or each in reference.columns
    )
    hidden = tuple(
        name for name in ((USER, SEQ) if table.by_user else (SEQ,)) if name in reference.columns
    )
    equals: list[tuple[str, Any]] = []
    for equal in reference.equals:
        value = _value(equal, parameters)
        column = table.column(equal.column)
        if column is None:
            if equal.column == USER and table.by_user and user is None and isinstance(value, str):
                user = value
        elif not column.type.is_list and _comparable(column.type.name, value):
            equals.append((column.name, value))
    if not columns and not hidden:
        hidden = (SEQ,)  # `count(*)`: rows need something to be rows of
    return Wanted(Readable(table, user), columns, hidden, tuple(equals))


def _value(equal: Equal, parameters: Parameters | None) -> Any:
    if equal.parameter is None:
        return equal.value
    if isinstance(parameters, Mapping):
        return parameters.get(equal.parameter)
    number = int(equal.parameter) if equal.parameter.isdecimal() else 0
    return parameters[number - 1] if parameters and 0 < number <= len(parameters) else None


def _comparable(name: str, value: Any) -> bool:
    """Whether Arrow compares these as SQL does, without a cast."""
    if name == "TEXT":
        return isinstance(value, str)
    return name in WIDTHS and type(value) is int and abs(value) < 1 << (WIDTHS[name] - 1)


class Sources:
    """The tables of one query. It is left when the query is over: until then what its views show
    stays readable."""

    def __init__(
        self, reader: TableReader | None, scope: Scope, parameters: Parameters | None = None
    ) -> None:
        self._reader = reader
        self._scope = scope
        self._parameters = parameters
        self._open = ExitStack()
        self.views: list[View] = []

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def stale(self) -> bool:
        """Whether anything that was read may be older than the database has it."""
        return any(view.stale for view in self.views)

    def find(self, reference: Reference) -> Wanted | pa.Table | None:
        """What a name stands for: what to read of a table, or the rows of a system relation."""
        readable = self._scope.table(reference)
        if readable is not None:
            return wanted(readable, reference, self._parameters)
        return self._scope.relation(reference)

    def view(self, of: Wanted) -> View:
        """The view of a table, open until the query is over."""
        assert self._reader is not None, "a scope with tables has a reader"
        made: AbstractContextManager[View] = self._reader.view(
            of.readable.table,
            user=of.readable.user,
            columns=_with_conditions(of),
            hidden=of.hidden,
        )
        view = self._open.enter_context(made)
        self.views.append(view)
        return view

    def rows(self, reference: Reference) -> pa.RecordBatchReader | None:
        """The rows of a name, some thousand at a time."""
        found = self.find(reference)
        if found is None:
            return None
        if not isinstance(found, Wanted):
            return found.to_reader(max_chunksize=65_536)
        view = self.view(found)
        assert self._reader is not None
        schema = pa.schema([view.schema.field(name) for name in found.shown])
        return pa.RecordBatchReader.from_batches(
            schema, _filtered(self._reader.scan(view), found, schema)
        )


def _with_conditions(of: Wanted) -> tuple[str, ...]:
    more = (name for name, _ in of.equals if name not in of.columns)
    return (*of.columns, *dict.fromkeys(more))


def _filtered(
    batches: Iterator[pa.RecordBatch], of: Wanted, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        kept = batch
        for name, value in of.equals:
            column = kept.column(name)
            kept = kept.filter(pc.equal(column, pa.scalar(value, column.type)))
        if kept.num_rows:
            yield pa.RecordBatch.from_arrays(
                [kept.column(name) for name in schema.names], schema=schema
            )
