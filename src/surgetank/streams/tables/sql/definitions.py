"""CREATE, ALTER and DROP of tables and namespaces: their declarations. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from surgetank.exceptions import InvalidRequest
from surgetank.streams.tables.definition import (
    Access,
    Default,
    DefaultKind,
    Kind,
    TablePolicy,
    checked_name,
)
from surgetank.streams.tables.rows import CLOCKED
from surgetank.streams.tables.sql.literals import Nothing, literal
from surgetank.streams.tables.sql.statements import (
    AddColumn,
    AsDeclared,
    CreateNamespace,
    CreateTable,
    DropNamespace,
    DropTable,
    Given,
    NewColumn,
    TableName,
)
from surgetank.streams.tables.sql.tokens import Cursor, words_of
from surgetank.streams.tables.types import ColumnType
from surgetank.streams.tables.unfit import Unfit
from surgetank.streams.tables.values import Source, reader

_NOW = ("NOW", "CURRENT_TIMESTAMP", "CURRENT_DATE", "CURRENT_TIME", "LOCALTIMESTAMP", "LOCALTIME")
_UUID = ("UUID", "GEN_RANDOM_UUID", "UUID_GENERATE_V4", "UUIDV4")
_MOST_TTL_S = 100 * 366 * 86400.0
_MOST_ROWS = 1_000_000_000


def table_name(cursor: Cursor) -> TableName:
    """Read `namespace.table`, or `table` in the namespace `public`."""
    first = cursor.name("the name of a table")
    if cursor.take("."):
        return TableName(cursor.name("the name of a table"), first)
    return TableName(first)


def create(cursor: Cursor) -> CreateTable | CreateNamespace:
    """CREATE TABLE, or CREATE NAMESPACE."""
    kind = next((k for k in Kind if cursor.take(k.value, "TABLE")), None)
    if kind is not None or cursor.take("TABLE"):
        return _create_table(cursor, kind)
    if not cursor.take("NAMESPACE") and not cursor.take("SCHEMA"):
        cursor.refuse("TABLE or NAMESPACE")
    if_not_exists = cursor.take("IF", "NOT", "EXISTS")
    name = checked_name(cursor.name("the name of a namespace"), "namespace")
    return CreateNamespace(name=name, if_not_exists=if_not_exists)


def drop(cursor: Cursor) -> DropTable | DropNamespace:
    """DROP TABLE, or DROP NAMESPACE."""
    if cursor.take("TABLE"):
        if_exists = cursor.take("IF", "EXISTS")
        return DropTable(table=table_name(cursor), if_exists=if_exists)
    if not cursor.take("NAMESPACE") and not cursor.take("SCHEMA"):
        cursor.refuse("TABLE or NAMESPACE")
    if_exists = cursor.take("IF", "EXISTS")
    return DropNamespace(name=cursor.name("the name of a namespace"), if_exists=if_exists)


def alter(cursor: Cursor) -> AddColumn:
    """ALTER TABLE ... ADD COLUMN."""
    cursor.expect("TABLE")
    table = table_name(cursor)
    if not cursor.take("ADD"):
        cursor.refuse("ADD COLUMN (columns can only be added)")
    cursor.take("COLUMN")
    if_not_exists = cursor.take("IF", "NOT", "EXISTS")
    column, is_key = _column(cursor)
    if is_key:
        raise InvalidRequest(
            "A column that is added can't be the PRIMARY KEY.", remedy="create another table."
        )
    if not column.nullable and column.default is None:
        raise InvalidRequest(
            f"The column {column.name!r} can't be NOT NULL: the rows that there are would have nothing in it.",
            remedy="give it a DEFAULT.",
        )
    return AddColumn(table=table, column=column, if_not_exists=if_not_exists)


def _create_table(cursor: Cursor, kind: Kind | None) -> CreateTable:
    if_not_exists = cursor.take("IF", "NOT", "EXISTS")
    name = table_name(cursor)
    checked_name(name.name, "table")
    checked_name(name.namespace, "namespace")
    cursor.expect("(")
    columns: list[NewColumn] = []
    keys: list[tuple[str, ...]] = []
    while True:
        if cursor.take("PRIMARY", "KEY"):
            keys.append(_names(cursor))
        elif cursor.peek() in ("FOREIGN KEY", "UNIQUE", "CHECK", "CONSTRAINT"):
            cursor.refuse("a column or PRIMARY KEY (there are no other constraints)")
        else:
            column, is_key = _column(cursor)
            columns.append(column)
            if is_key:
                keys.append((column.name,))
        if not cursor.take(","):
            break
    cursor.expect(")")
    given = _options(cursor)
    if len(keys) > 1:
        raise InvalidRequest(
            "A table has one PRIMARY KEY.", remedy="name its columns together: PRIMARY KEY (a, b)."
        )
    return CreateTable(
        table=name,
        columns=tuple(columns),
        key=keys[0] if keys else (),
        kind=_agreed(kind, given.kind),
        access=given.access,
        policy=TablePolicy(given.rows, given.interval_s),
        ttl_s=given.ttl_s,
        storage=given.storage,
        if_not_exists=if_not_exists,
    )


def _agreed(first: Kind | None, second: Kind | None) -> Kind:
    if first is not None and second is not None and first is not second:
        raise InvalidRequest(
            f"The table is to be {first} and {second}.", remedy="say what it is once."
        )
    return first or second or Kind.USER


def _names(cursor: Cursor) -> tuple[str, ...]:
    cursor.expect("(")
    names = [cursor.name("a column")]
    while cursor.take(","):
        names.append(cursor.name("a column"))
    cursor.expect(")")
    return tuple(names)


def _column(cursor: Cursor) -> tuple[NewColumn, bool]:
    name = checked_name(cursor.name("the name of a column"), "column")
    stop = (
        "NOT",
        "NULL",
        "DEFAULT",
        "PRIMARY KEY",
        "UNIQUE",
        "CHECK",
        "REFERENCES",
        "GENERATED",
        "COLLATE",
        ",",
    )
    written = cursor.until(*stop)
    if not written:
        cursor.refuse(f"the type of the column {name!r}")
    try:
        type_ = ColumnType.parse(written)
    except InvalidRequest as error:
        raise InvalidRequest(f"Column {name!r}: {error.what}", remedy=error.remedy) from None
    nullable, is_key, default = True, False, None
    while True:
        if cursor.take("NOT", "NULL"):
            nullable = False
        elif cursor.take("NULL"):
            nullable = True
        elif cursor.take("PRIMARY", "KEY"):
            is_key = True
        elif cursor.take("DEFAULT"):
            default = _default(cursor, name, type_)
        else:
            break
    if cursor.peek() not in (",", ")", ""):
        cursor.refuse("NOT NULL, DEFAULT, PRIMARY KEY or the next column")
    return NewColumn(name, type_, nullable and not is_key, default), is_key


def declared(name: str, text: str) -> tuple[NewColumn, bool]:
    """A column of this name, declared as in SQL (`INT NOT NULL DEFAULT 0`), and whether it is the
    PRIMARY KEY. Raises `InvalidRequest`."""
    checked_name(name, "column")
    source = f"{name} {text}"
    cursor = Cursor(source, words_of(source))
    made = _column(cursor)
    cursor.end()
    return made


def _default(cursor: Cursor, name: str, type_: ColumnType) -> Default | None:
    bracket = cursor.take("(")  # DEFAULT (now())
    made = _call(cursor, name, type_)
    if made is None:
        value = literal(cursor)
        if isinstance(value, Nothing | Given | AsDeclared):
            cursor.refuse(f"a constant, now() or uuid() as the DEFAULT of {name!r}")
        made = default_of(name, type_, value)
    if bracket:
        cursor.expect(")")
    return made if made.kind is not DefaultKind.CONSTANT or made.value is not None else None


def default_of(name: str, type_: ColumnType, value: Any, source: Source = Source.SQL) -> Default:
    """A constant as the default of a column, as it is stored. Raises `InvalidRequest`."""
    if value is None:
        return Default(DefaultKind.CONSTANT)
    try:
        return Default(DefaultKind.CONSTANT, reader(type_, source)(value))
    except Unfit as error:
        raise InvalidRequest(
            f"The default of {name!r} can't be stored as {type_}: {error.reason}.",
            remedy=error.remedy or "give a constant of that type.",
        ) from None


def _call(cursor: Cursor, name: str, type_: ColumnType) -> Default | None:
    for words, kind, fits, wanted in (
        (_NOW, DefaultKind.NOW, CLOCKED, "a date or time"),
        (_UUID, DefaultKind.UUID, frozenset({"UUID", "TEXT"}), "UUID or TEXT"),
    ):
        if cursor.peek() not in words:
            continue
        cursor.take(cursor.peek())
        if cursor.take("("):
            cursor.expect(")")
        if type_.is_list or type_.name not in fits:
            raise InvalidRequest(
                f"The default of {name!r} is {kind}, and its type is {type_}.",
                remedy=f"{kind}() is for {wanted}.",
            )
        return Default(kind)
    return None


@dataclass(slots=True)
class _Options:
    """What WITH (...) says."""

    kind: Kind | None = None
    access: Access = Access.PRIVATE
    rows: int | None = None
    interval_s: float | None = None
    ttl_s: float | None = None
    storage: str = "local"
    seen: set[str] = field(default_factory=set)


def _options(cursor: Cursor) -> _Options:
    found = _Options()
    if not cursor.take("WITH"):
        return found
    cursor.expect("(")
    while True:
        name = cursor.name("an option").upper()
        setter = _SETTERS.get(name)
        if setter is None or name in found.seen:
            why = "is given twice" if setter is not None else "is unknown"
            raise InvalidRequest(
                f"The option {name!r:.80} of the table {why}.",
                remedy=f"the options are {', '.join(_SETTERS)}, each once.",
            )
        found.seen.add(name)
        cursor.expect("=")
        given = cursor.maybe_string() or cursor.maybe_number() or cursor.name("a value")
        setter(found, given)
        if not cursor.take(","):
            break
    cursor.expect(")")
    return found


def _set_kind(found: _Options, given: str) -> None:
    found.kind = chosen_kind(given)


def _set_access(found: _Options, given: str) -> None:
    found.access = chosen_access(given)


def _set_policy(found: _Options, given: str) -> None:
    policy = flush_policy(given)
    found.rows, found.interval_s = policy.rows, policy.interval_s


def _set_ttl(found: _Options, given: str) -> None:
    found.ttl_s = positive(given, "TTL_SECONDS", _MOST_TTL_S)


def _set_storage(found: _Options, given: str) -> None:
    if given != "local":
        raise InvalidRequest(f"There is no storage {given!r:.80}.", remedy="use 'local'.")
    found.storage = given


_SETTERS: Mapping[str, Callable[[_Options, str], None]] = MappingProxyType(
    {
        "TYPE": _set_kind,
        "FLUSH_POLICY": _set_policy,
        "TTL_SECONDS": _set_ttl,
        "ACCESS_LEVEL": _set_access,
        "STORAGE_ID": _set_storage,
    }
)


def chosen_kind(given: str) -> Kind:
    """The kind of this name. Raises `InvalidRequest`."""
    try:
        return Kind(given.upper())
    except ValueError:
        raise InvalidRequest(
            f"There is no table of the kind {given!r:.80}.", remedy=f"use {', '.join(Kind)}."
        ) from None


def chosen_access(given: str) -> Access:
    """The access of this name. Raises `InvalidRequest`."""
    try:
        return Access(given.lower())
    except ValueError:
        raise InvalidRequest(
            f"There is no access level {given!r:.80}.", remedy=f"use {', '.join(Access)}."
        ) from None


def flush_policy(text: str) -> TablePolicy:
    """`rows:1000,interval:60` (mutations, seconds; either may be missing). Raises
    `InvalidRequest`."""
    given: dict[str, str] = {}
    for part in text.split(","):
        name, colon, value = (each.strip() for each in part.partition(":"))
        if not colon or name.lower() not in ("rows", "interval") or name.lower() in given:
            raise InvalidRequest(
                f"{text!r:.80} is no flush policy.",
                remedy="write it as 'rows:1000,interval:60': mutations, and seconds.",
            )
        given[name.lower()] = value
    rows = (
        positive(given["rows"], "rows of the flush policy", _MOST_ROWS) if "rows" in given else None
    )
    if rows is not None and rows != int(rows):
        raise InvalidRequest("A flush policy counts rows.", remedy="give a number without a point.")
    interval = given.get("interval")
    return TablePolicy(
        int(rows) if rows is not None else None,
        positive(interval, "interval of the flush policy", _MOST_TTL_S)
        if interval is not None
        else None,
    )


def positive(text: str, what: str, most: float) -> float:
    """A number above 0. Raises `InvalidRequest`."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= most:
        raise InvalidRequest(
            f"{what} can't be {text!r:.80}.", remedy=f"give a number above 0, at most {most:.0f}."
        )
    return value
