"""The statements of a text. Pure.

    parse("CREATE TABLE shop.orders (id BIGINT PRIMARY KEY); SHOW TABLES")

sqlglot finds the words. What DuckDB runs is handed on as it was written: nothing is changed on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from surgetank.exceptions import InvalidRequest, SurgetankError
from surgetank.streams.tables.sql import definitions, mutations
from surgetank.streams.tables.sql.definitions import table_name
from surgetank.streams.tables.sql.literals import Nothing, literal
from surgetank.streams.tables.sql.statements import (
    Action,
    AsDeclared,
    Describe,
    ExecuteAs,
    FlushAll,
    FlushTable,
    Given,
    KillJob,
    Select,
    ShowNamespaces,
    ShowStats,
    ShowTables,
    Statement,
    Subscribe,
)
from surgetank.streams.tables.sql.tokens import Cursor, ParameterForm, Unexpected, words_of

MOST_STATEMENTS = 1000
_QUERIES = ("SELECT", "WITH", "FROM", "VALUES", "SUMMARIZE", "PIVOT", "UNPIVOT", "(", "TABLE")


def parse(text: str) -> list[Statement]:
    """The statements of a text, in order. `?` count over all of it. Raises `Misread`, which names
    the statement, and `QuotaExceeded`."""
    statements: list[Statement] = []
    tokens = words_of(text)
    begin = marks = 0
    form = ParameterForm()
    for at in range(len(tokens) + 1):
        if at < len(tokens) and not tokens[at].is_end:
            continue
        own = tokens[begin:at]
        begin = at + 1
        if not own:
            continue
        numbers = range(marks + 1, marks + 1 + sum(each.is_mark for each in own))
        marks = numbers.stop - 1
        number, start = len(statements) + 1, own[0].start
        written = text[start : own[-1].end]
        if number > MOST_STATEMENTS:
            raise Misread(f"A text may have {MOST_STATEMENTS} statements.", "send fewer at once.")
        cursor = Cursor(text, own, numbers)
        try:
            parameters = form.names(own, numbers)
            action = _action(cursor)
            cursor.end()
        except SurgetankError as error:
            alone = number == 1 and all(each.is_end for each in tokens[at:])
            what = error.what if alone else f"{title(number, written)}: {error.what}"
            position = error.position if isinstance(error, Unexpected) else None
            raise Misread(what, error.remedy, number, position) from None
        statements.append(Statement(number, written, action, start, parameters))
    if not statements:
        raise Misread("There is no statement in the text.", "write one.")
    return statements


class Misread(InvalidRequest):
    """A statement that can't be read: `number` is which, `position` where in the text, in characters,
    if that is known. Nothing of its text was run."""

    def __init__(
        self, what: str, remedy: str, number: int | None = None, position: int | None = None
    ) -> None:
        super().__init__(what, remedy=remedy)
        self.number, self.position = number, position


def title(number: int, text: str) -> str:
    """What a statement is called where there are several."""
    return f"Statement {number} ({shortened(text)!r})"


def shortened(text: str) -> str:
    """The beginning of a text, in one line."""
    plain = " ".join(text[:400].split())
    return plain if len(plain) <= 80 else f"{plain[:77]}..."


def _action(cursor: Cursor) -> Action:
    word = cursor.peek()
    if word in _QUERIES:
        return Select(cursor.rest())
    read = _STATEMENTS.get(word)
    if read is None:
        cursor.refuse("a statement")
    cursor.take(word)
    return read(cursor)


def _describe(cursor: Cursor) -> Action:
    if cursor.peek() in _QUERIES:
        cursor.refuse("a table")
    cursor.take("TABLE")
    return Describe(table_name(cursor))


def _show(cursor: Cursor) -> Action:
    if cursor.take("STATS"):
        cursor.take("FOR")
        cursor.take("TABLE")
        return ShowStats(table_name(cursor))
    if cursor.take("NAMESPACES") or cursor.take("SCHEMAS"):
        return ShowNamespaces()
    cursor.take("ALL")
    if not cursor.take("TABLES"):
        cursor.refuse("TABLES, NAMESPACES or STATS FOR TABLE")
    if cursor.take("IN") or cursor.take("FROM"):
        cursor.take("NAMESPACE")
        return ShowTables(cursor.name("the name of a namespace"))
    return ShowTables()


def _storage(cursor: Cursor) -> Action:
    cursor.expect("FLUSH")
    if cursor.take("ALL"):
        return FlushAll()
    cursor.expect("TABLE")
    return FlushTable(table_name(cursor))


def _kill(cursor: Cursor) -> Action:
    cursor.expect("JOB")
    return KillJob(cursor.maybe_string() or cursor.maybe_number() or cursor.name("a job"))


def _execute(cursor: Cursor) -> Action:
    cursor.expect("AS")
    cursor.expect("USER")
    user = cursor.string("the user, in quotes")
    if not user:
        raise InvalidRequest("EXECUTE AS USER names nobody.", remedy="give the user's name.")
    bracket = cursor.peek() == "(" and cursor.peek(1) not in _QUERIES
    if bracket:
        cursor.take("(")
    if cursor.peek() == "EXECUTE":  # before it is read: a text has room for thousands of them
        raise InvalidRequest(
            "EXECUTE AS USER can't be in another one.", remedy="name one user for the statement."
        )
    action = _action(cursor)
    if bracket:
        cursor.expect(")")
    return ExecuteAs(user, action)


def _subscribe(cursor: Cursor) -> Action:
    cursor.expect("TO")
    table = table_name(cursor)
    where = cursor.until("OPTIONS") if cursor.take("WHERE") else None
    options: dict[str, Any] = {}
    if cursor.take("OPTIONS"):
        cursor.expect("(")
        while not cursor.take(")"):
            name = cursor.name("an option").lower()
            cursor.expect("=")
            value = literal(cursor)
            if isinstance(value, Nothing | Given | AsDeclared) or name in options:
                cursor.refuse(f"one constant for the option {name}")
            options[name] = value
            if not cursor.take(",") and cursor.peek() != ")":
                cursor.refuse(", or )")
    return Subscribe(table, where, options)


_STATEMENTS: Mapping[str, Callable[[Cursor], Action]] = MappingProxyType(
    {
        "CREATE": definitions.create,
        "ALTER": definitions.alter,
        "DROP": definitions.drop,
        "INSERT": mutations.insert,
        "UPDATE": mutations.update,
        "DELETE": mutations.delete,
        "DESCRIBE": _describe,
        "DESC": _describe,
        "SHOW": _show,
        "STORAGE": _storage,
        "KILL": _kill,
        "EXECUTE": _execute,
        "SUBSCRIBE": _subscribe,
    }
)
