"""Turning single Python values into what JSON has: the table behind `sanitize`. Pure.

`convert` answers with a finished leaf or with a container to be opened. Whatever a hostile object does when it is
looked at (its `__repr__`, `__iter__`, `model_dump` may raise) ends in a marker text, never in an exception.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import math
import re
import sys
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import PurePath
from typing import Any

MAX_DEPTH = 200  # PostgreSQL's jsonb parser and orjson both carry this; deeper nesting is replaced
MAX_STRING = (1 << 28) - 1  # bytes in a jsonb string (PostgreSQL, JENTRY_OFFLENMASK)
MAX_BYTES = 256 * 1024  # longer byte strings are shown by their length
MAX_ARRAY = 1_000_000
_INT_BITS = 14_000  # Python refuses to print integers of more than 4300 digits
_BAD_TEXT = re.compile("[\x00\ud800-\udfff]")
_REPR = 200

Note = Callable[[str, str], None]  # reason, original


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """A container to be walked: pairs of key and value, and whether it becomes an object or an array."""

    items: Iterable[tuple[Any, Any]]
    is_object: bool
    identity: int


def show(value: Any) -> str:
    """A bounded `repr` without anything that JSON or a log could stumble over. Never raises."""
    try:
        text = repr(value) if not _huge(value) else f"<int of {value.bit_length()} bits>"
    except Exception as error:  # noqa: BLE001 - a hostile __repr__ is shown by what it raised
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return _BAD_TEXT.sub("�", text[:_REPR])


def _huge(value: Any) -> bool:
    return type(value) is int and value.bit_length() > _INT_BITS


def text_of(value: str, note: Note) -> str:
    """The text without NUL and lone surrogates (each becomes U+FFFD), at most as long as jsonb takes."""
    exact = value if type(value) is str else str.__str__(value)
    if _BAD_TEXT.search(exact):
        note("NUL or lone surrogate in text", show(exact))
        exact = _BAD_TEXT.sub("�", exact)
    if len(exact) > MAX_STRING // 4 and len(exact.encode()) > MAX_STRING:
        note(f"text longer than {MAX_STRING} bytes", show(exact))
        exact = exact[: MAX_STRING // 4]
    return exact


def key_of(key: Any, note: Note) -> str:
    """The text that stands for a key of any type."""
    if isinstance(key, str):
        return text_of(key.value if isinstance(key, enum.Enum) else key, note)
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, enum.Enum):
        return key_of(key.value, note)
    if isinstance(key, float) and not math.isfinite(key):
        note("key is not a finite number", show(key))
        return show(key)
    if isinstance(key, (int, float)):
        return show(key)
    if isinstance(key, (uuid.UUID, PurePath, decimal.Decimal)):
        return text_of(str(key), note)
    if isinstance(key, (dt.date, dt.time)):
        return key.isoformat()
    return show(key)


def convert(value: Any, note: Note) -> Any:
    """A leaf that JSON carries, or `Opened`. `note` is told of what had to be replaced."""
    try:
        return _convert(value, note)
    except Exception as error:  # noqa: BLE001 - whatever the object raises becomes part of its marker
        note(f"it raises {type(error).__name__} when it is looked at", show(value))
        return f"<{type(value).__name__}>"


def _convert(value: Any, note: Note) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if isinstance(value, enum.Enum):
        return _convert(value.value, note)
    if isinstance(value, str):
        return text_of(value, note)
    if isinstance(value, int):
        return _integer(int.__int__(value), note)
    if isinstance(value, float):
        return _float(float.__float__(value), note)
    for accepts, make in _TABLE:
        if isinstance(value, accepts):
            return make(value, note)
    return _by_shape(value, note)


def _integer(value: int, note: Note) -> int | str:
    if value.bit_length() <= _INT_BITS:
        return value
    note("integer too large for JSON", show(value))
    return show(value)


def _float(value: float, note: Note) -> float | None:
    if math.isfinite(value):
        return value
    note("not a finite number", show(value))
    return None


def _decimal(value: decimal.Decimal, note: Note) -> Any:
    if not value.is_finite():
        note("not a finite number", show(value))
        return None
    if abs(value.adjusted()) > 4000:
        note("number beyond the range of jsonb, kept as text", show(value))
        return str(value)
    if value == value.to_integral_value():
        return int(value)
    near = float(value)
    return near if math.isfinite(near) and decimal.Decimal(repr(near)) == value else str(value)


def _bytes(value: bytes | bytearray | memoryview, note: Note) -> Any:
    raw = bytes(value)
    if len(raw) > MAX_BYTES:
        note("byte string too long to be shown", f"<{len(raw)} bytes>")
        return f"<{len(raw)} bytes>"
    return Opened([("$bytes", base64.b64encode(raw).decode())], is_object=True, identity=id(value))


def _set(value: Set[Any], _: Note) -> Opened:
    try:
        items = sorted(value)
    except TypeError:  # mixed types have no order
        items = list(value)
    return Opened(enumerate(items), is_object=False, identity=id(value))


def _sequence(value: Any, _: Note) -> Opened:
    if hasattr(value, "_asdict"):
        return Opened(list(value._asdict().items()), is_object=True, identity=id(value))
    return Opened(enumerate(list(value)), is_object=False, identity=id(value))


def _mapping(value: Mapping[Any, Any], _: Note) -> Opened:
    return Opened(list(value.items()), is_object=True, identity=id(value))


def _delta(value: dt.timedelta, _: Note) -> float:
    return value.total_seconds()


_TABLE: list[tuple[Any, Callable[[Any, Note], Any]]] = [
    (Mapping, _mapping),
    ((list, tuple, deque), _sequence),
    ((set, frozenset), _set),
    ((bytes, bytearray, memoryview), _bytes),
    (decimal.Decimal, _decimal),
    ((dt.datetime, dt.date, dt.time), lambda value, _: value.isoformat()),
    (dt.timedelta, _delta),
    ((uuid.UUID, PurePath), lambda value, note: text_of(str(value), note)),
]


def _by_shape(value: Any, note: Note) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.generic, numpy.ndarray)):
        return _numpy(value, note)
    if not isinstance(value, type):
        if dataclasses.is_dataclass(value):
            fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
            return Opened(fields, is_object=True, identity=id(value))
        if callable(dump := getattr(value, "model_dump", None)):
            dumped: Any = dump()
            return Opened(list(dumped.items()), is_object=True, identity=id(value))
        if type(value).__module__ == "ipaddress":
            return str(value)
    note("a type that JSON doesn't have", show(value))
    return f"<{type(value).__name__}> {show(value)}"


def _numpy(value: Any, note: Note) -> Any:
    if getattr(value, "size", 1) > MAX_ARRAY:
        note("array too large to be shown", f"<array {value.dtype} {value.shape}>")
        return f"<array {value.dtype} {value.shape}>"
    if hasattr(value, "tolist") and getattr(value, "shape", ()) != ():
        return Opened(enumerate(value.tolist()), is_object=False, identity=id(value))
    item = value.item()
    if type(item).__module__ == "numpy":  # longdouble has no Python type of its own
        return _float(float(item), note)
    return _convert(item, note)
