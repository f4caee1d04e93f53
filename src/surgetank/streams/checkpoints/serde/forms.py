"""What msgpack itself would change or refuse in plain lists and dicts: marked before it is encoded,
or named.

Pure; the serializer calls it only when a value is not plain.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import orjson

from surgetank.exceptions import SurgetankError

_INT64 = range(-(1 << 63), 1 << 64)
PLAIN = frozenset((dict, list, str, int, float, bool, bytes, bytearray, memoryview, type(None)))


class ValueRefused(SurgetankError):
    """A value that would not come back as it was put. `path` is relative to the value that was
    given."""

    def __init__(self, path: str, reason: str, remedy: str = "") -> None:
        super().__init__(f"{path or 'the value'}: {reason}.", remedy=remedy)
        self.path = path
        self.reason = reason


# -- forms that msgpack itself would change


class Text(str):
    """Text with lone surrogates, marked so that it is encoded apart."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Pairs:
    pairs: list[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class ByteArray:
    data: bytes


def _plain_key(key: Any) -> bool:
    kind = type(key)
    if kind is str:
        return _encodable(key)
    return key is None or kind in (bool, float, bytes) or (kind is int and key in _INT64)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def wrap(value: Any) -> Any:
    """`value` with its lists and dicts copied and what msgpack would change marked. Other types are
    left alone."""
    kind = type(value)
    if kind is list:
        return [wrap(item) for item in value]
    if kind is dict:
        if all(_plain_key(key) for key in value):
            return {key: wrap(item) for key, item in value.items()}
        return Pairs([[wrap(key), wrap(item)] for key, item in value.items()])
    if kind is str and not _encodable(value):
        return Text(value)
    if kind is bytearray:
        return ByteArray(bytes(value))
    if kind is memoryview:
        raise ValueRefused("", "a memoryview is no value of its own", "store bytes(...) of it")
    return value


def has_mutable_bytes(value: Any) -> bool:
    """Whether a bytearray or memoryview is in the lists and dicts of a value, at the speed of one
    JSON encode."""
    spotted = False

    def spot(item: Any) -> None:
        nonlocal spotted
        spotted = spotted or isinstance(item, (bytearray, memoryview))

    try:
        orjson.dumps(value, default=spot, option=_SPOT)
    except (TypeError, ValueError, RecursionError):
        return True  # text or numbers that JSON doesn't have: the careful way will tell
    return spotted


_SPOT = (
    orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)


# -- finding the place of a refusal


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a value with the step that leads to each."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (
                (f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{_shown(key)}]"),
                item,
            )
    elif isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield f".{field.name}", getattr(value, field.name, None)
    elif isinstance(getattr(type(value), "model_fields", None), dict):
        for name, item in value.__dict__.items():
            yield f".{name}", item


def _shown(key: Any) -> str:
    try:
        return ascii(key)[:80]
    except Exception as error:  # noqa: BLE001 - a hostile __repr__ is shown by what it raised
        return f"<key whose repr raises {type(error).__name__}>"


def reason(value: Any, error: Exception) -> tuple[str, str]:
    """Why a value is refused, and what to do instead."""
    if isinstance(error, ValueRefused):
        return error.reason, error.remedy
    text = str(error)
    if "ecursion" in text:
        return (
            "nested too deeply for msgpack, or a cycle",
            "flatten it, or store ids instead of references",
        )
    return (
        f"{type(value).__name__} can't be serialized ({text})",
        "store a type that the serializer knows",
    )
