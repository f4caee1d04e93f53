"""The WHERE of a live query: comparisons of columns with constants, for batches of rows.

No database runs it. What can be written is a small part of SQL, which Arrow's own functions evaluate in time that
grows with the rows alone: no expression of a stranger can hold up or fill the process that tells of changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NoReturn
from uuid import UUID

import pyarrow as pa
import pyarrow.compute

from surgetank.exceptions import InvalidRequest
from surgetank.streams.tables.definition import SEQ, USER, Table
from surgetank.streams.tables.query.texts import Token
from surgetank.streams.tables.types import ColumnType
from surgetank.streams.tables.unfit import Unfit
from surgetank.streams.tables.values import Source, reader

pc: Any = pyarrow.compute  # its functions are made when it is imported
Holds = Callable[[pa.Table], pa.Array]  # true, false or null for each row
_MOST_TOKENS = 2000
_MOST_DEPTH = 50
_NUMBER = re.compile(r"\d+(\.\d*)?([eE]\d+)?")
_COMPARES = {
    "=": "equal", "<>": "not_equal", "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal",
}  # fmt: skip
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_PAIRS = frozenset({"<=", ">=", "<>", "!=", "=="})
_SAME = {"!=": "<>", "==": "="}
_ONLY_NULL = frozenset({"JSON", "BYTES"})
_RESERVED = frozenset({"AND", "OR", "NOT", "IN", "IS", "LIKE", "ILIKE", "BETWEEN", "NULL"})
_TYPED = frozenset({"DATE", "TIME", "TIMESTAMP", "TIMESTAMPTZ", "UUID", "DECIMAL"})
_CAN = (
    "compare columns with constants: =, <>, <, <=, >, >=, IN, BETWEEN, LIKE, ILIKE, IS NULL, with AND, OR,"
    " NOT and brackets."
)


class Condition:
    """A compiled WHERE. Raises `InvalidRequest` for what can't be told of a single row."""

    def __init__(self, words: Sequence[Token], table: Table) -> None:
        if len(words) > _MOST_TOKENS:
            raise InvalidRequest(
                f"The WHERE of a live query may have {_MOST_TOKENS} words, and this one has {len(words)}.",
                remedy="follow more, and leave out what you don't need where you get it.",
            )
        self._holds = _Parser(words, table).parse()

    def met_by(self, rows: pa.Table) -> pa.Array:
        """Whether each row meets it; what is unknown doesn't."""
        found = self._holds(rows)
        if isinstance(found, pa.ChunkedArray):
            found = found.combine_chunks()
        return pc.fill_null(found, pa.scalar(value=False))


