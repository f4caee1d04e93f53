"""What a live query asks for, out of its text. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from surgetank.exceptions import InvalidRequest
from surgetank.streams.tables.sql import statements
from surgetank.streams.tables.sql.parsing import parse

MOST_ROWS = 10_000
_ROWS = 100
_FORM = "SUBSCRIBE TO namespace.table WHERE ... OPTIONS (last_rows=100)"


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A table, a condition (none: all rows), and how many of the newest rows to begin with."""

    schema: str
    name: str
    where: str | None = None
    last_rows: int = _ROWS


def subscribe(text: str) -> Subscribe:
    """The live query that a text is. Raises `InvalidRequest`."""
    found = parse(text)
    action = found[0].action
    if len(found) != 1 or not isinstance(action, statements.Subscribe):
        raise InvalidRequest("This is no live query.", remedy=f"write {_FORM}.")
    unknown = set(action.options) - {"last_rows"}
    if unknown:
        raise InvalidRequest(
            f"A live query has no option {min(unknown)!r}.", remedy="it has last_rows."
        )
    last_rows = action.options.get("last_rows", _ROWS)
    if type(last_rows) is not int or not 0 <= last_rows <= MOST_ROWS:
        raise InvalidRequest(
            f"A live query begins with 0 to {MOST_ROWS} rows.",
            remedy="read the others with SELECT.",
        )
    return Subscribe(action.table.namespace, action.table.name, action.where, last_rows)
