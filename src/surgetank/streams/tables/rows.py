"""Rows of one table on their way in and out, compiled once for each version of its schema. Pure.

    form = RowForm(table)
    form.read({"sku": "a-1", "price": "9.90"}, user="ann")    # a tuple, one value for each column

A row that can't be stored raises `EntryRejected`, which names column and reason; all else of its batch is
fine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from functools import partial
from typing import Any, NoReturn
from uuid import UUID, uuid4

from surgetank.exceptions import EntryRejected
from surgetank.streams.tables.definition import NOBODY, Column, DefaultKind, Table
from surgetank.streams.tables.keys import row_key
from surgetank.streams.tables.unfit import Unfit
from surgetank.streams.tables.values import Convert, Source, reader, writer

Row = tuple[Any, ...]
_MISSING: Any = object()
_Plan = list[tuple[str, Convert, bool, Callable[[], Any]]]
CLOCKED = frozenset({"DATE", "TIME", "TIMESTAMP", "TIMESTAMPTZ"})  # what may have the default now()


def utc_now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


class RowForm:
    """How rows of this table are read and written. `now` and `new_id` give what DEFAULT now() and
    DEFAULT uuid have."""

    def __init__(
        self,
        table: Table,
        *,
        now: Callable[[], datetime] = utc_now,
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self.table = table
        self.key = row_key(table)  # from a row's values to its key's bytes; None without a key
        self._now, self._new_id = now, new_id
        self._names = tuple(column.name for column in table.columns)
        self._plans: dict[Source, _Plan] = {}
        self._writers = tuple((column.name, writer(column.type)) for column in table.columns)

    def read(
        self,
        row: Mapping[str, Any],
        *,
        user: str = NOBODY,
        source: Source = Source.PYTHON,
        index: int | None = None,
    ) -> Row:
        """The stored values of a row, in the order of the columns; what it says nothing about has
        its default. `index` is where it stands in its batch. Raises `EntryRejected`."""
        plan = self._plans.get(source) or self._plan(source)
        values: list[Any] = []
        given, name = 0, ""
        try:
            get = row.get
            for name, convert, nullable, default in plan:
                value = get(name, _MISSING)
                if value is _MISSING:
                    value = default()
                elif value is None:
                    given += 1
                    if not nullable:
                        _refuse_null()
                else:
                    given += 1
                    value = convert(value)
                values.append(value)
        except Unfit as error:
            if not _known(row, self._names):
                return self._read_folded(row, user, source, index)
            self._refuse(name, error, user, index)
        except AttributeError:
            raise self._refused(
                "$", user, index, f"a {type(row).__name__} is no row", "give an object."
            ) from None
        if given != len(row):
            return self._read_folded(row, user, source, index)
        return tuple(values)

    def values(
        self,
        columns: Sequence[str],
        values: Sequence[Any],
        *,
        user: str = NOBODY,
        source: Source = Source.SQL,
        index: int | None = None,
    ) -> Row:
        """As `read`, of a row that is given by position: `columns` names what the values are."""
        if len(columns) != len(values):
            raise self._refused(
                "$", user, index, f"{len(values)} values for {len(columns)} columns", ""
            )
        return self.read(
            dict(zip(columns, values, strict=True)), user=user, source=source, index=index
        )

    def value(
        self, name: str, given: Any, *, user: str = NOBODY, source: Source = Source.PYTHON
    ) -> Any:
        """The stored form of one value. Raises `EntryRejected`."""
        column = self.table.column(name)
        if column is None:
            raise self._unknown(name, user, None)
        try:
            if given is None:
                return None if column.nullable else _refuse_null()
            return reader(column.type, source)(given)
        except Unfit as error:
            self._refuse(column.name, error, user, None)

    def as_json(self, values: Sequence[Any]) -> dict[str, Any]:
        """A row as JSON has it."""
        return {
            name: None if value is None else write(value)
            for (name, write), value in zip(self._writers, values, strict=True)
        }

    def _plan(self, source: Source) -> _Plan:
        made = self._plans[source] = [
            (column.name, reader(column.type, source), column.nullable, self._default(column))
            for column in self.table.columns
        ]
        return made

    def _default(self, column: Column) -> Callable[[], Any]:
        default = column.default
        if default is None:
            return (lambda: None) if column.nullable else _refuse_missing
        if default.kind is DefaultKind.NOW:
            return partial(clocked, column.type.name, self._now)
        if default.kind is DefaultKind.UUID:
            new_id = self._new_id
            return new_id if column.type.name == "UUID" else lambda: str(new_id())
        constant = default.value
        return lambda: constant

    def _read_folded(
        self, row: Mapping[str, Any], user: str, source: Source, index: int | None
    ) -> Row:
        """The same for a row that writes names in another case."""
        renamed: dict[str, Any] = {}
        for given, value in row.items():
            column = self.table.column(given) if isinstance(given, str) else None
            if column is None:
                raise self._unknown(given, user, index)
            if column.name in renamed:
                raise self._refused(
                    column.name, user, index, "it is there twice, in upper and lower case", ""
                )
            renamed[column.name] = value
        return self.read(renamed, user=user, source=source, index=index)

    def _refuse(self, name: str, error: Unfit, user: str, index: int | None) -> NoReturn:
        raise self._refused(name, user, index, error.reason, error.remedy) from None

    def _unknown(self, name: Any, user: str, index: int | None) -> EntryRejected:
        shown = name if isinstance(name, str) else repr(name)
        return self._refused(
            shown[:80], user, index, f"{self.table.full_name} has no such column",
            f"its columns are {', '.join(self._names)[:400]}.",
        )  # fmt: skip

    def _refused(
        self, name: str, user: str, index: int | None, reason: str, remedy: str
    ) -> EntryRejected:
        row = "$" if index is None else f"$[{index}]"
        path = row if name == "$" else f"{row}.{name}"
        partition = self.table.partition(user)
        return EntryRejected(partition=partition, path=path, reason=reason, remedy=remedy)


def _known(row: Mapping[str, Any], names: Sequence[str]) -> bool:
    return all(name in names for name in row)


def _refuse_null() -> NoReturn:
    raise Unfit("NULL where the column is NOT NULL")


def _refuse_missing() -> NoReturn:
    raise Unfit("it is missing, and the column is NOT NULL without a DEFAULT")


def clocked(name: str, now: Callable[[], datetime]) -> datetime | date | time:
    moment = now().astimezone(UTC)
    match name:
        case "DATE":
            return moment.date()
        case "TIME":
            return moment.time()
        case "TIMESTAMP":
            return moment.replace(tzinfo=None)
    return moment
