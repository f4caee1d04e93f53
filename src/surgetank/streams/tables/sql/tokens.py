"""The words of a statement, as sqlglot finds them in DuckDB's SQL, read one after the other. Pure.

Text is never searched for words: a word in a literal, a comment or a quoted name is none.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from typing import TYPE_CHECKING, NoReturn

from surgetank.exceptions import InvalidRequest, QuotaExceeded

if TYPE_CHECKING:
    from sqlglot import Token, Tokenizer

MOST_TEXT = 256 * 1024  # characters of all statements of a text
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_TEXTS = frozenset({"STRING", "HEREDOC_STRING"})
_NO_NAMES = frozenset({"NUMBER", "STRING", "HEREDOC_STRING", "BYTE_STRING", "NATIONAL_STRING"})
_PARAMETER = re.compile(r"\$\w+(?=[^\w$\s])")


class Unexpected(InvalidRequest):
    """Something else is expected at this `position` of the text, in characters."""

    def __init__(self, what: str, position: int) -> None:
        super().__init__(what, remedy="see the reference of SQL for the statements there are.")
        self.position = position


@dataclass(frozen=True, slots=True)
class Word:
    """One token: what it is, its text (of a literal or a name without its quotes), and where it
    stands."""

    kind: str
    text: str
    start: int
    end: int
    line: int

    @property
    def is_mark(self) -> bool:
        """Whether it stands for the next parameter."""
        return self.kind == "PLACEHOLDER" and self.text == "?"

    @property
    def is_end(self) -> bool:
        """Whether it ends a statement."""
        return self.kind == "SEMICOLON"


@cache
def _tokenizer() -> type[Tokenizer]:
    from sqlglot.dialects.duckdb import DuckDB  # noqa: PLC0415 - an extra

    class Plain(DuckDB.Tokenizer):
        COMMANDS = set()  # noqa: RUF012 - no word ends the tokens

    return Plain


def words_of(text: str) -> list[Word]:
    """All tokens of a text. Raises `InvalidRequest`, `QuotaExceeded`."""
    from sqlglot.errors import SqlglotError  # noqa: PLC0415 - an extra

    if len(text) > MOST_TEXT:
        raise QuotaExceeded(
            f"A text of SQL may have {MOST_TEXT >> 10} KB, and this one has {len(text) >> 10}.",
            remedy="send fewer statements at once, and many rows by an insert of rows.",
        )
    # To sqlglot the text $1,$2 begins with the quote $1,$ unless there is a space in it.
    added = [found.end() for found in _PARAMETER.finditer(text)]
    spaced = _PARAMETER.sub(r"\g<0> ", text)
    try:
        tokens = _tokenizer()().tokenize(spaced)
    except (SqlglotError, RecursionError) as error:
        raise InvalidRequest(
            "The SQL can't be read: a quote or a comment has no end.",
            remedy="close it.",
        ) from error
    return list(_as_written(tokens, text, [at + number for number, at in enumerate(added)]))


def _as_written(tokens: Sequence[Token], text: str, spaces: Sequence[int]) -> Iterator[Word]:
    """The tokens, without the spaces that were added at these positions."""
    for token in tokens:
        before, until = bisect_left(spaces, token.start), bisect_left(spaces, token.end)
        kind, start, end = str(token.token_type.name), token.start - before, token.end + 1 - until
        plain = token.text if before == until else _unquoted(kind, text[start:end])
        yield Word(kind, plain, start, end, token.line)


def _unquoted(kind: str, written: str) -> str:
    if kind == "HEREDOC_STRING":
        tag = written.index("$", 1) + 1
        return written[tag:-tag]
    quote = written[:1]
    return written[1:-1].replace(quote * 2, quote) if quote in "'\"" else written


class ParameterForm:
    """How the parameters of a text are written. One set of values is given for all of it, so `?`,
    which count over all of it, are not beside numbers or names: DuckDB would give `?` and `$1` the same
    value. Numbers and names are not in one statement."""

    def __init__(self) -> None:
        self._of_text = ""

    def names(self, tokens: Sequence[Word], numbers: Sequence[int]) -> frozenset[str]:
        """The names of a statement's parameters; `numbers` are those of its `?`. Raises `Unexpected`
        where they are written in ways that don't go together."""
        names, of_statement = {str(number) for number in numbers}, ""
        for token, following in zip_longest(tokens, tokens[1:]):
            kind, name = (following.kind, following.text) if following is not None else ("", "")
            form = ""
            if token.is_mark:
                if kind == "NUMBER":
                    raise Unexpected("A parameter is ?, or a number behind $.", token.start)
                form = "?"
            elif token.text == "$" and token.kind == "PARAMETER" and kind not in ("", "STRING"):
                form = "$1" if kind == "NUMBER" else "$name"
                names.add(name.casefold())
            if not form:
                continue
            before = of_statement or self._of_text
            if before not in ("", form) and ("?" in (before, form) or of_statement):
                raise Unexpected(
                    f"A parameter is written as {form} here, and one before as {before}: these are not"
                    " written together.",
                    token.start,
                )
            of_statement = self._of_text = form
        return frozenset(names)


class Cursor:
    """The tokens of one statement, and how far they were read."""

    def __init__(self, text: str, tokens: Sequence[Word], numbers: Sequence[int] = ()) -> None:
        self._text, self._tokens = text, tokens
        self._at = 0
        marks = (index for index, each in enumerate(tokens) if each.is_mark)
        self._marks = dict(zip(marks, numbers, strict=False))

    @property
    def at_end(self) -> bool:
        """Whether all was read."""
        return self._at >= len(self._tokens)

    def peek(self, ahead: int = 0) -> str:
        """The word that comes next, in capitals; empty at the end, and for a literal or a name in
        quotes."""
        token = self._token(ahead)
        if token is None or token.kind in _NO_NAMES or token.kind == "IDENTIFIER":
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
        if token is None or token.kind in _NO_NAMES:
            self.refuse(what)
        if token.kind != "IDENTIFIER" and not token.text.replace("_", "a").isalnum():
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
        if token is None or token.kind not in _TEXTS:
            return None
        self._at += 1
        return token.text

    def maybe_number(self) -> str | None:
        """Read a number without a sign, if that comes next."""
        token = self._token()
        if token is not None and token.kind == "NUMBER":
            self._at += 1
            return token.text
        following = self._token(1)
        if (
            self.peek() == "."
            and following is not None
            and following.kind == "NUMBER"
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
        if self.peek() == "$" and following is not None and following.kind != "STRING":
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
        """Raises `Unexpected`: something else comes next."""
        token = self._token()
        if token is None:
            end = self._tokens[-1].end if self._tokens else 0
            raise Unexpected(f"Where {wanted} is expected, there is the end.", end)
        found = f"{self._source(token)[:60]!r} (line {token.line})"
        raise Unexpected(f"Where {wanted} is expected, there is {found}.", token.start)

    def _is_distinct_from(self) -> bool:
        return self.peek() == "FROM" and self._at > 0 and self.peek(-1) == "DISTINCT"

    def _token(self, ahead: int = 0) -> Word | None:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else None

    def _source(self, token: Word) -> str:
        return self._text[token.start : token.end]

    def between(self, start: int, end: int) -> str:
        """What was written between two positions, with `$1` for `?`."""
        if start >= end:
            return ""
        pieces, at = [], self._tokens[start].start
        for index in range(start, end):
            if index in self._marks:
                pieces += [self._text[at : self._tokens[index].start], f"${self._marks[index]}"]
                at = self._tokens[index].end
        pieces.append(self._text[at : self._tokens[end - 1].end])
        return "".join(pieces).strip()
