"""The one codec of JSON that is kept: what `dumps` writes, `loads` reads, whatever it was made
from. Pure.

orjson is fast but has integers of 64 bits only: it writes no larger one, and reads a larger one as
a float, or not at all from 309 digits on. The standard library has them. So each does what it can
do exactly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

from surgetank.encode.sanitize import dumps_jsonb, encode_clean
from surgetank.model import Replacement

_LONG_NUMBER = re.compile(rb"[0-9]{19}")
_PREVIEW = 200


def dumps(value: Any) -> bytes:
    """JSON of any value, sanitized where it has to be. Never raises."""
    return dumps_jsonb(value)[0]


def dumps_object(value: Mapping[Any, Any]) -> tuple[bytes, tuple[Replacement, ...]]:
    """JSON of a mapping, an object whatever the mapping does when it is looked at, and what was
    replaced in it."""
    text, replaced = dumps_jsonb(value)
    if not text.startswith(b"{"):  # a mapping that raises is shown by a marker
        return b'{"value":' + text + b"}", replaced
    if not replaced:
        return text, ()
    listed = dumps_jsonb([f"{r.path}: {r.reason}" for r in replaced[:20]])[0]
    head = b"{" if text == b"{}" else text[:-1] + b","
    return head + b'"replaced":' + listed + b"}", replaced


def dumps_clean(value: Any) -> bytes:
    """JSON of a value that `sanitize` or `loads` gave: faster than `dumps`, and nothing is
    replaced."""
    return encode_clean(value)


def dumps_exact(value: Any) -> bytes:
    """JSON of a plain value as it is, NUL in texts too: what a caller stored is given back
    unchanged. Sanitized where it can't be written. Never raises."""
    try:
        return encode_clean(value)
    except (TypeError, ValueError, RecursionError):
        return dumps(value)


def loads(data: bytes | str) -> Any:
    """The value that `dumps` was given, as JSON has it. Raises `ValueError` for what is no JSON."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if _LONG_NUMBER.search(raw) is None:
        return orjson.loads(raw)
    return json.loads(raw, parse_int=_integer)


def _integer(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # longer than this interpreter reads (sys.set_int_max_str_digits)
        return text


def preview(data: bytes) -> str:
    """The beginning of bytes that can't be read, as text that everything can show."""
    shown = data[:_PREVIEW].decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
    return text if len(data) <= _PREVIEW else f"{text} ... ({len(data)} bytes)"
