"""Rows of the catalogue in PostgreSQL, to and from definitions. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from surgetank.streams.tables.definition import (
    Access,
    Column,
    Default,
    DefaultKind,
    Kind,
    Table,
    TablePolicy,
)
from surgetank.streams.tables.types import ColumnType
from surgetank.streams.tables.values import Source, reader, writer


def table_of(row: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> Table:
    """The definition that these rows are."""
    return Table(
        id=row["table_id"],
        namespace=row["namespace"],
        name=row["name"],
        kind=Kind(row["kind"]),
        columns=tuple(_column_of(each) for each in columns),
        key=tuple(row["key"]),
        access=Access(row["access"]),
        policy=TablePolicy(row["flush_rows"], row["flush_interval_s"]),
        ttl_s=row["ttl_s"],
        storage=row["storage"],
        owner=row["owner"],
        schema_version=row["schema_version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def column_row(table_id: int, column: Column) -> dict[str, Any]:
    """The parameters of `insert_column`."""
    default = column.default
    return {
        "table": table_id,
        "id": column.id,
        "name": column.name,
        "type": column.type.sql,
        "nullable": column.nullable,
        "kind": default and default.kind.value,
        "default": default and written(column.type, default.value),
        "since": column.since,
        "initial": written(column.type, column.initial),
    }


def written(type_: ColumnType, value: Any) -> str | None:
    """A value of a default as the catalogue has it."""
    return None if value is None else json.dumps([writer(type_)(value)])


def _column_of(row: Mapping[str, Any]) -> Column:
    type_ = ColumnType.parse(row["type"])
    kind = row["default_kind"]
    return Column(
        id=row["column_id"],
        name=row["name"],
        type=type_,
        nullable=row["nullable"],
        default=kind and Default(DefaultKind(kind), _value(type_, row["default_value"])),
        since=row["since"],
        initial=_value(type_, row["initial"]),
    )


def _value(type_: ColumnType, text: str | None) -> Any:
    return None if text is None else reader(type_, Source.JSON)(json.loads(text)[0])
