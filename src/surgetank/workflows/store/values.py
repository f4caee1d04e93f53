"""Values as they are kept: exactly, and as a projection that filters can read.

jsonb can't hold a NaN, a NUL, a lone surrogate or a very long number, and forgets the order of
keys. So the value is kept as JSON text in bytes, which is what comes back, and jsonb is only what
filters look at. What JSON text can't give back is refused with its path. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from surgetank.encode import jsontext
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.exceptions import EntryRejected

_SCALARS = (str, int, float, bool, type(None))
_DEPTH = 200
_REMEDY = "put dicts with text as keys, lists, texts, numbers, booleans and None."


def encode(where: str, value: Mapping[str, Any], *, max_bytes: int) -> tuple[bytes, str]:
    """The exact JSON of a value, and its projection. Raises `EntryRejected`.

    A tuple comes back as a list, as JSON has no other sequence.
    """
    if not isinstance(value, Mapping):
        raise _refuse(where, "$", f"a value is a dict, not {type(value).__name__}")
    plain = dict(value)
    _check(where, plain)
    try:
        text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:  # a number of thousands of digits
        raise _refuse(where, "$", str(error) or type(error).__name__) from error
    try:
        exact = text.encode()
    except UnicodeEncodeError:  # half a character: as an escape it is ASCII
        exact = json.dumps(plain, separators=(",", ":")).encode()
    if len(exact) > max_bytes:
        raise EntryRejected(
            partition=where,
            path="$",
            reason=f"the value has {len(exact):,} bytes of JSON, the limit is {max_bytes:,}",
            remedy="store it in pieces, or raise SURGETANK_STORE_MAX_BYTES.",
        )
    return exact, dumps_jsonb(plain)[0].decode()


def decode(exact: bytes) -> dict[str, Any]:
    """The value again."""
    try:
        value: dict[str, Any] = jsontext.loads(exact)
    except ValueError:  # NaN, half a character: only the standard library reads what it wrote
        value = json.loads(exact)
    return value


def _check(where: str, plain: dict[Any, Any]) -> None:
    """Refuse what JSON would silently turn into something else."""
    waiting: list[tuple[Any, str, int]] = [(plain, "$", 0)]
    while waiting:
        value, path, depth = waiting.pop()
        if depth > _DEPTH:
            raise _refuse(where, path[:80], f"it is nested deeper than {_DEPTH}, or holds itself")
        if isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str):
                    raise _refuse(where, path, f"the key {key!r} is {type(key).__name__}, not text")
                if type(item) not in _SCALARS:
                    waiting.append((item, f"{path}.{key}", depth + 1))
        elif isinstance(value, list | tuple):
            waiting += [
                (item, f"{path}[{at}]", depth + 1)
                for at, item in enumerate(value)
                if type(item) not in _SCALARS
            ]
        elif not isinstance(value, _SCALARS):
            raise _refuse(where, path, f"JSON has nothing like {type(value).__name__}")


def _refuse(where: str, path: str, reason: str) -> EntryRejected:
    return EntryRejected(partition=where, path=path, reason=reason, remedy=_REMEDY)
