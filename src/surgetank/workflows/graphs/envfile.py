"""The form of an `.env` file: `export KEY=value`, quotes, comments, `${NAME}`. Pure.

Values are secrets: what can't be read is named by its line, never by its text."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Mapping

_ENTRY = re.compile(
    r"""[ \t]*(?:export[ \t]+)?(?P<key>[A-Za-z_][\w.-]*)[ \t]*=[ \t]*
    (?: '(?P<single>[^']*)'[ \t]*(?:\#[^\n]*)?$
      | "(?P<double>(?:\\.|[^"\\])*)"[ \t]*(?:\#[^\n]*)?$
      | (?P<bare>[^\n]*)$ )""",
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_NOTHING = re.compile(r"[ \t]*(?:#[^\n]*)?$", re.MULTILINE)
_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.-]*)(?::-([^}]*))?\}")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}


def parse(text: str, environment: Mapping[str, str]) -> tuple[dict[str, str], list[int]]:
    """The values of an `.env` file, and the numbers of the lines that say none.

    `${NAME}` and `${NAME:-default}` are replaced by a value that stands above or by one of
    `environment`, but not in single quotes. A quoted value may have several lines.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    values: dict[str, str] = {}
    unread: list[int] = []
    known = ChainMap(values, dict(environment))
    at, line = 0, 1
    while at < len(text):
        found = _ENTRY.match(text, at)
        value = _value(found, known) if found is not None else None
        if found is not None and value is not None:
            values[found["key"]] = value
            end = found.end()
        else:
            if _NOTHING.match(text, at) is None:
                unread.append(line)
            end = text.find("\n", at)
            end = len(text) if end < 0 else end
        line += text.count("\n", at, end) + 1
        at = end + 1
    return values, unread


def _value(found: re.Match[str], known: Mapping[str, str]) -> str | None:
    def referred(reference: re.Match[str]) -> str:
        return known.get(reference[1]) or reference[2] or ""

    if found["single"] is not None:
        return found["single"]
    if found["double"] is not None:
        plain = re.sub(r"\\(.)", _unescaped, found["double"], flags=re.DOTALL)
        return _REFERENCE.sub(referred, plain)
    bare = re.split(r"(?:^|[ \t])#", found["bare"], maxsplit=1)[0].strip()
    if bare[:1] in ("'", '"'):
        return None  # a quote that never closes, or text behind it
    return _REFERENCE.sub(referred, bare)


def _unescaped(escape: re.Match[str]) -> str:
    # Of other characters the backslash stays: a Windows path in quotes is not broken.
    kept = escape[1] if escape[1] in '"\\$' else escape[0]
    return _ESCAPED.get(escape[1], kept)
