"""What a text of SQL asks for, as frozen values. Pure.

Expressions and queries stay text: DuckDB runs them as they were written. What is ours (definitions, flushes, jobs)
is a value of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from surgetank.streams.tables.definition import Access, Default, Kind, TablePolicy
from surgetank.streams.tables.types import ColumnType

PUBLIC = "public"  # the namespace of a table that is named without one
_NO_POLICY = TablePolicy()


@dataclass(frozen=True, slots=True)
class TableName:
    """A table as a statement names it."""

    name: str
    namespace: str = PUBLIC

    def __str__(self) -> str:
        return f"{self.namespace}.{self.name}"


@dataclass(frozen=True, slots=True)
class NewColumn:
    """A column as it is declared."""

    name: str
    type: ColumnType
    nullable: bool = True
    default: Default | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateNamespace:
    """CREATE NAMESPACE or CREATE SCHEMA."""

    name: str
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DropNamespace:
    """DROP NAMESPACE or DROP SCHEMA; it has to be empty."""

    name: str
    if_exists: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTable:
    """CREATE TABLE."""

    table: TableName
    columns: tuple[NewColumn, ...]
    key: tuple[str, ...] = ()
    kind: Kind = Kind.USER
    access: Access = Access.PRIVATE
    policy: TablePolicy = _NO_POLICY
    ttl_s: float | None = None
    storage: str = "local"
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AddColumn:
    """ALTER TABLE ... ADD COLUMN."""

    table: TableName
    column: NewColumn
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DropTable:
    """DROP TABLE."""

    table: TableName
    if_exists: bool = False


class OnConflict(StrEnum):
    """What an INSERT does with a key that is there."""

    REFUSE = "refuse"
    NOTHING = "nothing"
    UPDATE = "update"


@dataclass(frozen=True, slots=True)
class Given:
    """A value that is a parameter."""

    name: str


@dataclass(frozen=True, slots=True)
class AsDeclared:
    """DEFAULT in the place of a value."""


Literal = Any  # a value of Python's, a list, `Given` or `AsDeclared`


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    """INSERT. Either `rows` of literals, or the text of a `query` that gives them. No `columns`:
    all of the table, in order. `conflict_key` is what ON CONFLICT names; `updates` are the columns
    that it sets to what was to be inserted (none: all)."""

    table: TableName
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Literal, ...], ...] = ()
    query: str | None = None
    on_conflict: OnConflict = OnConflict.REFUSE
    conflict_key: tuple[str, ...] = ()
    updates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """UPDATE: columns, and expressions as DuckDB has them."""

    table: TableName
    assignments: tuple[tuple[str, str], ...]
    alias: str | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """DELETE."""

    table: TableName
    alias: str | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True)
class Select:
    """What DuckDB runs: SELECT, WITH, VALUES, FROM, SUMMARIZE."""

    text: str


@dataclass(frozen=True, slots=True)
class ShowTables:
    """SHOW TABLES, of one namespace or of all."""

    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class ShowNamespaces:
    """SHOW NAMESPACES or SHOW SCHEMAS."""


@dataclass(frozen=True, slots=True)
class Describe:
    """DESCRIBE a table."""

    table: TableName


@dataclass(frozen=True, slots=True)
class ShowStats:
    """SHOW STATS FOR TABLE."""

    table: TableName


@dataclass(frozen=True, slots=True)
class FlushTable:
    """STORAGE FLUSH TABLE."""

    table: TableName


@dataclass(frozen=True, slots=True)
class FlushAll:
    """STORAGE FLUSH ALL."""


@dataclass(frozen=True, slots=True)
class KillJob:
    """KILL JOB."""

    job: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """SUBSCRIBE TO: a live query."""

    table: TableName
    where: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExecuteAs:
    """EXECUTE AS USER: another statement, for this user."""

    user: str
    action: Action


Action = (
    CreateNamespace
    | DropNamespace
    | CreateTable
    | AddColumn
    | DropTable
    | Insert
    | Update
    | Delete
    | Select
    | ShowTables
    | ShowNamespaces
    | Describe
    | ShowStats
    | FlushTable
    | FlushAll
    | KillJob
    | Subscribe
    | ExecuteAs
)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a text: what it asks for, which it is, counted from 1, where in the text it
    begins, and the names of its parameters (in small letters; `1` for the first of a list)."""

    number: int
    text: str
    action: Action
    start: int = 0
    parameters: frozenset[str] = frozenset()
