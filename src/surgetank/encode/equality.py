"""Where two values differ, if they do: equal means equal in value and in type, and NaN is equal to
NaN. Pure.

Python's `==` says that `(1,)` differs from `[1]` but `1 == 1.0 == True`, and that NaN differs from
itself: what was stored and read back has to be compared more strictly, and more sensibly.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any

import ormsgpack

_SCALARS = (str, int, float, bytes)
_PLAIN = (str, bytes, int, bool, type(None), set, frozenset)


def difference(
    expected: Any, found: Any, path: str = "$", *, json_like: bool = False, by_meaning: bool = False
) -> str | None:
    """The first place where the values differ, in words; None when they are the same.

    `json_like` takes a tuple and a list for the same, as JSON does (checkpoint metadata in
    LangGraph's own savers); `by_meaning` a plain text or number for one of a class of its own.

    >>> difference({"a": (1, float("nan"))}, {"a": (1, float("nan"))})
    >>> difference({"a": (1, 2)}, {"a": [1, 2]})
    '$.a: list instead of tuple'
    """
    if json_like and isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)):
        return _items(expected, found, path, json_like=True, by_meaning=by_meaning)
    if by_meaning and type(expected) is not type(found):
        expected = plain(expected, type(found))
    if type(expected) is not type(found):
        return f"{path}: {type(found).__name__} instead of {type(expected).__name__}"
    if isinstance(expected, Mapping):
        return _mapping(expected, found, path, json_like=json_like, by_meaning=by_meaning)
    if isinstance(expected, _PLAIN):
        return None if expected == found else _other(path, expected, found)
    if isinstance(expected, Sequence) and not isinstance(
        expected, (str, bytes, bytearray, memoryview)
    ):
        if getattr(expected, "maxlen", None) != getattr(found, "maxlen", None):
            return _other(path, expected, found)
        return _items(expected, found, path, json_like=json_like, by_meaning=by_meaning)
    return _object(expected, found, path, by_meaning=by_meaning)


def plain(value: Any, kind: type) -> Any:
    """The value as the built-in type `kind`, if that is all it is; else the value."""
    if type(value) is collections.OrderedDict and kind is dict:
        return dict(value)
    if kind not in _SCALARS or not isinstance(value, kind) or isinstance(value, bool):
        return value
    if getattr(value, "__dict__", None) and not isinstance(value, enum.Enum):
        return value  # it has more than its content
    if isinstance(value, bytes):
        return bytes(value)
    base: Any = kind
    made = base.__getnewargs__(value)[0]
    return made if type(made) is kind else value


def _mapping(
    expected: Mapping[Any, Any],
    found: Mapping[Any, Any],
    path: str,
    *,
    json_like: bool,
    by_meaning: bool,
) -> str | None:
    keys = {_key(k): k for k in found}
    for original, value in expected.items():
        at, key = f"{path}.{original}", original
        if by_meaning and _key(key) not in keys:
            key = next(
                (plain(key, kind) for kind in _SCALARS if _key(plain(key, kind)) in keys), key
            )
        if _key(key) not in keys:
            return f"{at}: missing"
        if (
            found_difference := difference(
                value, found[keys.pop(_key(key))], at, json_like=json_like, by_meaning=by_meaning
            )
        ) is not None:
            return found_difference
    return f"{path}.{next(iter(keys.values()))}: was not there before" if keys else None


def _key(key: Any) -> tuple[type, Any]:
    return type(key), repr(key) if isinstance(key, float) else key


def _items(
    expected: Sequence[Any], found: Sequence[Any], path: str, *, json_like: bool, by_meaning: bool
) -> str | None:
    if len(expected) != len(found):
        return f"{path}: {len(found)} items instead of {len(expected)}"
    for index, (a, b) in enumerate(zip(expected, found, strict=True)):
        if (
            found_difference := difference(
                a, b, f"{path}[{index}]", json_like=json_like, by_meaning=by_meaning
            )
        ) is not None:
            return found_difference
    return None


def _object(expected: Any, found: Any, path: str, *, by_meaning: bool) -> str | None:
    if isinstance(expected, ormsgpack.Ext):
        same = ormsgpack.packb(expected) == ormsgpack.packb(found)
    elif hasattr(expected, "dtype"):  # NumPy's arrays and scalars
        if expected.dtype != found.dtype or expected.shape != found.shape:
            return f"{path}: {found.dtype}{found.shape} instead of {expected.dtype}{expected.shape}"
        return difference(expected.tolist(), found.tolist(), path, by_meaning=by_meaning)
    elif hasattr(
        expected, "model_fields_set"
    ):  # pydantic, whose equality doesn't ask which fields were set
        found_difference = difference(
            expected.__dict__, found.__dict__, path, by_meaning=by_meaning
        )
        return found_difference or difference(
            _extra(expected), _extra(found), path, by_meaning=by_meaning
        )
    elif dataclasses.is_dataclass(expected):
        names = [f.name for f in dataclasses.fields(expected)]
        return difference(
            {n: getattr(expected, n) for n in names},
            {n: getattr(found, n) for n in names},
            path,
            by_meaning=by_meaning,
        )
    else:
        same = repr(expected) == repr(found) and (expected == found or expected != expected)  # noqa: PLR0124 - NaN
        if not same and isinstance(expected, (float, complex)):
            same = repr(expected) == repr(found)
    return None if same else _other(path, expected, found)


def _extra(model: Any) -> Any:
    return getattr(model, "__pydantic_extra__", None), getattr(model, "__pydantic_private__", None)


def _other(path: str, expected: Any, found: Any) -> str:
    # What the values are is shown by their places only: they may be secret.
    return f"{path}: another {type(found).__name__} than the {type(expected).__name__} that was expected"
