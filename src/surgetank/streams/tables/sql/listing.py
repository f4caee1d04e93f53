"""What is told of tables as rows: information_schema, system.tables, SHOW and DESCRIBE."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from surgetank.encode import jsontext
from surgetank.streams.tables.definition import Column, DefaultKind, Table
from surgetank.streams.tables.values import writer

CATALOG = "surgetank"
_MOMENT = pa.timestamp("us", "UTC")
_KINDS: Mapping[type, pa.DataType] = MappingProxyType(
    {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), datetime: _MOMENT}
)
Fields = Mapping[str, type]


def rows(fields: Fields, values: Iterable[Sequence[Any]]) -> pa.Table:
    """A table of these columns."""
    columns = list(zip(*values, strict=True)) or [()] * len(fields)
    return pa.table(
        {
            name: pa.array(column, _KINDS[kind])
            for (name, kind), column in zip(fields.items(), columns, strict=True)
        }
    )


_TABLES: Fields = MappingProxyType(
    {
        "table_catalog": str,
        "table_schema": str,
        "table_name": str,
        "table_type": str,
        "surgetank_table_type": str,
        "storage_id": str,
        "flush_row_threshold": int,
        "flush_interval_seconds": float,
        "ttl_seconds": float,
        "schema_version": int,
        "created_at": datetime,
        "updated_at": datetime,
    }
)


def information_tables(tables: Iterable[Table], system: Iterable[str]) -> pa.Table:
    """`information_schema.tables`: all tables of all kinds, and the system's (as
    `schema.name`)."""
    values: list[Sequence[Any]] = [
        (
            CATALOG, each.namespace, each.name, "BASE TABLE", each.kind.value, each.storage, each.policy.rows,
            each.policy.interval_s, each.ttl_s, each.schema_version, each.created_at, each.updated_at,
        )
        for each in tables
    ]  # fmt: skip
    for name in system:
        schema, _, table = name.partition(".")
        values.append((CATALOG, schema, table, "SYSTEM TABLE", "SYSTEM", *(None,) * 7))
    return rows(_TABLES, values)


_COLUMNS: Fields = MappingProxyType(
    {
        "table_catalog": str,
        "table_schema": str,
        "table_name": str,
        "column_name": str,
        "ordinal_position": int,
        "column_default": str,
        "is_nullable": str,
        "data_type": str,
        "numeric_precision": int,
        "numeric_scale": int,
        "is_primary_key": bool,
    }
)


def information_columns(
    tables: Iterable[Table], system: Iterable[tuple[str, pa.Schema]] = ()
) -> pa.Table:
    """`information_schema.columns`, of tables and of the system's relations."""
    values: list[Sequence[Any]] = [
            (
                CATALOG, table.namespace, table.name, column.name, at, default_text(column),
                "YES" if column.nullable else "NO", column.type.sql, column.type.precision or None,
                column.type.scale if column.type.precision else None, column.name in table.key,
            )
            for table in tables
            for at, column in enumerate(table.columns, 1)
    ]  # fmt: skip
    for name, schema in system:
        within, _, relation = name.partition(".")
        values += [
            (CATALOG, within, relation, each.name, at, None, "YES", sql_type(each.type), None, None, False)
            for at, each in enumerate(schema, 1)
        ]  # fmt: skip
    return rows(_COLUMNS, values)


_SQL_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "string": "TEXT", "bool": "BOOLEAN", "int16": "SMALLINT", "int32": "INT", "int64": "BIGINT", "float": "REAL",
        "double": "DOUBLE", "timestamp[us, tz=UTC]": "TIMESTAMPTZ",
    }
)  # fmt: skip


def sql_type(kind: pa.DataType) -> str:
    """What a column of a relation would be declared as."""
    return "JSON" if isinstance(kind, pa.BaseExtensionType) else _SQL_TYPES[str(kind)]


_SYSTEM_TABLES: Fields = MappingProxyType(
    {
        "table_id": int,
        "namespace_id": str,
        "table_name": str,
        "table_type": str,
        "primary_key": str,
        "access_level": str,
        "storage_id": str,
        "owner": str,
        "schema_version": int,
        "created_at": datetime,
        "updated_at": datetime,
    }
)


