"""Turning single Python values into what JSON has: the table behind `sanitize`. Pure.

`convert` answers with a finished leaf or with a container to be opened. Whatever a hostile object
does when it is looked at (its `__repr__`, `__iter__`, `model_dump` may raise) ends in a marker
text, never in an exception.
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
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from itertools import islice
from pathlib import PurePath
from typing import Any

MAX_DEPTH = 200  # PostgreSQL's jsonb parser and orjson both carry this; deeper nesting is replaced
MAX_STRING = (1 << 28) - 1  # bytes in a jsonb string (PostgreSQL, JENTRY_OFFLENMASK)
MAX_BYTES = 256 * 1024  # longer byte strings are shown by their length
MAX_ARRAY = 1_000_000
_INT_BITS = 14_000  # Python refuses to print integers of more than 4300 digits, or fewer if the program says so
_BAD_TEXT = re.compile("[\x00\ud800-\udfff]")
_REPR = 200
_CLASS_NAME: Any = type.__dict__["__name__"]

Note = Callable[[str, str], None]  # reason, original


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """A container to be walked: pairs of key and value, and whether it becomes an object or an
    array."""

    items: Iterable[tuple[Any, Any]]
    is_object: bool
    identity: int


def hostile(error: BaseException) -> BaseException:
    """An error that an object raised when it was looked at: to be shown, SystemExit too. Ctrl-C is
    raised again."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    return error


def show(value: Any) -> str:
    """The first 200 characters of `repr(value)`, without anything that JSON or a log could stumble
    over. Never raises.

    A large container is not written as a whole to be cut: its `repr` may not fit into memory.
    """
    try:
        text = ""
        for piece in _pieces(value, 0):
            text += piece
            if len(text) >= _REPR:
                break
    except BaseException as raised:  # noqa: BLE001 - a hostile __repr__ is shown by what it raised
        error = hostile(raised)
        text = f"<{name_of(value)} whose repr raises {name_of(error)}>"
    return _BAD_TEXT.sub("\ufffd", text[:_REPR])


_BRACKETS: dict[type[Any], tuple[str, str]] = {
    list: ("[", "]"), tuple: ("(", ")"), set: ("{", "}"), dict: ("{", "}"),
}  # fmt: skip
_SHOWN_DEPTH = 20


def _pieces(value: Any, depth: int) -> Iterator[str]:
    """The `repr` of a value in pieces, of which as many are made as are asked for."""
    kind = type(value)
    if kind is int and _too_long(value):
        yield f"<int of {value.bit_length()} bits>"
    elif kind in (str, bytes) and len(value) > _REPR:
        yield repr(value[:_REPR])
    elif kind not in _BRACKETS or (kind is set and not value):
        yield repr(value)
    elif depth > _SHOWN_DEPTH:
        yield "..."
    else:
        opening, closing = _BRACKETS[kind]
        yield opening
        for number, item in enumerate(value):
            if number:
                yield ", "
            yield from _pieces(item, depth + 1)
            if kind is dict:
                yield ": "
                yield from _pieces(value[item], depth + 1)
        yield "," * (kind is tuple and len(value) == 1) + closing


def name_of(value: Any) -> str:
    """The name of a value's class, whatever its metaclass makes of `__name__`."""
    return str(_CLASS_NAME.__get__(type(value)))


def _too_long(value: int) -> bool:
    bits = value.bit_length()
    if bits <= 2000:  # 640 digits, the lowest limit that can be set
        return False
    digits = sys.get_int_max_str_digits()
    return bits > (min(_INT_BITS, int(digits * 3.32)) if digits else _INT_BITS)


def text_of(value: str, note: Note) -> str:
    """The text without NUL and lone surrogates (each becomes U+FFFD), at most as long as jsonb
    takes."""
    exact = value if type(value) is str else str.__str__(value)
    if _BAD_TEXT.search(exact):
        note("NUL or lone surrogate in text", show(exact))
        exact = _BAD_TEXT.sub("�", exact)
    if len(exact) > MAX_STRING // 4 and len(exact.encode()) > MAX_STRING:
        note(f"text longer than {MAX_STRING} bytes", show(exact))
        exact = exact[: MAX_STRING // 4]
    return exact


def key_of(key: Any, note: Note) -> str:
    """The text that stands for a key of any type. Never raises."""
    try:
        return _key_of(key, note)
    except BaseException as raised:  # noqa: BLE001 - a hostile key is shown as far as it can be
        error = hostile(raised)
        note(f"the key raises {name_of(error)} when it is looked at", show(key))
        return show(key)


def _key_of(key: Any, note: Note) -> str:
    if isinstance(key, enum.Enum):
        return _key_of(key.value, note)
    if isinstance(key, str):
        return text_of(key, note)
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, float):
        exact = float.__float__(key)
        if not math.isfinite(exact):
            note("key is not a finite number", show(exact))
        return show(exact)
    if isinstance(key, int):
        return show(int.__int__(key))
    if isinstance(key, (uuid.UUID, PurePath, decimal.Decimal)):
        return text_of(str(key), note)
    if isinstance(key, (dt.date, dt.time)):
        return text_of(key.isoformat(), note)
    numpy = sys.modules.get("numpy")
    if (
        numpy is not None
        and isinstance(key, numpy.generic)
        and key.shape == ()
        and key.dtype.kind in "biuf"
    ):
        return _key_of(key.item(), note)
    return show(key)


