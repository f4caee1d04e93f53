"""What a table is: frozen values that catalogue, hot store, flush and SQL share. Pure.

A row has hidden columns before its own: `_user` (whose it is; not in a SHARED table) and `_seq`. `_seq` grows
with each row that a hot store accepts, and no two stores give the same one; it is the row's identity where
there is no PRIMARY KEY.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from surgetank.exceptions import InvalidRequest
from surgetank.streams.tables.types import ColumnType

STREAM = "tables"  # the stream whose partitions are users' rows in tables
USER, SEQ = "_user", "_seq"
HIDDEN = (USER, SEQ)
USER_ID, SEQ_ID, FIRST_ID = 1, 2, 3  # field ids of the hidden columns, and of the first other one
NOBODY = ""  # the user of the rows of a SHARED table
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
RESERVED = frozenset({"system", "information_schema", "main", "temp", "pg_catalog"})


class Kind(StrEnum):
    """Whose the rows are. USER: each row is a user's. SHARED: one set of rows for all who may.
    STREAM: each row is a user's, stays hot, and goes after its time to live."""

    USER = "USER"
    SHARED = "SHARED"
    STREAM = "STREAM"


class Access(StrEnum):
    """What users who are no operators may do with a SHARED table. In the others a user always has
    his own rows, and never those of anybody else."""

    PRIVATE = "private"
    READ = "read"
    WRITE = "write"


class DefaultKind(StrEnum):
    """What a column has where an insert says nothing."""

    CONSTANT = "constant"
    NOW = "now"
    UUID = "uuid"


@dataclass(frozen=True, slots=True)
class Default:
    """The default of a column; `value` is the constant as Python has it."""

    kind: DefaultKind
    value: Any = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `id` is its Parquet field id, never given again in its table. `since` is the schema
    version that it came with; rows from before have `initial`."""

    id: int
    name: str
    type: ColumnType
    nullable: bool = True
    default: Default | None = None
    since: int = 1
    initial: Any = None


@dataclass(frozen=True, slots=True)
class TablePolicy:
    """When a table is flushed: after so many mutations (inserts, updates and deletes alike), or
    when the oldest has waited for so long. None: by the settings."""

    rows: int | None = None
    interval_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table at one version of its schema. `key` names the columns of its PRIMARY KEY, in order;
    none means the hidden sequence."""

    id: int
    namespace: str
    name: str
    kind: Kind
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    access: Access = Access.PRIVATE
    policy: TablePolicy = TablePolicy()
    ttl_s: float | None = None
    storage: str = "local"
    owner: str | None = None
    schema_version: int = 1
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def full_name(self) -> str:
        """`namespace.name`."""
        return f"{self.namespace}.{self.name}"

    @property
    def by_user(self) -> bool:
        """Whether its rows belong to users."""
        return self.kind is not Kind.SHARED

    def column(self, name: str) -> Column | None:
        """The column of this name, in any case."""
        folded = name.casefold()
        return next((each for each in self.columns if each.name.casefold() == folded), None)

    def partition(self, user: str) -> str:
        """What the rows of a user are called as a partition."""
        return f"{self.full_name}/{user}" if self.by_user else self.full_name


def checked_name(name: str, what: str) -> str:
    """A name as it is stored. Raises `InvalidRequest`."""
    if not _NAME.fullmatch(name) or (what == "namespace" and name.casefold() in RESERVED):
        raise InvalidRequest(
            f"A {what} can't be called {name[:80]!r}.",
            remedy="use a letter, then letters, digits and _, at most 63; not the name of a system schema.",
        )
    return name
