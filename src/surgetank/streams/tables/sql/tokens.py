"""The words of a statement, as sqlglot finds them in DuckDB's SQL, read one after the other. Pure.

Text is never searched for words: a word in a literal, a comment or a quoted name is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from surgetank.exceptions import InvalidRequest, QuotaExceeded

if TYPE_CHECKING:
    from sqlglot import Token

MOST_TEXT = 256 * 1024  # characters of all statements of a text
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_TEXTS = frozenset({"STRING", "HEREDOC_STRING"})
_NO_NAMES = frozenset({"NUMBER", "STRING", "HEREDOC_STRING", "BYTE_STRING", "NATIONAL_STRING"})


def tokens_of(text: str) -> list[Token]:
    """All tokens of a text. Raises `InvalidRequest`, `QuotaExceeded`."""
    from sqlglot.dialects.duckdb import DuckDB  # noqa: PLC0415 - an extra
    from sqlglot.errors import SqlglotError  # noqa: PLC0415

    class Plain(DuckDB.Tokenizer):
        COMMANDS = set()  # noqa: RUF012 - no word ends the tokens

    if len(text) > MOST_TEXT:
        raise QuotaExceeded(
            f"A text of SQL may have {MOST_TEXT >> 10} KB, and this one has {len(text) >> 10}.",
            remedy="send fewer statements at once, and many rows by an insert of rows.",
        )
    try:
        return list(Plain().tokenize(text))
    except (SqlglotError, RecursionError) as error:
        raise InvalidRequest(
            "The SQL can't be read: a quote or a comment has no end.",
            remedy="close it.",
        ) from error


class Cursor:
    """The tokens of one statement, and how far they were read."""

    def __init__(self, text: str, tokens: Sequence[Token], numbers: Sequence[int] = ()) -> None:
        self._text, self._tokens = text, tokens
        self._at = 0
        marks = (index for index, each in enumerate(tokens) if is_mark(each))
        self._marks = dict(zip(marks, numbers, strict=False))

    @property
    def at_end(self) -> bool:
        """Whether all was read."""
        return self._at >= len(self._tokens)

    def peek(self, ahead: int = 0) -> str:
        """The word that comes next, in capitals; empty at the end, and for a literal or a name in
        quotes."""
        token = self._token(ahead)
        if token is None or _kind(token) in _NO_NAMES or _kind(token) == "IDENTIFIER":
            return ""
        return " ".join(token.text.upper().split())

    def take(self, *words: str) -> bool:
        """Read these words, if all of them come next. sqlglot has some pairs as one token."""
        at = self._at
        wanted = list(words)
        while wanted:
            found = self.peek(at - self._at).split()
            if not found or found != wanted[: len(found)]:
                return False
            wanted, at = wanted[len(found) :], at + 1
        self._at = at
        return True

    def expect(self, *words: str) -> None:
        """Read these words. Raises `InvalidRequest`."""
        if not self.take(*words):
            self.refuse(" ".join(words))

    def name(self, what: str = "a name") -> str:
        """Read a name, in quotes or not."""
        token = self._token()
        if token is None or _kind(token) in _NO_NAMES:
            self.refuse(what)
        if _kind(token) != "IDENTIFIER" and not token.text.replace("_", "a").isalnum():
            self.refuse(what)
        self._at += 1
        return token.text

    def string(self, what: str = "a text in quotes") -> str:
        """Read a literal text."""
        found = self.maybe_string()
        if found is None:
            self.refuse(what)
        return found

    def maybe_string(self) -> str | None:
        """Read a literal text, if that comes next."""
        token = self._token()
        if token is None or _kind(token) not in _TEXTS:
            return None
        self._at += 1
        return token.text

    def maybe_number(self) -> str | None:
        """Read a number without a sign, if that comes next."""
        token = self._token()
        if token is not None and _kind(token) == "NUMBER":
            self._at += 1
            return token.text
        following = self._token(1)
        if (
            self.peek() == "."
            and following is not None
            and _kind(following) == "NUMBER"
            and following.text.isdecimal()
        ):
            self._at += 2
            return f"0.{following.text}"
        return None

    def maybe_parameter(self) -> str | None:
        """Read `?`, `$1` or `$name`, if that comes next: the name of the parameter."""
        if self._at in self._marks:
            self._at += 1
            return str(self._marks[self._at - 1])
        following = self._token(1)
        if self.peek() == "$" and following is not None and _kind(following) != "STRING":
            self._at += 2
            return following.text
        return None

    def until(self, *ends: str) -> str:
        """Read up to one of these words outside of brackets, or the end: the text as it was
        written, with `$1` for `?`."""
        start, depth = self._at, 0
        while not self.at_end:
            word = self.peek()
            if depth == 0 and (word in ends or word in _CLOSING) and not self._is_distinct_from():
                break
            depth += (word in _OPENING) - (word in _CLOSING)
            self._at += 1
        if depth:
            self.refuse("a closing bracket")
        return self.between(start, self._at)

    def rest(self) -> str:
        """Read all that is left, as it was written, with `$1` for `?`."""
        start, self._at = self._at, len(self._tokens)
        return self.between(start, self._at)

    @property
    def position(self) -> int:
        """How far it was read, for `back`."""
        return self._at

    def back(self, position: int) -> None:
        """Read again from there."""
        self._at = position

    def end(self) -> None:
        """Raises `InvalidRequest` if something is left."""
        if not self.at_end:
            self.refuse("the end of the statement")

    def refuse(self, wanted: str) -> NoReturn:
        """Raises `InvalidRequest`: something else comes next."""
        token = self._token()
        found = "the end" if token is None else f"{self._source(token)[:60]!r}"
        raise InvalidRequest(
            f"Where {wanted} is expected, there is {found}"
            + (f" (line {token.line})." if token is not None else "."),
            remedy="see the reference of SQL for the statements there are.",
        )

    def _is_distinct_from(self) -> bool:
        return self.peek() == "FROM" and self._at > 0 and self.peek(-1) == "DISTINCT"

    def _token(self, ahead: int = 0) -> Token | None:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else None

    def _source(self, token: Token) -> str:
        return self._text[token.start : token.end + 1]

    def between(self, start: int, end: int) -> str:
        """What was written between two positions, with `$1` for `?`."""
        if start >= end:
            return ""
        pieces, at = [], self._tokens[start].start
        for index in range(start, end):
            if index in self._marks:
                pieces += [self._text[at : self._tokens[index].start], f"${self._marks[index]}"]
                at = self._tokens[index].end + 1
        pieces.append(self._text[at : self._tokens[end - 1].end + 1])
        return "".join(pieces).strip()


def is_mark(token: Token) -> bool:
    """Whether it stands for the next parameter."""
    return _kind(token) == "PLACEHOLDER" and token.text == "?"


def is_end(token: Token) -> bool:
    """Whether it ends a statement."""
    return _kind(token) == "SEMICOLON"


def _kind(token: Token) -> str:
    return str(token.token_type.name)
