"""A table's definition as JSON, so that every process on the file knows what its rows are. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
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


def definition_json(table: Table) -> str:
    """The text of a definition; equal definitions have equal texts."""
    return json.dumps(
        {
            "id": table.id,
            "namespace": table.namespace,
            "name": table.name,
            "kind": table.kind,
            "columns": [_column(column) for column in table.columns],
            "key": table.key,
            "access": table.access,
            "rows": table.policy.rows,
            "interval_s": table.policy.interval_s,
            "ttl_s": table.ttl_s,
            "storage": table.storage,
            "owner": table.owner,
            "schema_version": table.schema_version,
            "created_at": table.created_at and table.created_at.isoformat(),
            "updated_at": table.updated_at and table.updated_at.isoformat(),
        },
        sort_keys=True,
    )


def definition_of(text: str) -> Table:
    """The inverse of `definition_json`."""
    kept = json.loads(text)
    return Table(
        id=kept["id"],
        namespace=kept["namespace"],
        name=kept["name"],
        kind=Kind(kept["kind"]),
        columns=tuple(_column_of(each) for each in kept["columns"]),
        key=tuple(kept["key"]),
        access=Access(kept["access"]),
        policy=TablePolicy(kept["rows"], kept["interval_s"]),
        ttl_s=kept["ttl_s"],
        storage=kept["storage"],
        owner=kept["owner"],
        schema_version=kept["schema_version"],
        created_at=_moment(kept["created_at"]),
        updated_at=_moment(kept["updated_at"]),
    )


def _column(column: Column) -> dict[str, Any]:
    default = column.default
    return {
        "id": column.id,
        "name": column.name,
        "type": column.type.sql,
        "nullable": column.nullable,
        "default": default and [default.kind, _value(column.type, default.value)],
        "since": column.since,
        "initial": _value(column.type, column.initial),
    }


def _column_of(kept: Mapping[str, Any]) -> Column:
    type_, default = ColumnType.parse(kept["type"]), kept["default"]
    return Column(
        id=kept["id"],
        name=kept["name"],
        type=type_,
        nullable=kept["nullable"],
        default=default and Default(DefaultKind(default[0]), _value_of(type_, default[1])),
        since=kept["since"],
        initial=_value_of(type_, kept["initial"]),
    )


def _value(type_: ColumnType, value: Any) -> list[Any] | None:
    # In a list, since JSON's own null is a value of a JSON column.
    return None if value is None else [writer(type_)(value)]


def _value_of(type_: ColumnType, kept: list[Any] | None) -> Any:
    return None if kept is None else reader(type_, Source.JSON)(kept[0])


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
