"""Literals in the text of a statement, as Python has them. Pure."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from surgetank.streams.tables.sql.statements import AsDeclared, Given
from surgetank.streams.tables.sql.tokens import Cursor

_MOST_DIGITS = 400
_DEEPEST = 32


class Nothing:
    """What comes next is no literal."""


NOTHING = Nothing()


def literal(cursor: Cursor, depth: int = 0) -> Any:
    """Read a literal, a parameter, DEFAULT, or a list of them in brackets; `NOTHING` where
    something else comes next, and the cursor is anywhere then."""
    text = cursor.maybe_string()
    if text is not None:
        return text
    parameter = cursor.maybe_parameter()
    if parameter is not None:
        return Given(parameter)
    value: Any
    for word, value in (
        ("NULL", None),
        ("TRUE", True),
        ("FALSE", False),
        ("DEFAULT", AsDeclared()),
    ):
        if cursor.take(word):
            return value
    if cursor.peek() == "ARRAY" and cursor.peek(1) == "[":
        cursor.take("ARRAY")
    if cursor.take("["):
        return _list(cursor, depth)
    negative = False
    if cursor.peek() in ("-", "+"):
        negative = cursor.take("-") or not cursor.take("+")
    number = cursor.maybe_number()
    if number is None or len(number) > _MOST_DIGITS:
        return NOTHING
    if number.isdecimal():
        return -int(number) if negative else int(number)
    try:
        value = Decimal(number)
    except InvalidOperation:  # an exponent that Decimal has not
        return NOTHING
    return value.copy_negate() if negative else value  # `-value` would round it


def _list(cursor: Cursor, depth: int) -> Any:
    items: list[Any] = []
    if depth >= _DEEPEST:
        return NOTHING
    while not cursor.take("]"):
        if items and not cursor.take(","):
            return NOTHING
        item = literal(cursor, depth + 1)
        if isinstance(item, Nothing | AsDeclared):
            return NOTHING
        items.append(item)
    return items