def system_tables(tables: Iterable[Table]) -> pa.Table:
    """`system.tables`."""
    return rows(
        _SYSTEM_TABLES,
        (
            (
                each.id, each.namespace, each.name, each.kind.value, ", ".join(each.key) or None, each.access.value,
                each.storage, each.owner, each.schema_version, each.created_at, each.updated_at,
            )
            for each in tables
        ),
    )  # fmt: skip


_OPTIONS: Mapping[str, tuple[Callable[[Table], Any], str, str]] = MappingProxyType(
    {
        "TYPE": (lambda t: t.kind.value, "string", "whose the rows are"),
        "FLUSH_ROWS": (lambda t: t.policy.rows, "integer", "mutations after which it is flushed"),
        "FLUSH_INTERVAL": (
            lambda t: t.policy.interval_s,
            "seconds",
            "longest wait of a mutation before it is flushed",
        ),
        "TTL_SECONDS": (lambda t: t.ttl_s, "seconds", "time after which a row goes"),
        "ACCESS_LEVEL": (
            lambda t: None if t.by_user else t.access.value,
            "string",
            "what users may do with a SHARED table",
        ),
        "STORAGE_ID": (lambda t: t.storage, "string", "where its files are"),
    }
)
_TABLE_OPTIONS: Fields = MappingProxyType(
    dict.fromkeys(
        (
            "namespace_id",
            "table_name",
            "option_key",
            "option_value",
            "value_type",
            "description",
        ),
        str,
    )
)


def table_options(tables: Iterable[Table]) -> pa.Table:
    """`system.table_options`: what was said of a table; by the settings where nothing was."""
    return rows(
        _TABLE_OPTIONS,
        (
            (table.namespace, table.name, key, f"{value:g}" if isinstance(value, float) else str(value), kind, why)
            for table in tables
            for key, (option, kind, why) in _OPTIONS.items()
            if (value := option(table)) is not None
        ),
    )  # fmt: skip


_SHOWN: Fields = MappingProxyType(
    {"namespace": str, "name": str, "type": str, "columns": int, "schema_version": int}
)


def shown_tables(tables: Iterable[Table]) -> pa.Table:
    """SHOW TABLES."""
    return rows(
        _SHOWN,
        (
            (each.namespace, each.name, each.kind.value, len(each.columns), each.schema_version)
            for each in tables
        ),
    )


def shown_relations(system: Iterable[tuple[str, pa.Schema]]) -> pa.Table:
    """SHOW TABLES IN system, or IN information_schema."""
    return rows(
        _SHOWN,
        ((*name.split(".", 1), "SYSTEM", len(schema.names), None) for name, schema in system),
    )


def shown_namespaces(names: Iterable[str]) -> pa.Table:
    """SHOW NAMESPACES."""
    return rows({"namespace": str}, ((name,) for name in names))


_DESCRIBED: Fields = MappingProxyType(
    {"column_name": str, "column_type": str, "nullable": bool, "key": bool, "default": str}
)


def described_relation(schema: pa.Schema) -> pa.Table:
    """DESCRIBE a relation of the system."""
    return rows(
        _DESCRIBED, ((each.name, sql_type(each.type), True, False, None) for each in schema)
    )


def described(table: Table) -> pa.Table:
    """DESCRIBE."""
    return rows(
        _DESCRIBED,
        (
            (each.name, each.type.sql, each.nullable, each.name in table.key, default_text(each))
            for each in table.columns
        ),
    )


def default_text(column: Column) -> str | None:
    """The DEFAULT of a column as a person reads it."""
    default = column.default
    if default is None:
        return None
    if default.kind is not DefaultKind.CONSTANT:
        return f"{default.kind.value}()"
    if default.value is None:
        return None
    shown = writer(column.type)(default.value)
    if column.type.name == "JSON" and not column.type.is_list:
        shown = default.value  # its text
    if isinstance(shown, str):
        return "'" + shown.replace("'", "''") + "'"
    return jsontext.dumps(shown).decode()  # true, 1.5, [1,2]
