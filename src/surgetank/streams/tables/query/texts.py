"""Texts of SQL taken apart, without changing a character: statements, and the parts of UPDATE and DELETE. Pure.

Only quotes, comments and parentheses are understood here, as DuckDB understands them; what is in between is for
DuckDB, which gets it as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from surgetank.exceptions import InvalidRequest

_TOKEN = re.compile(
    r"""
      (?P<space>  \s+ | --[^\n]* )
    | (?P<comment> /\* )
    | (?P<text>   [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' )
    | (?P<quoted> "(?:[^"]|"")*" )
    | (?P<dollar> \$(?:[^\W\d]\w*)?\$ )
    | (?P<parameter> \$\w+ | \? )
    | (?P<word>   [^\W\d]\w* )
    | (?P<number> \d[\w.]* )
    | (?P<mark>   . )
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENS, _CLOSES = "([{", ")]}"
_NESTED = re.compile(r"/\*|\*/")


@dataclass(frozen=True, slots=True)
class Token:
    """A part of a text, where it stands, and how many brackets are open around it."""

    kind: str
    text: str
    start: int
    end: int
    depth: int

    def says(self, word: str) -> bool:
        """Whether it is this keyword or mark, outside of all brackets."""
        return self.depth == 0 and self.kind in ("word", "mark") and self.text.upper() == word

    @property
    def name(self) -> str | None:
        """What it names, if it can be a name."""
        if self.kind == "quoted":
            return self.text[1:-1].replace('""', '"')
        return self.text if self.kind == "word" else None


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a text: its number, from 1, and where it begins."""

    number: int
    text: str
    start: int
    tokens: tuple[Token, ...]

    @property
    def verb(self) -> str:
        """Its first word."""
        first = self.tokens[0]
        return first.text.upper() if first.kind in ("word", "mark") else ""


@dataclass(frozen=True, slots=True)
class Change:
    """An UPDATE or DELETE in its parts: the table's name, and texts as they were written."""

    schema: str | None
    name: str
    alias: str | None
    assignments: tuple[tuple[str, str], ...]
    where: str | None


@dataclass(frozen=True, slots=True)
class Insertion:
    """An INSERT in its parts. Without `columns` all are meant. `source` is a SELECT or VALUES,
    `conflict` what follows ON CONFLICT."""

    schema: str | None
    name: str
    columns: tuple[str, ...] | None
    source: str
    conflict: str | None


def tokens(text: str) -> Iterator[Token]:
    """All but white space and comments."""
    at, depth = 0, 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        assert found is not None, at
        kind, start, at = found.lastgroup or "", at, found.end()
        if kind == "comment":
            at = _after_comment(text, at)
        elif kind == "dollar":
            end = text.find(found[0], at)
            at = len(text) if end < 0 else end + len(found[0])
            yield Token("text", text[start:at], start, at, depth)
        elif kind != "space":
            if found[0] in _CLOSES and kind == "mark":
                depth = max(0, depth - 1)
            yield Token(kind, found[0], start, at, depth)
            depth += found[0] in _OPENS and kind == "mark"


def _after_comment(text: str, at: int) -> int:
    depth = 1
    while depth:
        found = _NESTED.search(text, at)
        if found is None:
            return len(text)
        depth += 1 if found[0] == "/*" else -1
        at = found.end()
    return at


def statements(text: str) -> list[Statement]:
    """The statements of a text; empty ones are none."""
    found: list[Statement] = []
    part: list[Token] = []

    def end() -> None:
        if part:
            start = part[0].start
            moved = tuple(
                Token(each.kind, each.text, each.start - start, each.end - start, each.depth)
                for each in part
            )
            found.append(Statement(len(found) + 1, text[start : part[-1].end], start, moved))
            part.clear()

    for token in tokens(text):
        if token.says(";"):
            end()
        else:
            part.append(token)
    end()
    return found


def numbered(statement: Statement) -> Statement:
    """The statement with `$1`, `$2` ... where it has `?`: its parts may be put in another order."""
    marks = [each for each in statement.tokens if each.text == "?" and each.kind == "parameter"]
    if not marks:
        return statement
    text, at = "", 0
    for number, mark in enumerate(marks, 1):
        text += statement.text[at : mark.start] + f"${number}"
        at = mark.end
    text += statement.text[at:]
    return Statement(statement.number, text, statement.start, tuple(tokens(text)))


def change(statement: Statement) -> Change:
    """The parts of an UPDATE or DELETE. Raises `InvalidRequest` for a form that can't be run."""
    statement = numbered(statement)
    parts, text = list(statement.tokens), statement.text
    update = statement.verb == "UPDATE"
    at = 1 if update else 2
    if not update and not (len(parts) > 1 and parts[1].says("FROM")):
        raise _unknown(statement)
    for word in ("FROM", "USING", "RETURNING", "ORDER", "LIMIT", "OFFSET"):
        if any(
            each.says(word) and not before.says("DISTINCT")  # `a IS DISTINCT FROM b`
            for before, each in pairwise(parts[at:])
        ):
            raise InvalidRequest(
                f"{statement.verb} can't have {word} here.",
                remedy="name its rows in WHERE, with a subquery where others decide.",
            )
    where = next((n for n, each in enumerate(parts) if each.says("WHERE")), len(parts))
    set_ = next((n for n, each in enumerate(parts) if each.says("SET")), None) if update else where
    if set_ is None or set_ > where:
        raise _unknown(statement)
    schema, name, alias = _named(parts[at:set_], statement)
    assignments = _assignments(parts[set_ + 1 : where], text) if update else ()
    if update and not assignments:
        raise _unknown(statement)
    condition = parts[where + 1 :]
    if where < len(parts) and not condition:
        raise _unknown(statement)
    return Change(
        schema, name, alias, tuple(assignments), _slice(condition, text) if condition else None
    )


def insertion(statement: Statement) -> Insertion:
    """The parts of an INSERT. Raises `InvalidRequest` for a form that can't be run."""
    parts, text = list(statement.tokens), statement.text
    source = next((n for n, each in enumerate(parts) if each.depth == 0 and _begins(each)), 0)
    if source < 3 or not parts[1].says("INTO"):
        raise _unknown(statement)
    conflict = next(
        (
            n
            for n in range(source, len(parts) - 1)
            if parts[n].says("ON") and parts[n + 1].says("CONFLICT")
        ),
        None,
    )
    head, columns = parts[2:source], None
    opening = next((n for n, each in enumerate(head) if each.says("(")), None)
    if opening is not None:
        columns = tuple(each.name or "" for each in head[opening + 1 : -1] if each.text != ",")
        if not columns or "" in columns or head[-1].text != ")":
            raise _unknown(statement)
        head = head[:opening]
    schema, name, alias = _named(head, statement)
    if alias is not None:
        raise _unknown(statement)
    body = parts[source:conflict]
    rest = parts[conflict + 2 :] if conflict is not None else []
    if conflict is not None and not rest:
        raise _unknown(statement)
    return Insertion(
        schema=schema,
        name=name,
        columns=columns,
        source=_slice(body, text),
        conflict=_slice(rest, text) if rest else None,
    )


def _begins(token: Token) -> bool:
    return token.kind == "word" and token.text.upper() in ("SELECT", "VALUES", "WITH", "FROM")


def _named(parts: Sequence[Token], statement: Statement) -> tuple[str | None, str, str | None]:
    """`[schema.]table [[AS] alias]`."""
    names = [each.name for each in parts if not each.says(".") and not each.says("AS")]
    dots = sum(each.says(".") for each in parts)
    if None in names or dots > 1 or not 1 <= len(names) - dots <= 2:
        raise _unknown(statement)
    known = [each for each in names if each is not None]
    schema = known.pop(0) if dots else None
    return schema, known[0], known[1] if len(known) > 1 else None


def _assignments(parts: Sequence[Token], text: str) -> list[tuple[str, str]]:
    found, begun = [], 0
    for number in range(len(parts) + 1):
        if number == len(parts) or parts[number].says(","):
            part = parts[begun:number]
            name = part[0].name if part else None
            if name is None or len(part) < 3 or not part[1].says("="):
                written = _slice(part, text) if part else ""
                raise InvalidRequest(
                    f"{written[:80]!r} is no assignment.", remedy="write column = expression."
                )
            found.append((name, _slice(part[2:], text)))
            begun = number + 1
    return found


def _slice(parts: Sequence[Token], text: str) -> str:
    return text[parts[0].start : parts[-1].end]


def _unknown(statement: Statement) -> InvalidRequest:
    return InvalidRequest(
        f"This {statement.verb} can't be understood: {statement.text[:80]!r}.",
        remedy="see the reference of SQL for its forms.",
    )
