"""What somebody changed, for people: where, what was there, what is there now. Of texts the words that
differ. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from surgetank.console.forms import shown_json

_WORDS = re.compile(r"\s+|\w+(?:[.,]\d+)*|[^\w\s]")
_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_MOST_TOKENS = 1500
_CONTEXT = 80
_ALIKE = 0.3


@dataclass(frozen=True, slots=True)
class Change:
    """One place that differs. `pieces` are its text in order: each `same`, `out` or `in`."""

    where: str
    pieces: tuple[tuple[str, str], ...]


def changes_of(
    difference: Iterable[Mapping[str, Any]], names: Sequence[str] = ()
) -> tuple[Change, ...]:
    """Out of a difference by JSON pointer; `names` are those of the numbered parts that the first
    step of a pointer is among."""
    return tuple(
        Change(_where(str(each.get("path", "")), names), _pieces(each)) for each in difference
    )


def _where(path: str, names: Sequence[str]) -> str:
    steps = [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]
    if names and steps and steps[0].isdecimal() and int(steps[0]) < len(names):
        steps[0] = names[int(steps[0])]
    return " / ".join(steps) or "All of it"


def _pieces(each: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    before, after = each.get("before"), each.get("value")
    op = each.get("op")
    if op == "add":
        return (("in", _text(after)),)
    if op == "remove":
        return (("out", _text(before)),)
    if isinstance(before, str) and isinstance(after, str):
        return tuple(_shortened(words(before, after)))
    return (("out", _text(before)), ("same", " "), ("in", _text(after)))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value or "an empty text"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return shown_json(value)


def words(before: str, after: str) -> list[tuple[str, str]]:
    """Two texts as one, with the words (of long ones the lines) that only one has. Texts that have
    little in common are given as they are."""
    for tokens in (_WORDS, _LINES):
        old, new = tokens.findall(before), tokens.findall(after)
        if max(len(old), len(new)) <= _MOST_TOKENS:
            break
    else:
        return [("out", before), ("in", after)]
    found = SequenceMatcher(None, old, new, autojunk=False)
    if found.ratio() < _ALIKE:
        return [(kind, text) for kind, text in (("out", before), ("in", after)) if text]
    made: list[tuple[str, str]] = []
    for _, a, b, c, d in found.get_opcodes():
        if old[a:b] == new[c:d]:
            made.append(("same", "".join(old[a:b])))
            continue
        made += [
            (kind, "".join(tokens_of))
            for kind, tokens_of in (("out", old[a:b]), ("in", new[c:d]))
            if tokens_of
        ]
    return made


def _shortened(pieces: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Without the middle of what is long and the same."""
    for number, (kind, text) in enumerate(pieces):
        if kind != "same" or len(text) <= 2 * _CONTEXT:
            yield kind, text
            continue
        head = text[:_CONTEXT] if number else ""
        tail = text[-_CONTEXT:] if number < len(pieces) - 1 else ""
        yield kind, f"{head} … {tail}"
