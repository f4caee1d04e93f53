"""INSERT, UPDATE and DELETE: which rows, and what becomes of them. Pure."""

from __future__ import annotations

from typing import Any

from surgetank.exceptions import InvalidRequest
from surgetank.streams.tables.sql.definitions import table_name
from surgetank.streams.tables.sql.literals import Nothing, literal
from surgetank.streams.tables.sql.statements import Delete, Insert, OnConflict, Update
from surgetank.streams.tables.sql.tokens import Cursor


def insert(cursor: Cursor) -> Insert:
    """INSERT INTO ... VALUES or SELECT, with ON CONFLICT."""
    cursor.expect("INTO")
    table = table_name(cursor)
    columns: tuple[str, ...] = ()
    if cursor.peek() == "(" and cursor.peek(1) not in ("SELECT", "WITH", "VALUES", "FROM", "("):
        columns = _names(cursor)
    rows: tuple[tuple[Any, ...], ...] | None = ((),) if cursor.take("DEFAULT", "VALUES") else None
    query = None
    if rows is None:
        at = cursor.position
        rows = _rows(cursor) if cursor.take("VALUES") else None
        if rows is None or cursor.peek() not in ("", "ON", ")", "RETURNING"):
            cursor.back(at)
            rows, query = (), _query(cursor)
    policy, key, updates = _conflict(cursor)
    _refuse_returning(cursor)
    return Insert(
        table=table,
        columns=columns,
        rows=rows,
        query=query,
        on_conflict=policy,
        conflict_key=key,
        updates=updates,
    )


def _query(cursor: Cursor) -> str:
    """The text up to ON CONFLICT; ON of a join is followed by something else."""
    start = cursor.position
    while True:
        cursor.until("ON", "RETURNING")
        if cursor.peek() != "ON" or cursor.peek(1) == "CONFLICT":
            break
        cursor.take("ON")
    end = cursor.position
    if end == start:
        cursor.refuse("VALUES or SELECT")
    return cursor.between(start, end)


def _rows(cursor: Cursor) -> tuple[tuple[Any, ...], ...] | None:
    """Rows of literals; None where something else is among them."""
    rows = []
    while True:
        if not cursor.take("("):
            return None
        row = [literal(cursor)]
        while cursor.take(","):
            row.append(literal(cursor))
        if any(isinstance(value, Nothing) for value in row) or not cursor.take(")"):
            return None
        rows.append(tuple(row))
        if not cursor.take(","):
            return tuple(rows)


def _names(cursor: Cursor) -> tuple[str, ...]:
    cursor.expect("(")
    names = [cursor.name("a column")]
    while cursor.take(","):
        names.append(cursor.name("a column"))
    cursor.expect(")")
    return tuple(names)


def _conflict(cursor: Cursor) -> tuple[OnConflict, tuple[str, ...], tuple[str, ...]]:
    if not cursor.take("ON", "CONFLICT"):
        return OnConflict.REFUSE, (), ()
    key = _names(cursor) if cursor.peek() == "(" else ()
    cursor.expect("DO")
    if cursor.take("NOTHING"):
        return OnConflict.NOTHING, key, ()
    if not cursor.take("UPDATE"):
        cursor.refuse("NOTHING or UPDATE")
    updates: list[str] = []
    if cursor.take("SET"):
        while True:
            updates.append(_excluded(cursor))
            if not cursor.take(","):
                break
    return OnConflict.UPDATE, key, tuple(updates)


def _excluded(cursor: Cursor) -> str:
    """`column = excluded.column`: the value that was to be inserted, and nothing else."""
    name = cursor.name("a column")
    cursor.expect("=")
    wanted = f"excluded.{name} (ON CONFLICT DO UPDATE sets what was to be inserted)"
    if not cursor.take("EXCLUDED", ".") or cursor.name(wanted).casefold() != name.casefold():
        cursor.refuse(wanted)
    return name


def update(cursor: Cursor) -> Update:
    """UPDATE ... SET ... WHERE."""
    table = table_name(cursor)
    alias = _alias(cursor, "SET")
    cursor.expect("SET")
    assignments = []
    while True:
        if cursor.peek() == "(":
            cursor.refuse("one column (set columns one by one)")
        name = cursor.name("a column")
        cursor.expect("=")
        expression = cursor.until(",", "WHERE", "FROM", "RETURNING")
        if not expression:
            cursor.refuse("a value")
        assignments.append((name, expression))
        if not cursor.take(","):
            break
    if cursor.peek() == "FROM":
        cursor.refuse("WHERE (rows of other tables: use a subquery)")
    return Update(table=table, assignments=tuple(assignments), alias=alias, where=_where(cursor))


def delete(cursor: Cursor) -> Delete:
    """DELETE FROM ... WHERE."""
    cursor.expect("FROM")
    table = table_name(cursor)
    alias = _alias(cursor, "WHERE", "USING", "RETURNING")
    if cursor.peek() == "USING":
        cursor.refuse("WHERE (rows of other tables: use a subquery)")
    return Delete(table=table, alias=alias, where=_where(cursor))


def _alias(cursor: Cursor, *next_words: str) -> str | None:
    if cursor.take("AS"):
        return cursor.name("an alias")
    if cursor.at_end or cursor.peek() in (*next_words, ")"):
        return None
    return cursor.name("an alias")


def _where(cursor: Cursor) -> str | None:
    if not cursor.take("WHERE"):
        _refuse_returning(cursor)
        return None
    condition = cursor.until(
        "RETURNING", "GROUP BY", "ORDER BY", "LIMIT", "UNION", "EXCEPT", "INTERSECT"
    )
    if not condition:
        cursor.refuse("a condition")
    _refuse_returning(cursor)
    return condition


def _refuse_returning(cursor: Cursor) -> None:
    if cursor.peek() == "RETURNING":
        raise InvalidRequest("RETURNING is not there.", remedy="select the rows after the change.")
