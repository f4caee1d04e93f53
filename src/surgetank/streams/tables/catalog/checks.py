"""What a table may be declared as. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from surgetank.exceptions import Conflict, InvalidRequest, QuotaExceeded
from surgetank.streams.tables.definition import (
    FIRST_ID,
    Access,
    Column,
    DefaultKind,
    Kind,
    Table,
    checked_name,
)
from surgetank.streams.tables.keys import NO_KEYS
from surgetank.streams.tables.sql.statements import CreateTable, NewColumn

MOST_COLUMNS = 1000


def columns_of(wanted: CreateTable) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """The columns with their ids, and the PRIMARY KEY by the names of its columns. Raises
    `InvalidRequest` for what no table can be."""
    checked_name(wanted.table.namespace, "namespace")
    checked_name(wanted.table.name, "table")
    if not 1 <= len(wanted.columns) <= MOST_COLUMNS:
        raise InvalidRequest(
            f"A table can't have {len(wanted.columns)} columns.",
            remedy=f"declare 1 to {MOST_COLUMNS}.",
        )
    named: dict[str, NewColumn] = {}
    for column in wanted.columns:
        _check_column(column)
        if named.setdefault(column.name.casefold(), column) is not column:
            raise InvalidRequest(
                f"The table has two columns {column.name!r}.", remedy="rename one of them."
            )
    key = _key(wanted.key, named)
    _check_options(wanted)
    made = (
        Column(
            id=FIRST_ID + at,
            name=column.name,
            type=column.type,
            nullable=column.nullable and column.name not in key,
            default=column.default,
        )
        for at, column in enumerate(wanted.columns)
    )
    return tuple(made), key


def _check_column(column: NewColumn) -> None:
    checked_name(column.name, "column")
    if column.default is not None and _has_nul(column.default.value):
        raise InvalidRequest(
            f"The default of {column.name!r} has the character NUL, which no catalogue can have.",
            remedy="leave it out.",
        )


def _has_nul(value: Any) -> bool:
    if isinstance(value, list):
        return any(_has_nul(item) for item in value)
    return isinstance(value, str) and ("\0" in value or "\\u0000" in value)


def _key(names: Sequence[str], named: dict[str, NewColumn]) -> tuple[str, ...]:
    key = []
    for name in names:
        column = named.get(name.casefold())
        if column is None or column.name in key:
            why = "is no column" if column is None else "is named twice"
            raise InvalidRequest(
                f"{name!r:.80} of the PRIMARY KEY {why}.", remedy="name each of its columns once."
            )
        if column.type.is_list or column.type.name in NO_KEYS:
            raise InvalidRequest(
                f"{column.name!r} can't be part of the PRIMARY KEY: its type is {column.type}.",
                remedy="use columns that are no JSON and no lists.",
            )
        key.append(column.name)
    return tuple(key)


def _check_options(wanted: CreateTable) -> None:
    kind = wanted.kind
    if kind is Kind.STREAM and wanted.ttl_s is None:
        raise InvalidRequest(
            "A STREAM table needs the time after which its rows go.", remedy="add TTL_SECONDS=3600."
        )
    if kind is not Kind.STREAM and wanted.ttl_s is not None:
        raise InvalidRequest(
            f"Rows of a {kind} table stay: TTL_SECONDS is for STREAM tables.",
            remedy="leave it out, or use TYPE='STREAM'.",
        )
    if kind is Kind.STREAM and (wanted.policy.rows or wanted.policy.interval_s):
        raise InvalidRequest("A STREAM table is never flushed.", remedy="leave FLUSH_POLICY out.")
    if kind is not Kind.SHARED and wanted.access is not Access.PRIVATE:
        raise InvalidRequest(
            f"The rows of a {kind} table are their users' alone: ACCESS_LEVEL is for SHARED tables.",
            remedy="leave it out, or use TYPE='SHARED'.",
        )


def added_column(
    table: Table, column: NewColumn, now: datetime, clocked: Callable[[str, datetime], Any]
) -> Column:
    """A column as it is added to a table; its id is given later. Rows from before have its constant,
    the time of the change for now(), and nothing for uuid(). Raises `InvalidRequest`, `Conflict`."""
    _check_column(column)
    if table.column(column.name) is not None:
        raise Conflict(
            f"{table.full_name} has a column {column.name!r} already.",
            remedy="choose another name, or write IF NOT EXISTS.",
        )
    if len(table.columns) >= MOST_COLUMNS:
        raise QuotaExceeded(
            f"{table.full_name} has {MOST_COLUMNS} columns, and can't have more.",
            remedy="use a JSON column for what varies.",
        )
    default, initial = column.default, None
    if default is not None and default.kind is DefaultKind.CONSTANT:
        initial = default.value
    elif default is not None and default.kind is DefaultKind.NOW:
        initial = clocked(column.type.name, now)
    if initial is None and not column.nullable:
        raise InvalidRequest(
            f"The column {column.name!r} can't be NOT NULL: the rows that there are would have nothing in it.",
            remedy="give it a constant as DEFAULT.",
        )
    made = Column(0, column.name, column.type, column.nullable, default)
    return replace(made, since=table.schema_version + 1, initial=initial)
