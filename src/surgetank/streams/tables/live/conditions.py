"""The WHERE of a live query: comparisons of columns with constants, for batches of rows.

No database runs it. What can be written is a small part of SQL, which Arrow's own functions evaluate in time that
grows with the rows alone: no expression of a stranger can hold up or fill the process that tells of changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn
from uuid import UUID

import pyarrow as pa
import pyarrow.compute

from surgetank.exceptions import InvalidRequest
from surgetank.streams.tables.definition import SEQ, USER, Table
from surgetank.streams.tables.sql.literals import Nothing, literal
from surgetank.streams.tables.sql.statements import AsDeclared, Given
from surgetank.streams.tables.sql.tokens import Cursor, words_of
from surgetank.streams.tables.types import ColumnType
from surgetank.streams.tables.unfit import Unfit
from surgetank.streams.tables.values import Source, reader

pc: Any = pyarrow.compute  # its functions are made when it is imported
Holds = Callable[[pa.Table], pa.Array]  # true, false or null for each row
_MOST_WORDS = 2000
_MOST_DEPTH = 50
_COMPARES = {
    "=": "equal", "<>": "not_equal", "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal",
}  # fmt: skip
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
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

    def __init__(self, text: str, table: Table) -> None:
        words = words_of(text)
        if len(words) > _MOST_WORDS:
            raise InvalidRequest(
                f"The WHERE of a live query may have {_MOST_WORDS} words, and this one has {len(words)}.",
                remedy="follow more, and leave out what you don't need where you get it.",
            )
        self._holds = _Parser(Cursor(text, words), table).parse()

    def met_by(self, rows: pa.Table) -> pa.Array:
        """Whether each row meets it; what is unknown doesn't."""
        found = self._holds(rows)
        if isinstance(found, pa.ChunkedArray):
            found = found.combine_chunks()
        return pc.fill_null(found, pa.scalar(value=False))


class _Parser:
    def __init__(self, cursor: Cursor, table: Table) -> None:
        self._cursor = cursor
        self._table = table
        self._depth = 0
        self._take = cursor.take

    def parse(self) -> Holds:
        made = self._any()
        if not self._cursor.at_end:
            self._refuse()
        return made

    def _expect(self, word: str) -> None:
        if not self._take(word):
            self._refuse()

    def _refuse(self) -> NoReturn:
        near = repr(self._cursor.rest()[:40]) if not self._cursor.at_end else "its end"
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
        cursor, begin = self._cursor, self._cursor.position
        is_typed = cursor.peek() in _TYPED and cursor.take(cursor.peek())
        given = literal(cursor)
        cursor.back(begin)
        if not isinstance(given, Nothing) or cursor.peek() in _RESERVED:
            return None
        name = cursor.name("a column" if not is_typed else "a column or a constant")
        if self._take("."):
            if name.casefold() != self._table.name.casefold():
                self._refuse()
            name = cursor.name("a column")
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
        for sign in (*_SAME, *_COMPARES):
            if self._take(sign):
                return _SAME.get(sign, sign)
        return None

    def _constant(self) -> Any:
        cursor = self._cursor
        if cursor.peek() in _TYPED:
            cursor.take(cursor.peek())
        given = literal(cursor)
        if given is None:
            raise InvalidRequest(
                "Nothing is equal to NULL.", remedy="write IS NULL or IS NOT NULL."
            )
        if isinstance(given, Nothing | Given | AsDeclared | list):
            self._refuse()
        return given


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
