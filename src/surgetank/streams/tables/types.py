"""The types of columns, in one mapping: the same at CREATE, insert, flush and read. Pure.

    ColumnType.parse("DECIMAL(10, 2)").arrow   # decimal128(10, 2)

What has no entry here can't be flushed, so it is refused at CREATE, with the type to use instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from surgetank.exceptions import InvalidRequest

if TYPE_CHECKING:
    import pyarrow as pa

MOST_DIGITS = 38  # of a DECIMAL: what 128 bits hold
_FORM = re.compile(
    r"\s*(?P<name>[a-z][a-z0-9_ ]*?)\s*(?:\(\s*(?P<p>\d+)\s*(?:,\s*(?P<s>\d+)\s*)?\))?\s*(?P<list>\[\])?\s*",
    re.IGNORECASE,
)
# Names of other databases for the same thing.
_SYNONYMS: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "BOOLEAN",
        "INT2": "SMALLINT",
        "INT4": "INT",
        "INTEGER": "INT",
        "INT8": "BIGINT",
        "LONG": "BIGINT",
        "FLOAT4": "REAL",
        "FLOAT": "DOUBLE",
        "FLOAT8": "DOUBLE",
        "DOUBLE PRECISION": "DOUBLE",
        "NUMERIC": "DECIMAL",
        "VARCHAR": "TEXT",
        "STRING": "TEXT",
        "CHARACTER VARYING": "TEXT",
        "TIMESTAMP WITHOUT TIME ZONE": "TIMESTAMP",
        "DATETIME": "TIMESTAMP",
        "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ",
        "BYTEA": "BYTES",
        "BLOB": "BYTES",
        "BINARY": "BYTES",
        "JSONB": "JSON",
    }
)
# What people ask for and can't be stored, and what to use instead.
_INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "TINYINT": "SMALLINT",
        "HUGEINT": "DECIMAL(38, 0)",
        "UBIGINT": "DECIMAL(20, 0)",
        "UINTEGER": "BIGINT",
        "USMALLINT": "INT",
        "UTINYINT": "SMALLINT",
        "SERIAL": "BIGINT (a table without a primary key has a hidden sequence)",
        "BIGSERIAL": "BIGINT (a table without a primary key has a hidden sequence)",
        "CHAR": "TEXT",
        "INTERVAL": "BIGINT (microseconds)",
        "TIMETZ": "TIME, or TIMESTAMPTZ",
        "TIMESTAMP_NS": "TIMESTAMP (microseconds)",
        "TIMESTAMP_S": "TIMESTAMP",
        "TIMESTAMP_MS": "TIMESTAMP",
        "MONEY": "DECIMAL(19, 4)",
        "STRUCT": "JSON",
        "MAP": "JSON",
        "UNION": "JSON",
        "ENUM": "TEXT",
        "XML": "TEXT",
        "HSTORE": "JSON",
        "ARRAY": "a list: TEXT[], INT[]",
        "VECTOR": "REAL[]",
        "BIT": "BYTES",
        "GEOMETRY": "TEXT (WKT) or BYTES (WKB)",
    }
)


@dataclass(frozen=True, slots=True)
class _Form:
    """One type as each side calls it. `sqlite` is the affinity of the hot column, `ducklake` the
    name in a DuckLake 1.0 catalogue, `duckdb` that of DuckDB's SQL."""

    arrow: Callable[[], pa.DataType]
    duckdb: str
    ducklake: str
    sqlite: str


def _arrow(name: str, *arguments: object) -> Callable[[], pa.DataType]:
    def make() -> pa.DataType:
        import pyarrow as pa  # noqa: PLC0415 - an extra

        made: pa.DataType = getattr(pa, name)(*arguments)
        return made

    return make


def _json() -> pa.DataType:
    import pyarrow as pa  # noqa: PLC0415 - an extra

    return pa.json_(pa.string())