def convert(value: Any, note: Note) -> Any:
    """A leaf that JSON carries, or `Opened`. `note` is told of what had to be replaced."""
    try:
        return _convert(value, note)
    except BaseException as raised:  # noqa: BLE001 - whatever the object raises becomes part of its marker
        error = hostile(raised)
        note(f"it raises {name_of(error)} when it is looked at", show(value))
        return f"<{name_of(value)}>"


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
    if not _too_long(value):
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
        return text_of(str(value), note)
    if value == value.to_integral_value():
        return _integer(int(value), note)
    near = float(value)
    return (
        near
        if math.isfinite(near) and decimal.Decimal(repr(near)) == value
        else text_of(str(value), note)
    )


def _bytes(value: bytes | bytearray | memoryview, note: Note) -> Any:
    raw = bytes(value)
    if len(raw) > MAX_BYTES:
        note("byte string too long to be shown", f"<{len(raw)} bytes>")
        return f"<{len(raw)} bytes>"
    return Opened([("$bytes", base64.b64encode(raw).decode())], is_object=True, identity=id(value))


def _set(value: Set[Any], _: Note) -> Opened:
    # As the built-in type walks it: a subclass may give back anything, for ever.
    items = list(set.__iter__(value) if isinstance(value, set) else frozenset.__iter__(value))  # type: ignore[arg-type]
    with suppress(TypeError):  # mixed types have no order
        items.sort()
    return Opened(enumerate(items), is_object=False, identity=id(value))


def _sequence(value: Any, _: Note) -> Opened:
    if isinstance(value, tuple) and callable(as_dict := getattr(value, "_asdict", None)):
        fields: Any = as_dict()
        return Opened(list(fields.items()), is_object=True, identity=id(value))
    base = next(b for b in _SEQUENCES if isinstance(value, b))
    return Opened(enumerate(list(base.__iter__(value))), is_object=False, identity=id(value))


def _mapping(value: Mapping[Any, Any], note: Note) -> Opened:
    if isinstance(value, dict):
        base: Any = OrderedDict if isinstance(value, OrderedDict) else dict
        return Opened(list(base.items(value)), is_object=True, identity=id(value))
    # One after the other: all of them at once, level by level, could be more than there is memory
    # for.
    return Opened(
        islice(_bounded(value.items(), note), MAX_ARRAY), is_object=True, identity=id(value)
    )


def _bounded(items: Iterable[tuple[Any, Any]], note: Note) -> Iterator[tuple[Any, Any]]:
    for number, item in enumerate(items):
        if number == MAX_ARRAY - 1:
            note("mapping too large to be shown whole", "")
        yield item


def _delta(value: dt.timedelta, note: Note) -> float | None:
    return _float(float(value.total_seconds()), note)


_SEQUENCES: tuple[Any, ...] = (list, tuple, deque)


_TABLE: list[tuple[Any, Callable[[Any, Note], Any]]] = [
    (Mapping, _mapping),
    (_SEQUENCES, _sequence),
    ((set, frozenset), _set),
    ((bytes, bytearray, memoryview), _bytes),
    (decimal.Decimal, _decimal),
    ((dt.datetime, dt.date, dt.time), lambda value, note: text_of(value.isoformat(), note)),
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
            if isinstance(dumped, dict):
                return Opened(list(dict.items(dumped)), is_object=True, identity=id(value))
            if not hasattr(dumped, "model_dump"):  # a RootModel; a Mock would dump Mocks for ever
                return _convert(dumped, note)
        if type(value).__module__ == "ipaddress":
            return text_of(str(value), note)
    note("a type that JSON doesn't have", show(value))
    return f"<{name_of(value)}> {show(value)}"


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
