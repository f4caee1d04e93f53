"""SUBSCRIBE TO, taken apart. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from surgetank.exceptions import InvalidRequest
from surgetank.streams.tables.query.texts import Token, statements

MOST_ROWS = 10_000
_ROWS = 100
_FORM = "SUBSCRIBE TO namespace.table WHERE ... OPTIONS (last_rows=100)"


@dataclass(frozen=True, slots=True)
class Subscribe:
    """What a live query asks for: a table, a condition in its words (none: all rows), and how many
    of the newest rows to begin with."""

    schema: str | None
    name: str
    where: tuple[Token, ...] = ()
    last_rows: int = _ROWS
    where_text: str = ""


def subscribe(text: str) -> Subscribe:
    """The live query that a text is. Raises `InvalidRequest`."""
    found = statements(text)
    if len(found) != 1:
        raise InvalidRequest(
            f"A live query is one statement, not {len(found)}.", remedy=f"write {_FORM}."
        )
    words = list(found[0].tokens)
    if len(words) < 3 or not (words[0].says("SUBSCRIBE") and words[1].says("TO")):
        _refuse(words, 0)
    name, schema, at = words[2].name, None, 3
    if len(words) > 4 and words[3].says("."):
        schema, name, at = name, words[4].name, 5
    if name is None:
        _refuse(words, 2)
    where: tuple[Token, ...] = ()
    if at < len(words) and words[at].says("WHERE"):
        end = next((i for i in range(at, len(words)) if words[i].says("OPTIONS")), len(words))
        where, at = tuple(words[at + 1 : end]), end
        if not where:
            _refuse(words, at)
    last_rows = _ROWS
    if at < len(words) and words[at].says("OPTIONS"):
        last_rows, at = _options(words, at + 1)
    if at < len(words):
        _refuse(words, at)
    shown = found[0].text[where[0].start : where[-1].end] if where else ""
    return Subscribe(schema, name, where, last_rows, shown)


def _options(words: Sequence[Token], at: int) -> tuple[int, int]:
    expected = ("(", "LAST_ROWS", "=", None, ")")
    given = words[at : at + len(expected)]
    for index, (word, token) in enumerate(zip(expected, given, strict=False)):
        if word is not None and token.text.upper() != word:
            _refuse(words, at + index)
    if len(given) < len(expected) or not given[3].text.isdecimal():
        _refuse(words, at + min(len(given), 3))
    number = int(given[3].text) if len(given[3].text) < 10 else MOST_ROWS + 1
    if number > MOST_ROWS:
        raise InvalidRequest(
            f"A live query begins with at most {MOST_ROWS} rows.",
            remedy="read the others with SELECT.",
        )
    return number, at + len(expected)


def _refuse(words: Sequence[Token], at: int) -> NoReturn:
    near = repr(words[at].text[:40]) if at < len(words) else "its end"
    raise InvalidRequest(f"The live query can't be understood at {near}.", remedy=f"write {_FORM}.")