_FORMS: Mapping[str, _Form] = MappingProxyType(
    {
        "BOOLEAN": _Form(_arrow("bool_"), "BOOLEAN", "boolean", "INTEGER"),
        "SMALLINT": _Form(_arrow("int16"), "SMALLINT", "int16", "INTEGER"),
        "INT": _Form(_arrow("int32"), "INTEGER", "int32", "INTEGER"),
        "BIGINT": _Form(_arrow("int64"), "BIGINT", "int64", "INTEGER"),
        "REAL": _Form(_arrow("float32"), "FLOAT", "float32", "REAL"),
        "DOUBLE": _Form(_arrow("float64"), "DOUBLE", "float64", "REAL"),
        "TEXT": _Form(_arrow("string"), "VARCHAR", "varchar", "TEXT"),
        "DATE": _Form(_arrow("date32"), "DATE", "date", "INTEGER"),
        "TIME": _Form(_arrow("time64", "us"), "TIME", "time", "INTEGER"),
        "TIMESTAMP": _Form(_arrow("timestamp", "us"), "TIMESTAMP", "timestamp", "INTEGER"),
        "TIMESTAMPTZ": _Form(
            _arrow("timestamp", "us", "UTC"), "TIMESTAMPTZ", "timestamptz", "INTEGER"
        ),
        "JSON": _Form(_json, "JSON", "json", "TEXT"),
        "BYTES": _Form(_arrow("binary"), "BLOB", "blob", "BLOB"),
        "UUID": _Form(_arrow("uuid"), "UUID", "uuid", "BLOB"),
    }
)
NAMES = (*_FORMS, "DECIMAL")


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A type as it was declared. `name` is one of `NAMES`; `precision` and `scale` are those of a
    DECIMAL; `is_list` makes it a list of that type."""

    name: str
    precision: int = 0
    scale: int = 0
    is_list: bool = False

    @classmethod
    def parse(cls, text: str) -> ColumnType:
        """The type that a declaration names. Raises `InvalidRequest` with the type to use
        instead."""
        form = _FORM.fullmatch(text)
        name = " ".join(form["name"].upper().split()) if form is not None else text
        name = _SYNONYMS.get(name, name)
        if form is None or name not in NAMES:
            instead = _INSTEAD.get(name.partition("(")[0].strip().upper())
            raise InvalidRequest(
                f"A column can't have the type {text.strip()!r}: it could not be flushed.",
                remedy=f"use {instead}."
                if instead
                else f"use one of {', '.join(NAMES)}, or a list of one, such as TEXT[].",
            )
        is_list = form["list"] is not None
        if name != "DECIMAL":
            # VARCHAR(20) is TEXT: a length is no promise that is kept here, so it is refused.
            if form["p"] is not None:
                raise InvalidRequest(
                    f"{name} has no length or precision.", remedy=f"use {name}, as it is."
                )
            return cls(name, is_list=is_list)
        precision, scale = int(form["p"] or 18), int(form["s"] or (0 if form["p"] else 3))
        if not 1 <= precision <= MOST_DIGITS or scale > precision:
            raise InvalidRequest(
                f"DECIMAL({precision}, {scale}) can't be stored.",
                remedy=f"use 1 to {MOST_DIGITS} digits, of which at most all follow the point.",
            )
        return cls(name, precision, scale, is_list)

    @property
    def item(self) -> ColumnType:
        """The type of a list's items; itself where it is no list."""
        return ColumnType(self.name, self.precision, self.scale)

    @property
    def sql(self) -> str:
        """As it is written in CREATE TABLE."""
        plain = f"DECIMAL({self.precision}, {self.scale})" if self.name == "DECIMAL" else self.name
        return f"{plain}[]" if self.is_list else plain

    @property
    def duckdb(self) -> str:
        """As DuckDB calls it."""
        if self.is_list:
            return f"{self.item.duckdb}[]"
        return self.sql if self.name == "DECIMAL" else _FORMS[self.name].duckdb

    @property
    def ducklake(self) -> str:
        """As a DuckLake catalogue calls it; a list there is a column of its own for its items."""
        if self.is_list:
            return "list"
        if self.name == "DECIMAL":
            return f"decimal({self.precision},{self.scale})"
        return _FORMS[self.name].ducklake

    @property
    def sqlite(self) -> str:
        """The affinity of the hot column."""
        if self.is_list or self.name == "DECIMAL":
            return "TEXT"
        return _FORMS[self.name].sqlite

    @property
    def arrow(self) -> pa.DataType:
        """As Arrow has it, in Parquet and in memory."""
        import pyarrow as pa  # noqa: PLC0415 - an extra

        if self.is_list:
            return pa.list_(self.item.arrow)
        if self.name == "DECIMAL":
            return pa.decimal128(self.precision, self.scale)
        return _FORMS[self.name].arrow()

    def __str__(self) -> str:
        return self.sql