class _Parser:
    def __init__(self, words: Sequence[Token], table: Table) -> None:
        self._words = words
        self._table = table
        self._at = 0
        self._depth = 0

    def parse(self) -> Holds:
        made = self._any()
        if self._at < len(self._words):
            self._refuse()
        return made

    # -- words

    def _peek(self, ahead: int = 0) -> Token | None:
        at = self._at + ahead
        return self._words[at] if at < len(self._words) else None

    def _take(self, word: str) -> bool:
        token = self._peek()
        if token is None or token.kind not in ("word", "mark") or token.text.upper() != word:
            return False
        self._at += 1
        return True

    def _expect(self, word: str) -> None:
        if not self._take(word):
            self._refuse()

    def _refuse(self) -> NoReturn:
        token = self._peek()
        near = "its end" if token is None else repr(token.text[:40])
        raise InvalidRequest(
            f"The WHERE of a live query can't be understood at {near}.", remedy=_CAN
        )

    # -- logic

    def _any(self) -> Holds:
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise InvalidRequest("The WHERE of a live query has too many brackets.", remedy=_CAN)
        parts = [self._all()]
        while self._take("OR"):
            parts.append(self._all())
        self._depth -= 1
        return _joined(pc.or_kleene, parts)

    def _all(self) -> Holds:
        parts = [self._not()]
        while self._take("AND"):
            parts.append(self._not())
        return _joined(pc.and_kleene, parts)

    def _not(self) -> Holds:
        negated = False
        while self._take("NOT"):
            negated = not negated
        if self._take("("):
            made = self._any()
            self._expect(")")
        else:
            made = self._comparison()
        return _negated(made) if negated else made

    # -- comparisons

    def _comparison(self) -> Holds:
        column = self._column()
        if column is None:
            given = self._constant()
            sign = self._sign()
            column = self._column()
            if sign is None or column is None:
                self._refuse()
            return self._compared(column, _TURNED.get(sign, sign), given)
        if self._take("IS"):
            negated = self._take("NOT")
            self._expect("NULL")
            return _is_null(column[0], negated)
        negated = self._take("NOT")
        if self._take("IN"):
            made = self._in(column)
        elif self._take("BETWEEN"):
            low = self._constant()
            self._expect("AND")
            made = _joined(
                pc.and_kleene,
                [self._compared(column, ">=", low), self._compared(column, "<=", self._constant())],
            )
        elif self._take("LIKE"):
            made = self._like(column, ignore_case=False)
        elif self._take("ILIKE"):
            made = self._like(column, ignore_case=True)
        elif negated:
            self._refuse()
        else:
            sign = self._sign()
            if sign is not None:
                return self._compared(column, sign, self._constant())
            if column[1] != ColumnType("BOOLEAN"):
                self._refuse()
            return _value_of(column[0])
        return _negated(made) if negated else made

    def _in(self, column: tuple[str, ColumnType]) -> Holds:
        self._expect("(")
        given = [self._constant()]
        while self._take(","):
            given.append(self._constant())
        self._expect(")")
        _require_comparable(column, ordered=False)
        values = pa.array([_kept(column, each) for each in given], _plain(column[1]))
        value_of = _value_of(column[0])

        def holds(rows: pa.Table) -> pa.Array:
            found = value_of(rows)
            unknown = pa.scalar(None, pa.bool_())
            return pc.if_else(pc.is_valid(found), pc.is_in(found, value_set=values), unknown)

        return holds

    def _like(self, column: tuple[str, ColumnType], *, ignore_case: bool) -> Holds:
        given = self._constant()
        if column[1] != ColumnType("TEXT") or not isinstance(given, str):
            raise InvalidRequest(f"LIKE compares texts, and {column[0]} is none.", remedy=_CAN)
        pattern = given.replace("\\", "\\\\")  # SQL has no sign that takes the sense from another
        value_of = _value_of(column[0])
        return lambda rows: pc.match_like(value_of(rows), pattern, ignore_case=ignore_case)

    def _compared(self, column: tuple[str, ColumnType], sign: str, given: Any) -> Holds:
        _require_comparable(column, ordered=sign not in ("=", "<>"))
        value = pa.scalar(_kept(column, given), _plain(column[1]))
        compare, value_of = getattr(pc, _COMPARES[sign]), _value_of(column[0])
        return lambda rows: compare(value_of(rows), value)

    # -- operands

    def _column(self) -> tuple[str, ColumnType] | None:
        token = self._peek()
        if token is None or token.name is None:
            return None
        following = self._peek(1)
        if token.kind == "word" and (
            token.text.upper() in ("TRUE", "FALSE", *_RESERVED)
            or (token.text.upper() in _TYPED and following is not None and following.kind == "text")
        ):
            return None
        self._at += 1
        name = token.name
        if self._take("."):
            qualified = self._peek()
            if name.casefold() != self._table.name.casefold() or qualified is None:
                self._refuse()
            name = qualified.name or ""
            self._at += 1
        if name.casefold() == SEQ:
            return SEQ, ColumnType("BIGINT")
        if name.casefold() == USER and self._table.by_user:
            return USER, ColumnType("TEXT")
        found = self._table.column(name)
        if found is None:
            raise InvalidRequest(
                f"{self._table.full_name} has no column {name[:100]!r}.",
                remedy=f"it has {', '.join(each.name for each in self._table.columns)}.",
            )
        return found.name, found.type

    def _sign(self) -> str | None:
        token, following = self._peek(), self._peek(1)
        if token is None or token.kind != "mark":
            return None
        pair = token.text + (following.text if following is not None else "")
        if pair in _PAIRS and following is not None and following.start == token.end:
            self._at += 2
            return _SAME.get(pair, pair)
        if token.text in _COMPARES:
            self._at += 1
            return token.text
        return None

    def _constant(self) -> Any:
        token = self._peek()
        following = self._peek(1)
        if token is not None and token.kind == "word" and token.text.upper() in _TYPED:
            self._at += 1
            token = following if following is not None and following.kind == "text" else None
        negative = self._take("-")
        if negative:
            token = self._peek()
        if token is None:
            self._refuse()
        if token.kind == "number" and _NUMBER.fullmatch(token.text):
            self._at += 1
            number = int(token.text) if token.text.isdecimal() else Decimal(token.text)
            return -number if negative else number
        if negative:
            self._refuse()
        if token.kind == "text" and token.text.startswith("'"):
            self._at += 1
            return token.text[1:-1].replace("''", "'")
        if token.kind == "word" and token.text.upper() in ("TRUE", "FALSE"):
            self._at += 1
            return token.text.upper() == "TRUE"
        if token.kind == "word" and token.text.upper() == "NULL":
            raise InvalidRequest(
                "Nothing is equal to NULL.", remedy="write IS NULL or IS NOT NULL."
            )
        return self._refuse()


def _joined(combine: Callable[[Any, Any], Any], parts: Sequence[Holds]) -> Holds:
    if len(parts) == 1:
        return parts[0]

    def holds(rows: pa.Table) -> pa.Array:
        found = parts[0](rows)
        for part in parts[1:]:
            found = combine(found, part(rows))
        return found

    return holds


def _negated(made: Holds) -> Holds:
    return lambda rows: pc.invert(made(rows))


def _is_null(name: str, negated: bool) -> Holds:
    check = pc.is_valid if negated else pc.is_null
    return lambda rows: check(rows.column(name))


def _value_of(name: str) -> Callable[[pa.Table], Any]:
    def value(rows: pa.Table) -> Any:
        found = rows.column(name).combine_chunks()
        if isinstance(found, pa.ChunkedArray):
            found = found.chunk(0) if found.num_chunks else pa.array([], found.type)
        return found.storage if isinstance(found, pa.ExtensionArray) else found

    return value


def _plain(type_: ColumnType) -> pa.DataType:
    return pa.binary(16) if type_.name == "UUID" else type_.arrow


def _require_comparable(column: tuple[str, ColumnType], *, ordered: bool) -> None:
    name, type_ = column
    if type_.is_list or type_.name in _ONLY_NULL or (ordered and type_.name == "UUID"):
        raise InvalidRequest(
            f"A live query can't compare {name}, which is {type_.sql}, like this.", remedy=_CAN
        )


def _kept(column: tuple[str, ColumnType], given: Any) -> Any:
    name, type_ = column
    try:
        made = reader(type_, Source.SQL)(given)
    except Unfit as error:
        raise InvalidRequest(
            f"The live query compares {name}, which is {type_.sql}: {error.reason}.",
            remedy=error.remedy or "compare it with a value of its type.",
        ) from None
    return made.bytes if isinstance(made, UUID) else made
